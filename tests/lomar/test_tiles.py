"""Many updates: tile by tile as all at once, in little memory, whatever their order; and what is approximate of it."""

import os
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from flwr_faa.detection import pyod
from flwr_faa.replies import kernels
from flwr_lomar import LoMarDetector, detector, index, tiles
from flwr_lomar.paper.factor import log_density, malicious_factor, relative_bandwidth
from flwr_lomar.robust.views import Sight
from flwr_lomar.tiles import Part, Points, Sample, centre_of, cosine_to, tiled_factor

SHAPES = {  # columns of each label, columns in none
    "logistic regression": ([8] * 5, 0),
    "a deep model": ([4] * 3, 30),
    "one block": ([], 20),
    "wide blocks": ([1500, 1500], 1100),
    "an empty label": ([0, 9], 12),
}
WITH_FAISS = pytest.mark.skipif(find_spec("faiss") is None, reason="needs faiss, of the extra 'large'")


def updates(n, d, seed=0, dtype=np.float32):
    """A crowd that shares a direction, some that are far, some that are equal, and a tight group."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=d) + rng.normal(size=(n, d)) * rng.lognormal(0, 0.2, (n, 1))
    x[:4] *= -8
    x[4:9] = x[4]
    x[9:14] = x[9] + 0.01 * rng.normal(size=(5, d))
    return x.astype(dtype)


def blocks(widths):
    return np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1]) if widths else []


@pytest.fixture
def by_tile(monkeypatch):
    """Fit by many small tiles, the last of them smaller than the others."""

    def fit(x, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(detector, "LARGE", 2)
            patch.setattr(tiles, "TILE", 7 * 4 * len(x) * 6)
            return LoMarDetector(**settings).fit(x)

    return fit


@pytest.mark.parametrize("preset", ["robust", "paper"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("widths", "rest"), SHAPES.values(), ids=SHAPES)
def test_the_answer_is_that_of_all_at_once(by_tile, widths, rest, dtype, preset):
    x, columns = updates(101, sum(widths) + rest, dtype=dtype), blocks(widths)
    once, tiled = LoMarDetector(preset, columns).fit(x), by_tile(x, preset=preset, label_blocks=columns)
    np.testing.assert_array_equal(tiled.labels_, once.labels_)
    assert tiled.threshold_ == once.threshold_
    assert 0 < tiled.labels_.sum() < len(x)
    rtol = 1e-3 if dtype == np.float32 else 1e-6
    np.testing.assert_allclose(tiled.decision_scores_, once.decision_scores_, rtol=rtol, atol=rtol)
    for name in ("log_factor", "log_factor_by_label", "log_density", "bandwidth"):
        np.testing.assert_allclose(getattr(tiled.factor_, name), getattr(once.factor_, name), rtol=rtol, atol=rtol)
    for ours, theirs in zip(tiled.views_, once.views_, strict=True):
        assert ours.name == theirs.name
        np.testing.assert_allclose(ours.values, theirs.values, rtol=rtol, atol=10 * rtol)
    if dtype == np.float64:  # in float32 the k-th neighbour and the next may be as near
        np.testing.assert_array_equal(np.sort(tiled.factor_.neighbours), np.sort(once.factor_.neighbours))


@pytest.mark.parametrize("d", [1, 4])
def test_views_of_hundreds_are_those_of_all_at_once(monkeypatch, d):
    """Among so many, a partition sorts nothing but what it is asked for."""
    x = np.random.default_rng(0).normal(size=(601, d)) + 1
    once = LoMarDetector().fit(x)
    monkeypatch.setattr(detector, "LARGE", 2)
    monkeypatch.setattr(tiles, "TILE", 250 * 4 * 601 * 2)
    tiled = LoMarDetector().fit(x)
    for ours, theirs in zip(tiled.views_, once.views_, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6, atol=1e-6, err_msg=ours.name)


def test_a_zero_is_not_positive(by_tile):
    """Half of the clients learn nothing in some layers, and one has signs unlike all others'."""
    x = np.random.default_rng(0).normal(size=(40, 60))
    x[::2, :40] = 0
    x[7] = np.abs(x[7])
    once, tiled = LoMarDetector().fit(x), by_tile(x)
    np.testing.assert_allclose(tiled.decision_scores_, once.decision_scores_, rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 2**32), n=st.integers(6, 60), rest=st.sampled_from([0, 5]))
