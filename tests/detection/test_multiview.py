import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.detection import MultiView
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.multiview import RATE
from flwr_faa.detection.threshold import largest_z
from flwr_faa.detection.views import (
    View,
    block_views,
    harm_views,
    log_nearest,
    number_of_chances,
    robust_z,
    update_views,
)
from tests.detection.simulate import CROWD_SHAPES, batch_of, crowd


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6)))
def test_robust_z_is_finite_and_zero_at_the_median(values):
    z = robust_z(values)
    assert np.isfinite(z).all()
    assert np.median(z) == pytest.approx(0, abs=1e-9)


def test_robust_z_by_hand():
    np.testing.assert_allclose(robust_z(np.array([1.0, 2, 3, 4, 10])), np.array([-2, -1, 0, 1, 7]) / 1.4826)
    np.testing.assert_allclose(robust_z(np.array([1.0, 2, 3, 4, 10]), least=3.5), np.array([-2, -1, 0, 1, 7]) / 3.5)
    np.testing.assert_allclose(robust_z(np.array([2.0, 2, 2, 2, 7])), np.array([0, 0, 0, 0, 5]) / 1.2533)
    assert not robust_z(np.full(4, 7.0)).any()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("fill", [0.0, 1.0, None])
def test_defined_for_few_identical_and_zero_updates(n, fill):
    updates = crowd(n) if fill is None else np.full((n, 35), fill, np.float32)
    found = MultiView().detect(batch_of(updates, CROWD_SHAPES))
    assert np.isfinite(found.scores).all() and len(found.evidence) == n
    assert "nan" not in " ".join(found.evidence)
    if fill is not None or n == 1:
        assert not found.scores.any() and found.suspects == ()


@given(hnp.arrays(np.float32, (8, 35), elements=st.floats(-1e8, 1e8, width=32)))
@settings(max_examples=40)
def test_no_update_makes_a_score_nan(updates):
    assert np.isfinite(MultiView().detect(batch_of(updates, CROWD_SHAPES)).scores).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=15)
def test_order_and_ids_change_nothing(seed, n):
    rng = np.random.default_rng(seed)
    updates = crowd(n, seed)
    updates[0] *= 30
    updates[rng.integers(n)] = updates[-1]
    ids = rng.permutation(1000)[:n]
    one, other = batch_of(updates, CROWD_SHAPES), batch_of(updates, CROWD_SHAPES, ids)
    found, again = MultiView().detect(one), MultiView().detect(other)
    rows = np.argsort(ids)  # row r of the other batch is update rows[r]
    assert np.array_equal(found.scores[rows], again.scores)
    assert [found.evidence[r] for r in rows] == list(again.evidence)
    assert [updates[r].tobytes() for r in found.suspects] == [updates[rows[r]].tobytes() for r in again.suspects]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(max_examples=15)
def test_the_scale_of_the_updates_does_not_matter(seed, scale):
    updates = crowd(20, seed, np.float64)
    found, again = (MultiView().detect(batch_of(x, CROWD_SHAPES)) for x in (updates, scale * updates))
    np.testing.assert_allclose(found.scores, again.scores, rtol=1e-6)


def test_neighbour_views_ignore_translation():
    updates = crowd(20, dtype=np.float64)
    for k in (1, 3, 12):
        one, other = (Cloud.of(batch_of(x)) for x in (updates, updates + 5))
        a, b = (c.by_row(log_nearest(c.whole, k, 0.0)) for c in (one, other))
        np.testing.assert_allclose(a, b, atol=1e-9)


def attacks():
    x = crowd(20)
    norm = float(np.linalg.norm(x[0]))
    noise = np.random.default_rng(1).normal(size=(3, 35)).astype(np.float32)
    clones = np.tile(x.mean(axis=0), (3, 1))
    label = x[:3].copy()
    label[:, [20, 21, 22, 23, 32]] += norm  # one label of the classifier only
    return {
        "farther": (x[:3] + 3 * norm * noise, "nearest"),
        "closer": (clones, "nearest neighbour over 1000x closer"),
        "larger": (20 * x[:3], "larger"),
        "smaller": (x[:3] / 1000, "smaller"),
        "lower": (-x[:3], "lower"),
        "label": (label, ""),
    }


