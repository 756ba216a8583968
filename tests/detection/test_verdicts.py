"""Nobody is judged differently than when the verdicts were recorded."""

import numpy as np
import pytest

from tests.detection.record_verdicts import DETECTORS, SEED, found, recorded

RECORDED = {name: (batch, verdicts) for name, batch, verdicts in recorded()}


@pytest.mark.parametrize("attack", RECORDED)
def test_verdicts_are_those_on_record(attack):
    batch, verdicts = RECORDED[attack]
    # Which of several clones comes first is a matter of their content's hash.
    clone = np.unique(batch.updates, axis=0, return_inverse=True)[1].ravel()
    assert verdicts.keys() == DETECTORS.keys()
    for name, before in verdicts.items():
        now = found(DETECTORS[name].detect(batch, SEED))
        np.testing.assert_allclose(now["scores"], before["scores"], rtol=1e-4, atol=1e-5, err_msg=name)
        assert now["threshold"] == pytest.approx(before["threshold"], rel=1e-4, abs=1e-5), name
        assert clone[now["suspects"]].tolist() == clone[before["suspects"]].tolist(), name
        assert now["audits"] == before["audits"], name
