"""Nobody is judged differently than when the verdicts were recorded."""

from dataclasses import replace

import numpy as np
import pytest

from flwr_faa.replies import kernels
from tests.detection.record_verdicts import DETECTORS, SEED, found, recorded

RECORDED = {name: (batch, verdicts) for name, batch, verdicts in recorded()}


def test_the_record_is_of_every_detector():
    assert all(verdicts.keys() == DETECTORS.keys() for _, verdicts in RECORDED.values())


@pytest.mark.parametrize("attack", RECORDED)
@pytest.mark.parametrize(("large", "near"), [(kernels.LARGE, 1e-5), (1000, 2e-3)], ids=["small", "as if large"])
def test_verdicts_are_those_on_record(monkeypatch, attack, large, near):
    """As if large: compiled loops, and float32 products of all columns but the labels'."""
    monkeypatch.setattr(kernels, "LARGE", large)
    batch, verdicts = RECORDED[attack]
    batch = replace(batch)  # nothing measured yet
    # Who comes first of clones, and of others with the same score, is a matter of their contents' hash.
    clone = np.unique(batch.updates, axis=0, return_inverse=True)[1].ravel()
    for name, before in verdicts.items():
        now = found(DETECTORS[name].detect(batch, SEED))
        # LoMar's own products were float32, and its log F of nearly equal updates good to four digits behind the point.
        rtol, atol = (max(near, 2e-3), 1e-4) if name.startswith("LoMar") else (near, 1e-5)
        np.testing.assert_allclose(now["scores"], before["scores"], rtol=rtol, atol=atol, err_msg=name)
        assert now["threshold"] == pytest.approx(before["threshold"], rel=near, abs=1e-5), name
        ranks = [[(-round(before["scores"][row], 4), clone[row]) for row in each["suspects"]] for each in (now, before)]
        assert sorted(ranks[0]) == sorted(ranks[1]), name
        assert now["audits"] == before["audits"], name


@pytest.mark.parametrize("attack", RECORDED)
def test_lomar_has_the_scores_of_float64(attack):
    """What differs from the record is nearer to the truth."""
    batch, _ = RECORDED[attack]
    wide = replace(batch, given=batch.updates.astype(np.float64), prints=())
    for name in ("LoMar robust", "LoMar paper"):
        now, exact = (DETECTORS[name].detect(replace(each), SEED).scores for each in (batch, wide))
        np.testing.assert_allclose(now, exact, rtol=1e-6, atol=3e-6, err_msg=name)
