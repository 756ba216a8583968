import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.detection import OCSVM, Everyone
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
    with pytest.raises(ValueError, match="nu to be a finite number above 0 and below 1"):
        OCSVM(nu=1.0)
    monkeypatch.setitem(sys.modules, "pyod.models.ocsvm", None)
    with pytest.raises(ImportError, match=r"flwr-anomaly\[server\]"):
        OCSVM().detect(batch_of(crowd(5)))


def test_everyone_is_everyone():
    batch = batch_of(crowd(5))
    found = Everyone().detect(batch)
    assert sorted(found.suspects) == list(range(5)) and (found.scores > found.threshold).all()
    assert repr(Everyone()) == "Everyone()" and repr(OCSVM()) == "OCSVM(nu=0.5)"
