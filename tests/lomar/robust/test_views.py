"""The robust preset: its views against plain formulas, its threshold against its null, what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.studies.lomar_threshold import rate_above
from flwr_faa.detection import PyODDetector
from flwr_faa.detection.threshold import largest_z
from flwr_faa.detection.views import LONG
from flwr_faa.replies.updates import Batch, Layout
from flwr_lomar.detector import LoMarDetector

SHAPES = ((12, 6), (12,), (5, 12), (5,))
LAYOUT = Layout(SHAPES, (np.dtype("f4"),) * 4)


def updates(n=40, seed=0, dtype=np.float64):
    """Of a model with a backbone and five labels; a common direction, lengths that differ."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=LAYOUT.size) + rng.normal(size=(n, LAYOUT.size)) * rng.lognormal(0, 0.2, (n, 1))
    return x.astype(dtype)


def geometric_median(x):
    g = x.mean(axis=0)
    for _ in range(12):
        away = np.linalg.norm(x - g, axis=1)
        g = (x / away[:, None]).sum(axis=0) / (1 / away).sum()
    return g


def plain(x):
    """The views of one block, from vectors; those of distances up to a constant."""
    n, g = len(x), geometric_median(x)
    near = np.array([sorted(np.linalg.norm(np.delete(away, i, 0), axis=1)) for i, away in enumerate(x[:, None] - x)])
    one, few, most = near[:, 0], near[:, :3].mean(axis=1), near[:, : round(0.6 * n)].mean(axis=1)
    unit = (x - g) / np.linalg.norm(x - g, axis=1)[:, None]
    shared = (((unit @ unit.T) ** 2).sum(axis=1) - 1) / (n - 1)
    norms, mean = np.linalg.norm(x, axis=1), x.mean(axis=0)
    cosine, long = x @ mean / norms / np.linalg.norm(mean), norms > LONG * np.median(norms)
    return [np.log(v) for v in (one, most, one / most, few / most, norms)] + [
        x @ g / (g @ g),
        np.log(shared),
        (x > 0).mean(axis=1),
        np.where(long, cosine, np.median(cosine)),
    ]


def z(values, least=0.0, calm=slice(None)):
    centre = np.median(values[calm])
    spread = 1.4826 * np.median(np.abs(values[calm] - centre))
    return (values - centre) / np.maximum(spread, least)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_views_are_what_they_say(dtype):
    x = updates(dtype=dtype)
    detector = LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(x)
    classifier = np.sort(np.concatenate(LAYOUT.label_blocks))
    backbone = np.setdiff1d(np.arange(LAYOUT.size), classifier)
    a = x.astype(np.float64)
    ours = {view.name: view for view in detector.views_}
    assert len(ours) == len(detector.views_) == 1 + 1 + 3 * 9 + 2
    log_factor = detector.factor_.log_factor
    expected = {"log F": np.sign(log_factor) * np.sqrt(np.abs(log_factor))}
    for name, columns in (("update", slice(None)), ("classifier", classifier), ("backbone", backbone)):
        mine = [key for key in ours if key.startswith(name)]
        expected |= dict(zip(mine, plain(a[:, columns]), strict=True))
    near = [plain(a[:, c]) for c in LAYOUT.label_blocks]
    dense = np.array([z(p[3], 0.25) for p in near])
    few = np.array([z(p[3] + p[1], 0.25) for p in near])
    expected |= {"label, nearest": few.min(0), "label, densest": dense.min(0)}
    t = detector.threshold_
    for name, values in expected.items():
        if ours[name].spread is None:
            np.testing.assert_allclose(ours[name].z, z(values), rtol=1e-3, atol=1e-3, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name].values, values, atol=1e-4, err_msg=name)

    half = np.sort(np.linalg.norm(a[:, None] - a, axis=2), axis=1)[:, 20]
    reach = np.log(np.maximum(half, np.median(np.linalg.norm(a, axis=1))))
    np.testing.assert_allclose(ours["reach"].values, reach - np.log(np.median(half)), atol=1e-3)

    known = [np.abs(v.values - np.median(v.values)) * t / v.matters[1] for v in detector.views_ if v.spread is not None]

    def look(calm):
        return np.max([np.abs(z(v.values, np.where(v.values < np.median(v.values[calm]), *v.matters) / t, calm))
                       for v in detector.views_ if v.spread is None] + known[1:], axis=0)  # fmt: skip

    first = look(slice(None))
    suspected = first > t
    np.testing.assert_allclose(detector.decision_scores_[~suspected], first[~suspected])
    for _ in range(5):  # more looks than it takes
        first = np.where(first > t, np.minimum(first, look(first <= t)), first)
    np.testing.assert_allclose(detector.decision_scores_, first)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), clones=st.integers(0, 3))
