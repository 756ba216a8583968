import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.svm import OneClassSVM

from flwr_faa.detection.ocsvm import OCSVM
from tests.detection.simulate import attacked_round, batch_of, crowd


def contents(batch, rows):
    return [batch.digests[r] for r in rows]


def test_the_same_twenty_updates_in_many_orders_have_the_same_suspects():
    """PyOD's defaults named 4, 10 and 5 of them in three orders."""
    batch, _ = attacked_round("flip update", 0.4, "shards", 0)
    expected = contents(batch, OCSVM().detect(batch).suspects)
    assert len(expected) == 10
    rng = np.random.default_rng(0)
    for _ in range(25):
        other = batch_of(batch.updates[rng.permutation(20)])
        assert contents(other, OCSVM().detect(other).suspects) == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.sampled_from([0.1, 0.25, 0.5, 0.8]))
@settings(max_examples=40)
def test_suspects_are_the_prescribed_share_and_cover_everything_outside(seed, n, nu):
    rng = np.random.default_rng(seed)
    updates = crowd(n, seed)
    updates[rng.integers(n)] = updates[0]
    batch = batch_of(updates)
    found = OCSVM(nu).detect(batch)
    assert len(found.suspects) == int(nu * n + 1e-9)
    assert np.isfinite(found.scores).all() and found.threshold == 0
    assert {r for r in range(n) if found.scores[r] > 0} <= set(found.suspects)
    shuffled = rng.permutation(n)
    again = OCSVM(nu).detect(batch_of(updates[shuffled]))
    assert np.array_equal(found.scores[shuffled], again.scores)


def test_far_updates_are_outside_and_scale_and_translation_change_nothing():
    updates = crowd(20, dtype=np.float64)
    updates[[3, 8]] += 50
    found = OCSVM().detect(batch_of(updates))
    assert set(found.suspects[:2]) == {3, 8}
    assert found.evidence[3].startswith("one-class SVM: outside the boundary")
    for other in (1000 * updates, updates + 7):
        again = OCSVM().detect(batch_of(other))
        assert set(again.suspects) == set(found.suspects)
        np.testing.assert_allclose(again.scores, found.scores, atol=1e-5)


def test_identical_updates_still_give_half():
    found = OCSVM().detect(batch_of(np.ones((5, 4), np.float32)))
    assert len(found.suspects) == 2 and not found.scores.any()


def test_settings_are_checked_and_pyod_is_named_if_missing(monkeypatch):
    assert repr(OCSVM()) == "OCSVM(nu=0.5)"
    for wrong in (1.0, 0.0, 1.5, -0.5):
        with pytest.raises(ValueError, match="nu to be a finite number above 0 and below 1"):
            OCSVM(nu=wrong)
    monkeypatch.setitem(sys.modules, "pyod.models.ocsvm", None)
    with pytest.raises(ImportError, match=r"flwr-anomaly\[server\]"):
        OCSVM().detect(batch_of(crowd(5)))


def test_a_share_of_the_clients_is_rounded_down_but_not_by_rounding():
    """.29 of a hundred are 29, which floats say is a little less."""
    for nu, n, most in ((0.29, 100, 29), (0.5, 5, 2), (0.999, 3, 2), (0.001, 8, 0)):
        assert len(OCSVM(nu).detect(batch_of(np.ones((n, 2), np.float32))).suspects) == most


def test_each_side_of_the_boundary_is_told_and_on_it_the_farthest_come_first():
    """The decision values are those of scikit-learn with the kernel of Eq. 13, c the median squared distance."""
    updates = crowd(20, dtype=np.float64)
    updates[[3, 8]] += 5
    batch = batch_of(updates)
    found = OCSVM().detect(batch)
    squared = cdist(updates, updates) ** 2
    c = np.median(squared[~np.eye(20, dtype=bool)])
    svm = OneClassSVM(kernel="precomputed", nu=0.5, tol=1e-9).fit(np.exp(-squared / c))
    np.testing.assert_allclose(found.scores, -svm.decision_function(np.exp(-squared / c)), atol=1e-6)
    sides = {-1: "inside", 0: "on", 1: "outside"}
    for score, line in zip(found.scores, found.evidence, strict=True):
        assert line.startswith(f"one-class SVM: {sides[int(np.sign(score))]} the boundary (score ")
    assert len({int(np.sign(score)) for score in found.scores}) == 3
    far = squared.mean(axis=1)
    order = sorted(range(20), key=lambda row: (-max(found.scores[row], -1), -far[row]))
    assert found.suspects == tuple(order[:10])


def test_where_most_pairs_are_clones_the_mean_distance_is_the_width():
    updates = np.zeros((12, 4))
    updates[3, 0], updates[7, 1] = 20.0, 30.0
    found = OCSVM(0.2).detect(batch_of(updates))
    assert found.suspects == (7, 3) and np.isfinite(found.scores).all()
    squared = cdist(updates, updates) ** 2
    c = squared.sum() / (12 * 11)
    svm = OneClassSVM(kernel="precomputed", nu=0.2, tol=1e-9).fit(np.exp(-squared / c))
    np.testing.assert_allclose(found.scores, -svm.decision_function(np.exp(-squared / c)), atol=1e-6)