@pytest.mark.parametrize("name", list(attacks()))
def test_each_attack_is_seen_and_explained(name):
    rows, words = attacks()[name]
    updates = crowd(20)
    updates[[4, 9, 13]] = rows
    views = update_views(Cloud.of(batch_of(updates, CROWD_SHAPES)))
    found = MultiView().detect(batch_of(updates, CROWD_SHAPES))
    assert set(found.suspects) >= {4, 9, 13}
    assert list(found.suspects) == sorted(found.suspects, key=lambda r: -found.scores[r])
    lines = [v.explain(i) for v in views for i in range(20) if abs(v.z[i]) > 5]
    assert any(words in line for line in lines)
    assert all(f"{abs(found.scores[r]):.1f}" in found.evidence[r] for r in (4, 9, 13))


def test_names_are_unique_and_lines_read_well():
    views = update_views(Cloud.of(batch_of(crowd(20), CROWD_SHAPES)))
    assert len({v.name for v in views}) == len(views) == 20
    view = View("n", np.log([1, 1, 1.1, 0.9, 40]), "update: norm", "smaller", "larger", least=0.1)
    assert view.explain(4) == "update: norm 40x larger than usual (z = 26.1)"
    for factor, told in (
        (9.94, "9.9x larger"), (10.4, "10x larger"), (998, "998x larger"), (5000, "over 1000x larger"),
        (0.5, "2.0x smaller"),
    ):  # fmt: skip
        view = View("n", np.log([1, 1, 1, 1, factor]), "update: norm", "smaller", "larger", least=0.1)
        assert view.explain(4).startswith(f"update: norm {told} than usual")
    view = View("s", np.array([0.5, 0.5, 0.52, 0.1]), ["a", "b", "c", "d"], "lower", "higher", log=False, least=0.03)
    assert view.explain(3) == "d 0.1, lower than the usual 0.5 (z = -13.3)"


def test_slack_only_widens_the_spread():
    cloud = Cloud.of(batch_of(crowd(20), CROWD_SHAPES))
    ways = (block_views(cloud.whole, "update", slack, 0.0) for slack in (1.0, 0.0))
    for loose, tight in zip(*ways, strict=True):
        assert (np.abs(loose.z) <= np.abs(tight.z)).all()


def test_views_can_be_replaced():
    def only_mine(cloud):
        return [View("mine", cloud.whole.norms, "my norm", "less", "more", log=False)]

    updates = crowd(10)
    updates[2] *= 100
    found = MultiView(threshold=3, views=only_mine).detect(batch_of(updates))
    assert found.suspects[0] == 2 and found.evidence[2].startswith("my norm")
    assert repr(MultiView()) == "MultiView()" and repr(MultiView(threshold=5)) == "MultiView(threshold=5)"
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold to be a finite number above 0"):
            MultiView(threshold=wrong)


@pytest.mark.parametrize("n", [3, 5, 6, 20])
def test_without_a_threshold_it_is_that_of_two_false_alarms_in_a_hundred(n):
    """Of six clients where there are fewer."""
    batch = batch_of(crowd(n), CROWD_SHAPES)
    chances = number_of_chances(harm_views(Cloud.of(batch)))
    assert RATE == 0.02 and MultiView().detect(batch).threshold == largest_z(max(n, 6), chances, 0.02)


@pytest.mark.parametrize(("threshold", "suspects"), [(3.0, ()), (2.99, (4,)), (0.5, (4,))])
def test_a_score_at_the_threshold_is_not_above_it(threshold, suspects):
    def one(cloud):
        return [View("one", cloud.by_row(np.zeros(5)) + 3.0 * (cloud.whole.norms > 1), "it", "less", "more", least=1.0)]

    updates = np.zeros((5, 3), np.float32)
    updates[:, 0] = [0.5, 0.6, 0.7, 0.8, 2]
    batch = batch_of(updates)
    found = MultiView(threshold, views=one).detect(batch)
    assert found.suspects == suspects and found.threshold == threshold
    assert found.scores.tolist() == [0, 0, 0, 0, 3]


def test_without_a_threshold_own_views_count_where_they_matter():
    def one(cloud):
        return [View("one", cloud.whole.norms, "it", "less", "more", log=False, matters=(np.inf, 40.0))]

    updates = np.zeros((9, 3))
    updates[:, 0] = np.arange(1, 10)
    for last, suspects in ((44.9, ()), (45.1, (8,))):  # the median is 5
        updates[8, 0] = last
        assert MultiView(views=one).detect(batch_of(updates)).suspects == suspects
