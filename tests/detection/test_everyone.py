"""The paper's FE baseline: everybody is verified."""

from flwr_faa.detection.everyone import Everyone
from tests.detection.simulate import batch_of, crowd


def test_everyone_is_everyone():
    batch = batch_of(crowd(5))
    found = Everyone().detect(batch)
    assert found.suspects == batch.canonical and sorted(found.suspects) == list(range(5))
    assert found.scores.tolist() == [1.0] * 5 and found.threshold == 0.0
    assert found.evidence == ("everybody is verified",) * 5 and found.audits == ()
    assert repr(Everyone()) == "Everyone()"
