"""The verification round: what each answer, silence or failure makes of a suspect and of an audited node."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.replies.updates import Reply, read_replies
from flwr_faa.report import Outcome, Verdict
from flwr_faa.verification.base import Case, Exhausted, Finding, Misconfigured
from flwr_faa.verification.questioning import Clock, Round, question
from flwr_faa.verification.wire import WireError

MODEL = [np.zeros(2, np.float32)]
CLEARED, CONVICTED = Finding(False, 0.01, 0.05, "agrees"), Finding(True, 0.9, 0.05, "differs")


def round_of(count: int, ask: Any, **replies: Any) -> Round:
    """Nodes 10, 11, ..., in rows 0, 1, ..."""
    sent = {10 + i: Reply(10 + i, [np.full(2, 1.0 + i, np.float32)], 5 + i, **replies) for i in range(count)}
    return Round(3, 17, MODEL, read_replies(list(sent.values()), MODEL), sent, ask, Clock({}))


def suspecting(suspects: Sequence[int], audits: Sequence[int] = (), count: int = 4, evidence: str = "odd") -> Detection:
    return Detection(np.arange(count) / 4, 2.0, tuple(suspects), (evidence,) * count, tuple(audits))


@dataclass
class Named(Detector):
    """Names further rows, one lot after the other, and remembers what it was told."""

    lots: Sequence[tuple[int, ...]] = ()
    told: list[dict[int, bool]] = field(default_factory=list)
    audits: list[tuple[int, ...]] = field(default_factory=list)

    def more(self, batch: Any, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        self.told.append(dict(judged))
        self.audits.append(detection.audits)
        return self.lots[len(self.told) - 1] if len(self.told) <= len(self.lots) else ()


class Scripted:
    """Asks with a node's own number, and finds what it was told to find."""

    def __init__(self, findings: Mapping[int, Any] = {}, challenges: Mapping[int, Exception] = {}) -> None:
        self.findings, self.challenges, self.judged = findings, challenges, list[tuple[int, bytes]]()

    def challenge(self, case: Case) -> bytes:
        if case.node_id in self.challenges:
            raise self.challenges[case.node_id]
        return b"%d" % case.node_id

    def judge(self, case: Case, evidence: bytes) -> Finding:
        self.judged.append((case.node_id, evidence))
        found = self.findings.get(case.node_id, CLEARED)
        if isinstance(found, Exception):
            raise found
        return found


class Collected(Scripted):
    """The same of all answers at once."""

    def judge_all(self, answers: Sequence[tuple[Case, bytes]]) -> list[Any]:
        self.judged.append([(case.node_id, evidence) for case, evidence in answers])  # type: ignore[arg-type]
        return [self.findings.get(case.node_id, CLEARED) for case, _ in answers]