@settings(max_examples=20, deadline=None)
def test_rows_in_another_order_give_the_same_bits(seed, n, rest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "LARGE", 2)
        patch.setattr(tiles, "TILE", 5 * 4 * n * 6)
        x, order = updates(max(n, 14), 12 + rest, seed), np.random.default_rng(seed).permutation(max(n, 14))
        one, other = (LoMarDetector(label_blocks=blocks([4] * 3)).fit(matrix) for matrix in (x, x[order]))
    np.testing.assert_array_equal(one.decision_scores_[order], other.decision_scores_)
    assert len(set(one.decision_scores_[4:9])) == 1  # the equal ones


def test_nothing_of_n_times_n_is_kept(monkeypatch):
    n, columns = tiles.LARGE, blocks([5] * 4)
    x = updates(n, 20)
    monkeypatch.setattr(tiles, "TILE", 2**22)
    tracemalloc.start()
    try:
        LoMarDetector(label_blocks=columns).fit(x)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < 4 * n * n * 1.5  # the neighbours are .4 of that, and once again in the order of the updates


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_what_cannot_be_measured_is_refused(by_tile, wrong):
    x = updates(20, 10)
    x[3, 4] = wrong
    with pytest.raises(ValueError, match="expected finite updates"):
        by_tile(x, preset="paper")


def test_rows_are_sorted_by_their_bytes_and_equal_ones_are_the_first():
    """All end in the same number; 1.0 has smaller bytes than -1.0 and larger ones than 0.5 or 0.25."""
    x = np.array([[-1, 7], [1, 7], [0.25, 7], [1, 7], [-1, 7], [0.5, 7]], ">f8").astype(np.float64)
    order, first = tiles._canonical(x)
    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert [x[i].tobytes() for i in order] == sorted(row.tobytes() for row in x)
    for place, row in enumerate(order):
        assert first[place] == min(k for k, i in enumerate(order) if (x[i] == x[row]).all())
    assert tiles._canonical(x[:1])[1].tolist() == [0]


