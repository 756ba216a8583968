"""Held-out data in the pipeline: who is decided about, and that being left out is no guilt."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from flwr_faa import FAADL, Holdout, Ledger, legacy, protect
from flwr_faa.defence import Defence
from flwr_faa.detection import Everyone
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.policy import Policy
from flwr_faa.replies.updates import Batch, Reply
from flwr_faa.report import Outcome, RoundReport
from flwr_faa.verification.base import Exhausted

D = 12
GOAL = np.linspace(-1, 1, D).astype(np.float32)
W = [np.zeros(D, np.float32)]


def distance(arrays: list[np.ndarray]) -> float:
    """A loss: the squared distance to what honest clients walk towards."""
    return float(np.square(arrays[0].astype(np.float64) - GOAL).sum())


def replies(honest: int = 8, malicious: int = 4, seed: int = 0) -> list[Reply]:
    """Honest clients go half the way, malicious ones (node ids from 100 on) the other way."""
    rng = np.random.default_rng(seed)
    noise = lambda: rng.normal(scale=0.1, size=D)  # noqa: E731
    good = [Reply(i, [(0.5 * GOAL + noise()).astype(np.float32)], 10) for i in range(honest)]
    bad = [Reply(100 + i, [(-0.5 * GOAL + noise()).astype(np.float32)], 10) for i in range(malicious)]
    return good + bad


@dataclass(frozen=True)
class Names(Detector):
    """Suspects these nodes."""

    nodes: tuple[int, ...] = ()

    def detect(self, batch: Batch, seed: int) -> Detection:
        rows = tuple(row for row, node in enumerate(batch.node_ids) if node in self.nodes)
        return Detection(np.zeros(len(batch)), 0.0, rows, ("named",) * len(batch))


@dataclass(frozen=True)
class AskedNobody:
    """A verifier whose authority is away."""

    name = "away"
    simulation_only = False
    notes = ()

    def challenge(self, case: object) -> bytes:
        raise Exhausted("no authority to ask")

    def judge(self, case: object, evidence: bytes) -> None:
        raise AssertionError("nobody was asked")


@dataclass
class Decided:
    """A defence's round."""

    given: list[Reply] = field(default_factory=replies)
    detector: object = Names()
    verifier: object = None
    policy: Policy | None = None
    ledger: Ledger | None = None
    observe: bool = False
    holdout: Holdout | None = None

    def __call__(self) -> tuple[np.ndarray, RoundReport]:
        defence = Defence(
            self.detector, self.verifier, self.policy, self.ledger, 1.0, 1, None, self.observe, self.holdout
        )
        arrays, report = defence.decide(1, self.given, W, lambda _: {}, {})
        return arrays[0], report


def outcomes(report: RoundReport) -> dict[int, Outcome]:
    return {v.node_id: v.verdict for v in report.nodes}


def test_everybody_is_decided_about_and_who_is_left_out_is_not_guilty() -> None:
    ledger = Ledger()
    _, report = Decided(holdout=Holdout(distance), ledger=ledger, policy=Policy(fail_closed=True))()
    left_out = {v.node_id for v in report.having(Outcome.LEFT_OUT)}
    assert {100, 101, 102, 103} <= left_out
    for verdict in report.having(Outcome.LEFT_OUT):
        assert not verdict.accepted and not verdict.banned and not verdict.suspect
        assert "not guilty" in verdict.reason and "risen by" in verdict.reason
    assert not ledger.bans and not ledger.strikes and not report.failed_closed


@pytest.mark.parametrize("given", [{"verifier": Holdout(distance)}, {"holdout": Holdout(distance, "suspects")}])
def test_suspects_alone_are_decided_about(given: dict[str, Holdout]) -> None:
    _, report = Decided(detector=Names((0, 1, 100)), **given)()
    told = outcomes(report)
    assert told.pop(100) is Outcome.LEFT_OUT
    assert set(told.values()) == {Outcome.TRUSTED}  # the poisoners that nobody suspected, too
    back = next(v for v in report.nodes if v.node_id == 0)
    assert back.accepted and back.suspect
    assert back.reason == "suspected and not asked, but it does not raise the held-out loss; named"


