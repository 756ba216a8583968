"""Every baseline against a slow implementation of its formula, or Flower's own function in float64."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_krum
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import trim_mean

from apps.lab.baselines import (
    CentredClipping,
    DnC,
    FoolsGold,
    Krum,
    geometric_median,
    median,
    nnm_trimmed_mean,
    norm_bounded,
    rules,
    trimmed_mean,
)
from flwr_faa.replies.updates import Batch, Reply, read_replies


def batch_of(updates: NDArray, offset: float = 0.0) -> Batch:
    """Updates of a classifier of two labels behind a layer; the model itself may be huge."""
    n, d = updates.shape
    hidden = d - 8
    model = [np.full(hidden, offset, updates.dtype), np.zeros((2, 3), updates.dtype), np.zeros(2, updates.dtype)]
    parts = np.split(updates, [hidden, hidden + 6], axis=1)
    replies = [Reply(i, [model[0] + parts[0][i], parts[1][i].reshape(2, 3), parts[2][i]], 10) for i in range(n)]
    return read_replies(replies, model)


@pytest.fixture(params=range(3))
def updates(request, monkeypatch) -> NDArray:
    """17 float64 updates, three of them nearly the same; read in one piece, or in small ones."""
    monkeypatch.setattr(rules, "WIDTH", (2**14, 7, 1)[request.param])
    rng = np.random.default_rng(request.param)
    g = rng.normal(size=(17, 30)) + 0.3
    g[-3:] = 1.5 * g[-1] + 0.05 * rng.normal(size=(3, 30))
    return g


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_krum_keeps_what_a_loop_keeps(updates: NDArray, share: float) -> None:
    n, f = len(updates), round(share * len(updates))
    expected = []
    for i in range(n):
        far = sorted(float(np.sum((updates[i] - updates[j]) ** 2)) for j in range(n) if j != i)
        expected.append(sum(far[: n - f - 2]))
    for keep, count in ((1, 1), (None, n - f), (5, 5)):
        found = Krum(share, keep).detect(batch_of(updates))
        np.testing.assert_allclose(found.scores, expected, rtol=1e-10)
        assert set(range(n)) - set(found.suspects) == set(np.argsort(expected)[:count])
        kept = set(range(n)) - set(found.suspects)
        assert found.threshold == max(found.scores[list(kept)])


def test_krum_is_flowers_on_updates_in_float64(updates: NDArray) -> None:
    chosen = aggregate_krum([([g], 1) for g in updates], 4, 0)[0]
    (kept,) = set(range(17)) - set(Krum(4 / 17).detect(batch_of(updates)).suspects)
    np.testing.assert_array_equal(updates[kept], chosen)


def test_krum_does_not_drown_in_the_norm_of_the_model() -> None:
    """With float32 weights around 1000, Flower's distances between these are zero or noise."""
    updates = np.random.default_rng(0).normal(size=(9, 30)).astype(np.float32) / 8
    updates = np.round(updates * 2**10) / 2**10  # exact after adding 1000
    near, far = (Krum(0.2).detect(batch_of(updates, offset)) for offset in (0.0, 1000.0))
    np.testing.assert_allclose(near.scores, far.scores, rtol=1e-6)


def published_foolsgold(g: NDArray) -> NDArray:
    """Line by line as in the paper's algorithm 1 and the authors' code."""
    n = len(g)
    cs = [[0.0 if i == j else g[i] @ g[j] / np.sqrt(g[i] @ g[i] * (g[j] @ g[j])) for j in range(n)] for i in range(n)]
    v = [max(row) for row in cs]
    for i in range(n):
        for j in range(n):
            if i != j and v[i] < v[j]:
                cs[i][j] *= v[i] / v[j]
    a = np.array([min(1.0, max(0.0, 1 - max(row))) for row in cs])
    a /= a.max()
    a[a == 1] = 0.99
    with np.errstate(divide="ignore"):
        a = np.log(a / (1 - a)) + 0.5
    a[np.isinf(a) & (a > 1)] = 1
    return np.array([min(1.0, max(0.0, x)) for x in a])


