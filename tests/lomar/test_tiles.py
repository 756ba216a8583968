"""Many updates: tile by tile as all at once, in little memory, whatever their order; and what is approximate of it."""

import os
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from flwr_faa.replies import kernels
from flwr_lomar import LoMarDetector, detector, index, tiles

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
    if dtype == np.float64:  # in float32 the k-th neighbour and the next may be as near
        np.testing.assert_array_equal(np.sort(tiled.factor_.neighbours), np.sort(once.factor_.neighbours))


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
    def test_a_distance_is_never_too_small(self):
        x = updates(600, 90)
        one, three = index.nearest_by_index(x, 0)
        away = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
        np.fill_diagonal(away, np.inf)
        away.sort(axis=1)
        least = (1 - 1e-5) * away
        assert (one >= least[:, 0]).all() and (three >= least[:, :3].mean(axis=1)).all()
        assert (one[4:9] == 0).all() and (one[9:14] < 0.2).all()  # the equal ones, and the group, are found

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