@dataclass(frozen=True)
class Silent(Names):
    """Gives no reason."""

    def detect(self, batch: Batch, seed: int) -> Detection:
        return replace(super().detect(batch, seed), evidence=("",) * len(batch))


def test_with_whom_the_loss_would_not_be_finite_is_left_out_and_told_so() -> None:
    def breaks(arrays: list[np.ndarray]) -> float:
        return distance(arrays) if np.abs(arrays[0]).max() < 5 else float("nan")

    given = [*replies(8, 0), Reply(100, [np.full(D, 1000, np.float32)], 10), Reply(101, [-GOAL], 10)]
    for detector, own in ((Names(), "; named"), (Silent(), "")):
        _, report = Decided(given, detector, holdout=Holdout(breaks))()
        why = {v.node_id: v.reason for v in report.having(Outcome.LEFT_OUT)}
        assert why[100].startswith("left out, not guilty: with it the held-out loss of ")
        assert why[100].endswith(f" would not have been finite{own}")
        assert " would have risen by " in why[101] and why[101].endswith(own) and (own or ";" not in why[101])


def test_who_cannot_be_asked_is_decided_about() -> None:
    suspected = Names((0, 100))
    _, without = Decided(detector=suspected, verifier=AskedNobody())()
    assert {outcomes(without)[i] for i in (0, 100)} == {Outcome.EXHAUSTED}
    _, report = Decided(detector=suspected, verifier=AskedNobody(), holdout=Holdout(distance, "suspects"))()
    assert [outcomes(report)[i] for i in (0, 100)] == [Outcome.TRUSTED, Outcome.LEFT_OUT]


def test_observed_nobody_is_left_out() -> None:
    given = Decided(holdout=Holdout(distance), observe=True)
    arrays, report = given()
    plain, _ = Decided()()
    assert np.array_equal(arrays, plain)
    withheld = {v.node_id for v in report.nodes if v.withheld == "left out"}
    assert withheld == {v.node_id for v in replace(given, observe=False)()[1].having(Outcome.LEFT_OUT)} >= {100}


def test_alone_it_stops_what_it_sees() -> None:
    arrays, _ = Decided(detector=Everyone(), verifier=Holdout(distance))()
    assert distance([arrays]) < distance([Decided()()[0]]) / 2


def test_held_out_data_that_contradict_most_clients_are_told(caplog: pytest.LogCaptureFixture) -> None:
    Decided(holdout=Holdout(lambda arrays: distance([-arrays[0]])), given=replies(8, 2))()
    assert "as many as there may be attackers" in caplog.text and "held-out data are not like" in caplog.text
    caplog.clear()
    Decided(holdout=Holdout(distance), given=replies(8, 2, seed=1))()
    assert "held-out data are not like" not in caplog.text


def test_two_places_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="expected one Holdout, got two"):
        FAADL(verifier=Holdout(distance), holdout=Holdout(distance))
    with pytest.raises(TypeError, match="expected holdout to be a Holdout, got"):
        legacy.FAADL(holdout=distance)


def test_every_strategy_takes_it() -> None:
    from flwr.server.strategy import FedAvg as LegacyFedAvg
    from flwr.serverapp.strategy import FedAdam

    from flwr_lomar import LoMar
    from flwr_lomar.legacy import LoMar as LegacyLoMar

    holdout = Holdout(distance)
    for strategy in (FAADL, legacy.FAADL, LoMar, LegacyLoMar):
        assert strategy(holdout=holdout).defence.holdout is holdout
    for strategy in (FedAdam(), LegacyFedAvg()):
        assert protect(strategy, holdout=holdout).defence.holdout is holdout