@settings(max_examples=25)
def test_the_order_of_the_updates_changes_nothing(seed, n, clones):
    x = updates(n, seed, np.float32)
    x[: min(clones, n)] = x[-1]
    order = np.random.default_rng(seed).permutation(n)
    one, other = (LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(rows) for rows in (x, x[order]))
    np.testing.assert_array_equal(one.decision_scores_[order], other.decision_scores_)
    assert [one.evidence_[i] for i in order] == other.evidence_


@pytest.mark.parametrize("scale", [1e-6, 0.37, 1e5])
def test_units_do_not_matter(scale):
    x = updates(30, dtype=np.float32)
    x[:3] *= 4
    one, other = (LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(rows) for rows in (x, x * np.float32(scale)))
    np.testing.assert_allclose(one.decision_scores_, other.decision_scores_, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(one.labels_, other.labels_)
    assert one.labels_[:3].all()


@pytest.mark.parametrize(("n", "views"), [(6, 11), (10, 27), (20, 11), (100, 27), (1000, 11)])
def test_the_threshold_holds_its_rate_under_its_null_hypothesis(n, views):
    rate = rate_above(n, views, np.random.default_rng(n), rate=0.02, draws=10_000)
    assert 0.012 < rate < 0.026


def test_the_threshold_falls_with_n_and_rises_with_views():
    assert largest_z(10, 12) > largest_z(100, 12) > largest_z(1000, 12) > 3.5
    assert largest_z(50, 28) > largest_z(50, 12) > largest_z(50, 12, rate=0.05)


def attack(name, x, rng):
    """What the first rows become."""
    classifier = np.sort(np.concatenate(LAYOUT.label_blocks))
    sigma = x.std(axis=0)
    bad = x[:8].copy()
    if name == "clones":
        bad[:] = x[0]
    elif name == "half as far":
        bad = x.mean(axis=0) + (bad - x.mean(axis=0)) / 8
    elif name == "backbone noise":
        noise = 4 * sigma * rng.normal(size=bad.shape)
        noise[:, classifier] = 0
        bad += noise
    elif name == "one label":
        bad[:, LAYOUT.label_blocks[2]] += 6
    elif name == "boosted":
        bad *= 10
    elif name == "sign flip":
        bad *= -1
    return bad


def test_honest_updates_that_a_large_group_makes_look_odd_are_cleared():
    """Forty clones of a hundred pull medians and MADs: by these alone most of the honest would go."""
    x = updates(100, 7, np.float32)
    x[:40] = x[0]
    detector = LoMarDetector(label_blocks=LAYOUT.label_blocks).fit(x)
    alone = np.max([np.abs(view.z) for view in detector.views_], axis=0) > detector.threshold_
    assert alone[40:].sum() > 6
    assert detector.labels_[:40].all()
    assert detector.labels_[40:].sum() <= 2
    assert not (detector.labels_.astype(bool) & ~alone).any()


@pytest.mark.parametrize("name", ["clones", "half as far", "backbone noise", "one label", "boosted", "sign flip"])
def test_attackers_are_rejected_and_the_report_says_why(name):
    rng = np.random.default_rng(3)
    x = updates(60, 5, np.float32)
    x[:8] = attack(name, x, rng)
    order = rng.permutation(60)
    batch = Batch(tuple(range(60)), x[order], np.ones(60), LAYOUT, {})
    found = PyODDetector(LoMarDetector()).detect(batch, seed=0)
    bad = set(np.flatnonzero(order < 8))
    assert bad <= set(found.suspects)
    assert len(found.suspects) <= len(bad) + 3
    words = {"clones": "closer than usual", "boosted": "er than", "backbone noise": "larger"}.get(name, "z = ")
    assert all(words in found.evidence[row] for row in bad)
    assert "than usual" in found.evidence[next(iter(bad))] or "usual" in found.evidence[next(iter(bad))]