def test_enormous_updates_do_not_drown_the_distances_of_the_others():
    """They are nearly half."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(801, 8)).astype(np.float32) + 5
    x[:400] = 1e5 * rng.normal(size=(400, 8))
    settings = {"k": 2, "kernel": "gaussian", "bandwidth": 3.0, "relative": False}
    ours, alone = tiled_factor(x, **settings), malicious_factor(x[400:].astype(np.float64), **settings)
    assert np.sort(ours.neighbours[400:] - 400).tolist() == np.sort(alone.neighbours).tolist()
    np.testing.assert_allclose(ours.log_density[400:], alone.log_density, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_updates_are_taken_up_to_where_squares_may_overflow(dtype):
    """They are centred by the half nearest to 0, so the squared length of the last is all that counts."""
    x, limit = np.zeros((3, 1), dtype), np.sqrt(float(np.finfo(dtype).max) / 8)
    x[2] = 0.999 * limit
    found = tiled_factor(x, k=1, kernel="gaussian", bandwidth=1.0, relative=True)
    assert np.isfinite(found.log_factor).all() and found.log_factor[2] > 0
    x[2] = 1.001 * limit
    with pytest.raises(ValueError, match="expected finite updates with finite squares"):
        tiled_factor(x, k=1, kernel="gaussian", bandwidth=1.0, relative=True)


def test_the_adapter_trusts_lomar_from_as_many_updates_on_as_it_works_by_tile():
    assert pyod.MANY == tiles.LARGE == detector.LARGE


def test_the_documentation_says_how_many_stand_for_all():
    assert f"Beyond ``tiles.SAMPLE`` ({tiles.SAMPLE:,}) updates" in LoMarDetector.__doc__


class TestPoints:
    @staticmethod
    def of(x, columns=(), rest=(), sample=None):
        order = np.arange(len(x))
        return Points.of(x, order, order, [np.array(c) for c in columns], np.array(rest, int), sample)

    @pytest.mark.parametrize(("room", "heights"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (99, [7]), (0.5, [1] * 7)])
    def test_a_tile_is_no_larger_than_it_may_be(self, monkeypatch, room, heights):
        """Four bytes for each distance: of two labels, of the other columns and of whole updates."""
        monkeypatch.setattr(tiles, "TILE", int(room * 4 * 7 * 4))
        found = list(self.of(np.eye(7)[:, :5], [[0, 1], [2]], [3, 4]).tiles())
        assert [rows.stop - rows.start for rows in found] == heights
        assert [rows.start for rows in found] == [0, *(rows.stop for rows in found[:-1])] and found[-1].stop == 7

    @pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 9])
    def test_inner_products_and_distances_are_those_of_vectors(self, monkeypatch, width):
        """Columns four at a time, each four centred by themselves."""
        monkeypatch.setattr(tiles, "WIDTH", 4)
        x = np.random.default_rng(width).normal(size=(6, 2 + width)) + 1
        others = Sample(np.array([1, 2, 5]), lambda x: None)
        points = self.of(x, [range(1, 1 + width)], [0, 1 + width], others)
        assert (points.x.shape, points.labels, points.others.tolist()) == (x.shape, 1, [1, 2, 5])
        (label, rest), rows = points.parts, slice(2, 6)
        for part, columns in ((label, range(1, 1 + width)), (rest, [0, 1 + width])):
            assert part.width == len(columns)
            inner = points.inner(rows, part.columns)
            np.testing.assert_allclose(inner, points.x[2:, part.columns] @ points.x[[1, 2, 5], part.columns].T)
            expected = ((x[2:, None, columns] - x[None, [1, 2, 5]][:, :, columns]) ** 2).sum(axis=2)
            np.testing.assert_allclose(points.squared(rows, inner, part), expected, atol=1e-12)
            np.testing.assert_allclose(part.squares, (x[:, columns] ** 2).sum(axis=1))
            np.testing.assert_array_equal(part.positive, (x[:, columns] > 0).sum(axis=1))
        both = label + rest
        assert both.columns == slice(0, 2 + width) and both.noise == label.noise + rest.noise
        np.testing.assert_allclose(both.squares, (x**2).sum(axis=1))
        np.testing.assert_allclose(both.centred, (points.x**2).sum(axis=1))
        assert {name: part.width for name, part in points.together.items()} == {
            "update": 2 + width, "classifier": width, "backbone": 2
        }  # fmt: skip

    def test_distances_up_to_the_noise_are_0_and_those_of_equal_updates(self):
        x = np.array([[0.0], [1.0], [2.0], [4.0]])
        points = Points(x, np.array([0, 1, 2, 1]), [], 1, np.arange(4), x)
        part = Part(slice(0, 1), (x**2)[:, 0], (x**2)[:, 0], np.zeros(4), 4.0)
        found = points.squared(slice(0, 4), points.inner(slice(0, 4), part.columns), part)
        assert points.with_clones and found.tolist() == [[0, 0, 0, 16], [0, 0, 0, 0], [0, 0, 0, 0], [16, 0, 0, 0]]
        assert not self.of(x, [[0]]).with_clones

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_noise_is_more_than_what_rounding_does_and_far_less_than_a_distance(self, dtype):
        x = np.random.default_rng(0).normal(size=(50, 900)).astype(dtype)
        points = self.of(x, [range(900)])
        (part,) = points.parts
        found = points.squared(slice(0, 50), points.inner(slice(0, 50), part.columns), part)
        exact = ((points.x[:, None].astype(np.longdouble) - points.x) ** 2).sum(axis=2)
        off = np.abs(found - exact).max()
        assert 0 < off < part.noise < 100 * np.finfo(dtype).eps * np.median(exact)

    def test_one_step_to_the_geometric_median_is_the_mean_and_more_go_on(self):
        x = np.array([[0.0, 3.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        (part,) = self.of(x, [[0, 1]]).parts
        part = Part(part.columns, (x**2).sum(axis=1), (x**2).sum(axis=1), part.positive, 0.0)
        mean, median = centre_of(x, part, steps=1), centre_of(x, part)
        np.testing.assert_allclose(mean.weights, 0.2)
        np.testing.assert_allclose(mean.away, ((x - x.mean(axis=0)) ** 2).sum(axis=1))
        np.testing.assert_allclose([mean.square, mean.inertia], [1.36, 5.2 - 1.36])
        np.testing.assert_allclose(cosine_to(mean, part.squares), [0.6 / 1.36**0.5, 1 / 1.36**0.5, 0, 0, 1 / 1.36**0.5])
        assert np.sqrt(median.away).sum() < 8.01 < np.sqrt(mean.away).sum()  # from the two at 0 it is 3 + 4 + 0 + 0 + 1
        # On a line it is the update in the middle, whose distance rounding must not make negative.
        for seed in range(30):
            points = self.of(np.random.default_rng(seed).normal(size=(9, 1)), [[0]])
            away = centre_of(points.x, points.parts[0]).away
            assert (away >= 0).all() and away.argmin() == np.argsort(points.x[:, 0])[4]
        nothing = Part(part.columns, np.zeros(5), np.zeros(5), np.zeros(5), 0.0)
        none = centre_of(np.zeros((5, 2)), nothing)
        assert not none.away.any() and none.square == 0 and not cosine_to(none, np.zeros(5)).any()


def exact_nearest(x):
    """Mean distances to the 1 and the 3 nearest others."""
    away = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    np.fill_diagonal(away, np.inf)
    away.sort(axis=1)
    return away[:, 0], away[:, :3].mean(axis=1)


#: Of the robust preset, nearly.
SETTINGS = {"k": 0.4, "kernel": "gaussian", "bandwidth": 0.8, "relative": True, "least": 0.05}


class TestSample:
    @pytest.mark.parametrize(("widths", "rest"), [([5, 3], 4), ([], 6)])
    def test_all_updates_as_stand_ins_give_the_exact_answer(self, monkeypatch, widths, rest):
        monkeypatch.setattr(tiles, "TILE", 7 * 4 * 40 * 4)
        x = updates(40, sum(widths) + rest, dtype=np.float64)
        found = []
        for sample in (None, Sample(np.arange(40), exact_nearest)):
            factor = tiled_factor(x, blocks(widths), **SETTINGS, watch=(sight := Sight()), sample=sample)
            found.append((factor, sight.views(factor.log_factor, factor.place)))
        (exact, views), (sampled, theirs) = found
        np.testing.assert_array_equal(sampled.log_factor, exact.log_factor)
        for ours, other in zip(views, theirs, strict=True):
            assert ours.name == other.name
            np.testing.assert_allclose(other.values, ours.values, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("relative", [True, False])
    def test_neighbours_and_densities_are_those_among_the_stand_ins(self, monkeypatch, relative):
        """Eqs. 5-9, where everybody's neighbours are the 4 nearest of ten, and the ten are among the thirty."""
        monkeypatch.setattr(tiles, "TILE", 7 * 4 * 10 * 4)
        x, columns = np.random.default_rng(4).normal(size=(30, 9)), [[0, 1, 2], [3, 4, 5, 6]]
        place = np.array([0, 3, 4, 9, 12, 15, 20, 21, 28, 29])
        order, _ = tiles._canonical(x)
        settings = SETTINGS | {"relative": relative}
        found = tiled_factor(x, columns, **settings, watch=(sight := Sight()), sample=Sample(place, exact_nearest))
        stand_ins = order[place]
        squared = ((x[:, None] - x[stand_ins]) ** 2).sum(axis=2)
        squared[stand_ins, np.arange(10)] = np.inf
        near = stand_ins[np.argsort(squared, axis=1)[:, :4]]
        assert np.sort(found.neighbours).tolist() == np.sort(near).tolist()
        total = np.zeros(30)
        for r, c in enumerate(columns):
            away = ((x[:, None, c] - x[near][:, :, c]) ** 2).sum(axis=2)
            h = relative_bandwidth(away.mean(axis=1), 0.0, "gaussian", 0.8, 0.0) if relative else 0.8
            np.testing.assert_allclose(found.bandwidth[r], h)
            q = np.exp(log_density(away, "gaussian", h))
            np.testing.assert_allclose(found.log_density[:, r], np.log(q))
            np.testing.assert_allclose(found.log_factor_by_label[:, r], np.log(q[near].mean(axis=1) / q))
            total += np.log(q[near].mean(axis=1) / q)
        np.testing.assert_allclose(found.log_factor, total)
        # Of the ten, six are six tenths and five are half; the nearest of all are found by an index.
        away, views = np.sort(np.sqrt(squared), axis=1), {v.name: v for v in sight.views(total, found.place)}
        for name, values in (
            ("reach", np.log(np.maximum(away[:, 4], np.sqrt(np.median((x**2).sum(axis=1)))))),
            ("update, six tenths of all others", np.log(away[:, :6].mean(axis=1))),
            ("update, 3 nearest neighbours, against six tenths of all",
             np.log(exact_nearest(x)[1] / away[:, :6].mean(axis=1))),
            ("update, share of positive entries", (x > 0).mean(axis=1)),
        ):  # fmt: skip
            np.testing.assert_allclose(np.diff(views[name].values), np.diff(values), atol=1e-9, err_msg=name)

    def test_a_relative_bandwidth_is_at_least_a_part_of_the_length(self):
        x = 1e-3 * np.random.default_rng(0).normal(size=(20, 4)) + 1
        found = tiled_factor(x, **SETTINGS)
        np.testing.assert_allclose(found.bandwidth, 0.8 * 0.05 * np.median(np.linalg.norm(x, axis=1)))
        by_default = {name: value for name, value in SETTINGS.items() if name != "least"}
        assert tiled_factor(x, **by_default).bandwidth == tiled_factor(x, **SETTINGS | {"least": 0.0}).bandwidth < 0.01

    def test_a_number_of_neighbours_means_nothing_among_stand_ins(self):
        x, settings = updates(20, 3), SETTINGS | {"k": 5}
        assert tiled_factor(x, **settings).neighbours.shape == (20, 5)
        with pytest.raises(ValueError, match="expected k to be a share where the answer is approximate, got 5 neigh"):
            tiled_factor(x, **settings, sample=Sample(np.arange(20), exact_nearest))

    def test_stand_ins_are_drawn_by_the_seed_in_order_and_none_twice(self, monkeypatch):
        monkeypatch.setattr(tiles, "SAMPLE", 50)
        one, same, other = (Sample.drawn(100, seed) for seed in (1, 1, 2))
        assert len(set(one.rows)) == 50 and (np.diff(one.rows) > 0).all() and one.rows[0] >= 0 and one.rows[-1] < 100
        assert (one.rows == same.rows).all() and (one.rows != other.rows).any()
        assert set(Sample.drawn(50, 7).rows) == set(range(50))
        assert one.nearest.keywords == {"seed": 1}