def test_foolsgold_is_the_published_algorithm_on_the_classifier(updates: NDArray) -> None:
    # Prepare
    batch = batch_of(updates)
    expected = published_foolsgold(updates[:, -8:])
    assert 0 < np.count_nonzero(expected) < 17

    # Execute
    found = FoolsGold().detect(batch)

    # Assert
    np.testing.assert_allclose(1 - found.scores, expected, rtol=1e-9, atol=1e-12)
    assert set(found.suspects) == set(np.flatnonzero(expected == 0))
    rows = [i for i in batch.canonical if i not in found.suspects]
    mean = expected @ updates / expected.sum()
    np.testing.assert_allclose(FoolsGold()(batch, rows), mean, rtol=1e-9)


def test_foolsgold_of_few_zero_or_identical_updates(updates: NDArray) -> None:
    np.testing.assert_array_equal(FoolsGold().weights(batch_of(updates[:1])), 1)
    np.testing.assert_array_equal(FoolsGold().weights(batch_of(np.repeat(updates[:1], 4, axis=0))), 0)
    with_zero = np.vstack([updates, np.zeros((1, 30))])
    assert np.isfinite(FoolsGold().weights(batch_of(with_zero))).all()


def test_fg_krum_also_drops_the_highest_krum_scores(updates: NDArray) -> None:
    both, alone = (FoolsGold(krum=k).weights(batch_of(updates)) for k in (0.2, 0.0))
    highest = Krum(0.2, None).detect(batch_of(updates)).suspects
    assert len(highest) == 3
    np.testing.assert_array_equal(both[list(highest)], 0)
    rest = [i for i in range(17) if i not in highest]
    np.testing.assert_array_equal(both[rest], alone[rest])