def echo(challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
    return {node: b"of " + challenge for node, challenge in challenges.items()}


def broken_line(challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
    raise OSError("no network")


CONCLUDED = {  # findings by node or exceptions of a challenge, the line, and what becomes of node 11
    "cleared": (Scripted({11: CLEARED}), echo, Outcome.CLEARED, True, True, "agrees; {}"),
    "convicted": (Scripted({11: CONVICTED}), echo, Outcome.CONVICTED, False, True, "differs; {}"),
    "all at once": (Collected({11: CONVICTED}), echo, Outcome.CONVICTED, False, True, "differs; {}"),
    "silent": (Scripted(), lambda asked: {}, Outcome.MISSING, False, True, "no valid evidence: no answer in time"),
    "says why not": (
        Scripted(), lambda asked: {11: "it left"}, Outcome.MISSING, False, True, "no valid evidence: it left",
    ),
    "malformed": (
        Scripted({11: WireError("short")}), echo, Outcome.MISSING, False, True, "no valid evidence: short",
    ),
    "malformed, all at once": (
        Collected({11: WireError("short")}), echo, Outcome.MISSING, False, True, "no valid evidence: short",
    ),
    "a hole in a parser": (
        Scripted({11: KeyError("x")}), echo, Outcome.MISSING, False, True,
        "no valid evidence: it made the verifier fail (KeyError)",
    ),
    "a hole in a parser of challenges": (
        Scripted(challenges={11: IndexError()}), echo, Outcome.MISSING, False, True,
        "no valid evidence: it made the verifier fail (IndexError)",
    ),
    "a malformed commitment": (
        Scripted(challenges={11: WireError("bad root")}), echo, Outcome.MISSING, False, True,
        "no valid evidence: bad root",
    ),
    "misconfigured": (Scripted(challenges={11: Misconfigured("set scale")}), echo, Outcome.REJECTED, False, False,
                      "set scale"),
    "misconfigured in the end": (Scripted({11: Misconfigured("set scale")}), echo, Outcome.REJECTED, False, False,
                                 "set scale"),
}  # fmt: skip


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("name", CONCLUDED)
def test_what_an_answer_makes_of_a_node(name: str, audited: bool) -> None:
    verifier, line, outcome, accepted, suspect, reason = CONCLUDED[name]
    detection = suspecting((), [1]) if audited else suspecting([1])
    found = question(round_of(4, line), Named(), verifier, detection)
    judged = outcome in (Outcome.CLEARED, Outcome.CONVICTED)
    finding = (CONVICTED if outcome is Outcome.CONVICTED else CLEARED) if judged else None
    expected = Verdict(
        11, outcome, accepted, suspect, 0.25, finding and finding.error, finding and finding.threshold,
        reason.format("audit; odd" if audited else "odd"),
    )  # fmt: skip
    assert found[11] == expected
    others = [Verdict(10 + i, Outcome.TRUSTED, True, score=i / 4, reason="odd") for i in (0, 2, 3)]
    assert [found[v.node_id] for v in others] == others


@pytest.mark.parametrize(
    ("verifier", "line", "why"),
    [
        (Scripted(challenges={11: Exhausted("spent")}), echo, "spent"),
        (Scripted({11: Exhausted("spent after all")}), echo, "spent after all"),
        (Collected({11: Exhausted("spent after all")}), echo, "spent after all"),
        (Scripted(), broken_line, "it could not be asked (OSError)"),
    ],
)
def test_who_cannot_be_asked_is_out_if_suspected_and_takes_part_if_only_audited(
    verifier: Scripted, line: Any, why: str
) -> None:
    suspected = question(round_of(4, line), Named(), verifier, suspecting([1]))
    assert suspected[11] == Verdict(11, Outcome.EXHAUSTED, False, True, 0.25, reason=why)
    drawn = question(round_of(4, line), Named(), verifier, suspecting((), [1]))
    assert drawn[11] == Verdict(11, Outcome.TRUSTED, True, False, 0.25, reason=f"not audited: {why}; odd")


def test_a_finding_without_evidence_of_the_detector_stands_alone() -> None:
    found = question(round_of(4, echo), Named(), Scripted(), suspecting([2], evidence=""))
    assert found[12].reason == "agrees" and found[11].reason == ""


def test_without_a_verifier_suspects_are_removed_and_nobody_is_asked() -> None:
    found = question(round_of(4, broken_line), Named(((0,),)), None, suspecting([1, 3], [2]))
    assert [found[n].verdict for n in (10, 11, 12, 13)] == [
        Outcome.TRUSTED, Outcome.REMOVED, Outcome.TRUSTED, Outcome.REMOVED
    ]  # fmt: skip
    assert found[11] == Verdict(11, Outcome.REMOVED, False, True, 0.25, reason="odd")
    assert found[12] == Verdict(12, Outcome.TRUSTED, True, False, 0.5, reason="odd")


def test_a_verifier_is_told_the_round_the_claim_and_the_commitment() -> None:
    cases = []

    class Keeps(Scripted):
        def challenge(self, case: Case) -> bytes:
            cases.append(case)
            return super().challenge(case)

    this = round_of(4, echo, commitment=b"root")
    question(this, Named(), verifier := Keeps(), suspecting([2]))
    (case,) = cases
    assert (case.round, case.node_id, case.nonce, case.num_examples, case.commitment) == (3, 12, 17, 7, b"root")
    assert case.model is this.model and [a.tolist() for a in case.claimed] == [[3.0, 3.0]]
    assert verifier.judged == [(12, b"of 12")]


def test_all_answers_are_judged_at_once_where_the_verifier_can() -> None:
    question(round_of(4, echo), Named(), verifier := Collected(), suspecting([3, 1], [0]))
    assert verifier.judged == [[(13, b"of 13"), (11, b"of 11"), (10, b"of 10")]]


def test_whoever_is_named_meanwhile_is_asked_too_but_nobody_twice() -> None:
    asked: list[list[int]] = []

    def line(challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
        asked.append(list(challenges))
        return echo(challenges)

    detector = Named(((3, 1, 3), (0, 2), (0,)))
    found = question(round_of(4, line), detector, Scripted({13: CONVICTED}), suspecting([1, 1]))
    assert asked == [[11], [13], [10, 12]]
    assert detector.told == [
        {1: False}, {1: False, 3: True}, {1: False, 3: True, 0: False, 2: False}
    ]  # fmt: skip
    assert all(v.suspect for v in found.values()) and not found[13].accepted


def test_silence_counts_as_guilt_for_the_detector_and_what_is_nobodys_fault_as_nothing() -> None:
    """Rows: 0 silent, 1 without a budget, 2 misconfigured, 3 an audited node without a budget, 4 cleared."""
    unasked = {11: Exhausted("spent"), 12: Misconfigured("scale"), 13: Exhausted("spent")}
    detector = Named()
    question(
        round_of(5, lambda asked: {14: b""}), detector, Scripted(challenges=unasked),
        suspecting([0, 1, 2, 4], [3], count=5),
    )  # fmt: skip
    assert detector.told == [{0: True, 4: False}]
    assert detector.audits == [(3, 1, 2, 3)]


def test_after_an_outage_the_detector_names_nobody_further() -> None:
    detector = Named(((0, 2, 3),))
    found = question(round_of(4, broken_line), detector, Scripted(), suspecting([1]))
    assert detector.told == [] and [v.accepted for v in found.values()] == [True, False, True, True]


def test_where_nobody_has_a_challenge_the_line_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    found = question(round_of(4, broken_line), Named(), Scripted(challenges={11: Exhausted("spent")}), suspecting([1]))
    assert found[11].reason == "spent" and not caplog.records


def test_the_log_says_how_many_could_not_be_asked_and_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    question(round_of(4, broken_line), Named(), Scripted(challenges={11: Misconfigured("set scale")}),
             suspecting([1, 2, 3]))  # fmt: skip
    assert [r.getMessage() for r in caplog.records] == [
        "faa node=11 cannot be verified: set scale",
        "faa: asking 2 nodes for evidence failed: OSError('no network')",
    ]


def test_a_verifier_that_judges_fewer_answers_than_it_got_is_at_fault_and_no_node() -> None:
    class Short(Collected):
        def judge_all(self, answers: Sequence[tuple[Case, bytes]]) -> list[Any]:
            return super().judge_all(answers)[1:]

    with pytest.raises(ValueError, match="zip"):
        question(round_of(4, echo), Named(), Short(), suspecting([1, 2]))


def test_a_detector_says_something_of_everybody() -> None:
    short = replace(suspecting([1]), evidence=("odd",) * 3)
    with pytest.raises(ValueError, match="zip"):
        question(round_of(4, echo), Named(), Scripted(), short)


class TestBenefitOfTheDoubt:
    """Suspects that could not be asked are judged as without a verifier, unless somebody was convicted."""

    @dataclass
    class Grave(Named):
        rows: tuple[int, ...] = ()

        def grave(self, batch: Any, detection: Detection) -> tuple[int, ...]:
            return self.rows

    SPENT = Scripted(challenges={11: Exhausted("spent"), 12: Exhausted("spent")})

    def test_who_is_suspected_by_less_takes_part(self) -> None:
        found = question(round_of(4, echo), self.Grave(rows=(2, 3)), self.SPENT, suspecting([1, 2]))
        told = "not asked, and suspected by less than what counts without evidence: spent"
        assert found[11] == Verdict(11, Outcome.TRUSTED, True, True, 0.25, reason=told)
        assert found[12] == Verdict(12, Outcome.EXHAUSTED, False, True, 0.5, reason="spent")

    def test_not_where_somebody_was_convicted(self) -> None:
        verifier = Scripted({13: CONVICTED}, self.SPENT.challenges)
        found = question(round_of(4, echo), self.Grave(), verifier, suspecting([1, 2, 3]))
        assert [v.accepted for v in found.values()] == [True, False, False, False]

    def test_who_was_asked_has_none(self) -> None:
        found = question(round_of(4, lambda asked: {}), self.Grave(), Scripted(), suspecting([1]))
        assert found[11].verdict is Outcome.MISSING

    def test_a_detector_that_cannot_tell_leaves_all_out(self) -> None:
        class Plain:
            more = Named().more

        found = question(round_of(4, echo), Plain(), self.SPENT, suspecting([1, 2]))  # type: ignore[arg-type]
        assert not found[11].accepted and not found[12].accepted

    def test_by_default_every_suspect_is_grave(self) -> None:
        found = question(round_of(4, echo), Named(), self.SPENT, suspecting([1, 2]))
        assert not found[11].accepted and not found[12].accepted


def test_a_clock_adds_up_the_seconds_of_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({"judge": 1.0})
    for begins, ends, phase in ((10.0, 12.0, "ask"), (20.0, 23.5, "ask"), (7.0, 8.0, "judge")):
        times = iter((begins, ends))
        monkeypatch.setattr(time, "perf_counter", lambda times=times: next(times))
        with clock(phase):
            pass
    assert clock.seconds == {"judge": 2.0, "ask": 5.5}


def test_the_round_is_timed_by_phase() -> None:
    this = round_of(4, echo)
    question(this, Named(), Scripted(), suspecting([1]))
    assert set(this.clock.seconds) == {"ask", "judge", "detect"} and min(this.clock.seconds.values()) >= 0


def test_number_of_examples_may_come_as_any_number() -> None:
    this = round_of(4, echo)
    sent = {10: replace(this.replies[10], num_examples=np.float32(12.0))}
    assert replace(this, replies=sent).case(0).num_examples == 12
    assert math.isfinite(this.batch.weights.sum())