class TestApproximate:
    @WITH_FAISS
    @pytest.mark.parametrize("attack", ["none", "far", "clones", "group"])
    def test_hardly_a_verdict_differs(self, monkeypatch, attack):
        monkeypatch.setattr(tiles, "SAMPLE", 400)
        monkeypatch.setattr(detector, "SAMPLE", 400)
        rng = np.random.default_rng(1)
        x = (rng.normal(size=100) + rng.normal(size=(1500, 100))).astype(np.float32)
        odd = slice(0, 30)
        x[odd] = {
            "none": x[odd],
            "far": -3 * x[odd],
            "clones": np.repeat(x[:1], 30, axis=0),
            "group": x[:1] + 0.01 * rng.normal(size=(30, 100)),
        }[attack]
        exact = LoMarDetector(label_blocks=blocks([25] * 4)).fit(x)
        found = LoMarDetector(label_blocks=blocks([25] * 4), approximate=True).fit(x)
        assert (found.labels_ == exact.labels_).mean() > 0.99
        assert found.labels_[odd].all() == exact.labels_[odd].all() == (attack != "none")
        order = rng.permutation(len(x))
        again = LoMarDetector(label_blocks=blocks([25] * 4), approximate=True).fit(x[order])
        np.testing.assert_array_equal(again.decision_scores_, found.decision_scores_[order])

    @WITH_FAISS
    def test_few_updates_are_judged_exactly(self):
        x = updates(200, 30)
        exact, found = LoMarDetector().fit(x), LoMarDetector(approximate=True).fit(x)
        np.testing.assert_array_equal(found.decision_scores_, exact.decision_scores_)

    @WITH_FAISS
    def test_a_number_of_neighbours_is_refused(self):
        with pytest.raises(ValueError, match="share with approximate=True, got 20 neighbours"):
            LoMarDetector(k=20, approximate=True)

    def test_without_faiss_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(index, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"expected faiss .* pip install 'flwr-anomaly\[large\]'"):
            LoMarDetector(approximate=True)


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_the_number_of_threads_changes_no_bit(monkeypatch, by_tile, preset):
    monkeypatch.setattr(kernels, "LARGE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = []
    for allowed in (1, 2):
        with threadpool_limits(allowed):
            found.append(by_tile(updates(60, 40), preset=preset, label_blocks=blocks([8] * 5)).decision_scores_)
    np.testing.assert_array_equal(*found)