@pytest.mark.parametrize("count", [1, 2, 16, 17])
def test_median_and_trimmed_mean(updates: NDArray, count: int) -> None:
    batch, rows = batch_of(updates), list(range(count))
    ordered = np.sort(updates[:count], axis=0)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    np.testing.assert_allclose(median(batch, rows), middle, rtol=1e-12)
    for share in (0.0, 0.2, 0.49):
        cut = min(round(share * count), (count - 1) // 2)
        expected = ordered[cut : count - cut].mean(axis=0)
        np.testing.assert_allclose(trimmed_mean(batch, rows, share=share), expected, rtol=1e-10)
    if count == 16:
        np.testing.assert_allclose(trimmed_mean(batch, rows, share=0.25), trim_mean(updates[:16], 0.25), rtol=1e-10)


def test_trimmed_mean_cuts_as_many_as_it_says() -> None:
    g = np.zeros((100, 30))
    g[:29] = 1e6
    assert not trimmed_mean(batch_of(g), range(100), share=0.29).any()


def test_geometric_median_is_the_minimiser(updates: NDArray) -> None:
    batch, rows = batch_of(updates), list(range(1, 17))

    def objective(z: NDArray) -> tuple[float, NDArray]:
        off = z - updates[rows]
        distance = np.linalg.norm(off, axis=1)
        return distance.sum(), (off / distance[:, None]).sum(axis=0)

    best = minimize(objective, updates.mean(axis=0), jac=True, method="BFGS", options={"gtol": 1e-10})
    found = geometric_median(batch, rows)
    assert objective(found)[0] <= best.fun * (1 + 1e-10)
    np.testing.assert_allclose(found, best.x, atol=1e-4)


def test_geometric_median_of_a_majority_of_clones_is_the_clone(updates: NDArray) -> None:
    updates[:9] = updates[0]
    np.testing.assert_allclose(geometric_median(batch_of(updates), range(17)), updates[0], atol=1e-5)
    np.testing.assert_allclose(geometric_median(batch_of(updates), range(5)), updates[0], rtol=1e-12)


RULES = [median, geometric_median, partial(trimmed_mean, share=0.1), norm_bounded, partial(nnm_trimmed_mean, share=0.1)]


@pytest.mark.parametrize("rule", [*RULES, CentredClipping()])
def test_one_outlier_moves_a_rule_little(updates: NDArray, rule) -> None:
    batch, far = batch_of(updates), updates.copy()
    far[3] *= 1e6
    moved = batch_of(far)
    first = rule(batch, batch.canonical)
    if isinstance(rule, CentredClipping):  # that it remembers the first call is not the question here
        rule = CentredClipping()
    assert np.abs(first - rule(moved, moved.canonical)).max() < 1


@pytest.mark.parametrize("rule", [*RULES, CentredClipping(), FoolsGold(), Krum(0.2).detect, DnC(0.2).detect])
def test_no_rule_makes_a_matrix_of_all_updates(updates: NDArray, rule) -> None:
    batch = batch_of(updates)
    rule(batch, 0 if "detect" in str(rule) else range(17))
    assert "updates" not in batch.__dict__


@pytest.mark.parametrize("detector", [Krum(0.2), Krum(0.2, None), FoolsGold(), FoolsGold(krum=0.2), DnC(0.2)])
def test_permuted_clients_have_permuted_scores_bit_for_bit(updates: NDArray, detector) -> None:
    order = np.random.default_rng(5).permutation(17)
    first, second = detector.detect(batch_of(updates), 0), detector.detect(batch_of(updates[order]), 0)
    np.testing.assert_array_equal(first.scores[order], second.scores)
    assert [order[i] for i in second.suspects] == list(first.suspects)


@pytest.mark.parametrize("bound", [0.5, 1.0, 100.0])
def test_norm_bounded_shortens_the_long_ones(updates: NDArray, bound: float) -> None:
    limit = bound * np.median([np.sqrt(sum(x * x for x in g)) for g in updates])
    expected = np.zeros(30)
    for g in updates:
        length = np.sqrt(sum(x * x for x in g))
        expected += (g if length <= limit else g * limit / length) / 17
    np.testing.assert_allclose(norm_bounded(batch_of(updates), range(17), bound=bound), expected, rtol=1e-12)
    np.testing.assert_allclose(norm_bounded(batch_of(updates[:2]), range(2), bound=100), updates[:2].mean(0))
    assert not norm_bounded(batch_of(np.zeros((3, 30))), range(3)).any()


def test_centred_clipping_is_algorithm_2_and_starts_where_it_ended(updates: NDArray) -> None:
    rule, centre = CentredClipping(radius=0.8, steps=2), np.zeros(30)
    for batch in (batch_of(updates), batch_of(updates[::-1] + 0.1)):
        for _ in range(2):
            off = [g - centre for g in batch.updates]
            tau = 0.8 * np.median([np.linalg.norm(x) for x in off])
            centre = centre + sum(x * min(1.0, tau / np.linalg.norm(x)) for x in off) / 17
        np.testing.assert_allclose(rule(batch, range(17)), centre, rtol=1e-12)


@pytest.mark.parametrize("columns", [10_000, 12])
def test_dnc_removes_the_largest_projections_of_a_singular_value_decomposition(updates: NDArray, columns: int) -> None:
    # Prepare: the same draw of columns, and rows in their canonical order for it not to matter
    drawn = np.arange(30)
    if columns < 30:
        drawn = np.sort(np.random.default_rng(9).choice(30, columns, replace=False))
    c = updates[:, drawn] - updates[:, drawn].mean(axis=0)
    top = np.linalg.svd(c)[2][0]
    expected = (c @ top) ** 2

    # Execute
    found = DnC(0.3, columns).detect(batch_of(updates), 9)

    # Assert
    np.testing.assert_allclose(found.scores, expected, rtol=1e-8, atol=1e-12)
    assert set(found.suspects) == set(np.argsort(-expected)[:5])
    assert all(found.scores[i] >= found.threshold for i in found.suspects)
    assert DnC(0.0).detect(batch_of(updates), 0).suspects == ()
    assert DnC(0.4).detect(batch_of(updates[:1]), 0).suspects == ()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_nnm_is_the_trimmed_mean_of_means_of_neighbours(updates: NDArray, share: float) -> None:
    f = round(share * 17)
    mixed = []
    for g in updates:
        nearest = sorted(updates, key=lambda other: float(np.sum((g - other) ** 2)))[: 17 - f]
        mixed.append(np.mean(nearest, axis=0))
    ordered = np.sort(mixed, axis=0)
    expected = ordered[min(f, 8) : 17 - min(f, 8)].mean(axis=0)
    np.testing.assert_allclose(nnm_trimmed_mean(batch_of(updates), range(17), share=share), expected, rtol=1e-10)
    np.testing.assert_allclose(nnm_trimmed_mean(batch_of(updates[:1]), [0], share=share), updates[0])
