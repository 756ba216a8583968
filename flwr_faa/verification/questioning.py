"""The verification round: ask suspects for evidence, judge it, and let the verdicts name further suspects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.replies.updates import Arrays, Batch, Reply
from flwr_faa.report import Outcome, Verdict
from flwr_faa.verification.base import (
    Case,
    Collective,
    Exhausted,
    Finding,
    Misconfigured,
    Verifier,
    logger,
    one_node,
    outcome,
)
from flwr_faa.verification.wire import WireError

#: Challenges by node, to evidence by node; a string says why there is none. A node may also be left out.
AskNodes = Callable[[Mapping[int, bytes]], Mapping[int, bytes | str]]


@dataclass
class Clock:
    """Seconds of a round, by phase."""

    seconds: dict[str, float]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Round:
    """One round: what its stages share."""

    number: int
    nonce: int
    model: Arrays
    batch: Batch
    replies: Mapping[int, Reply]
    ask: AskNodes
    clock: Clock

    def case(self, row: int) -> Case:
        """Return a row's claim."""
        reply = self.replies[self.batch.node_ids[row]]
        examples = int(float(reply.num_examples))  # type: ignore[arg-type]
        models = self.batch.models[row]
        return Case(self.number, reply.node_id, self.nonce, self.model, models, examples, reply.commitment)


def question(this: Round, detector: Detector, verifier: Verifier | None, detection: Detection) -> dict[int, Verdict]:
    """Return the verdicts on all valid updates, after asking until the detector names no further suspect."""
    batch, audited = this.batch, frozenset(detection.audits)
    by_row = {
        row: Verdict(node_id, Outcome.TRUSTED, True, score=float(score), reason=evidence)
        for row, (node_id, score, evidence) in enumerate(
            zip(batch.node_ids, detection.scores, detection.evidence, strict=True)
        )
    }
    if verifier is None:
        for row in detection.suspects:
            by_row[row] = replace(by_row[row], verdict=Outcome.REMOVED, suspect=True, accepted=False)
        return {v.node_id: v for v in by_row.values()}
    for row in audited:
        by_row[row] = replace(by_row[row], reason=f"audit; {by_row[row].reason}")
    judged: dict[int, bool] = {}
    done: set[int] = set()
    pending: Iterable[int] = (*detection.suspects, *detection.audits)
    while rows := [row for row in dict.fromkeys(pending) if row not in done]:
        # Challenge, ask and judge.
        cases, challenges, unchallenged = _challenge(this, verifier, rows)
        for row, why in unchallenged.items():
            by_row[row] = _excuse(by_row[row], why) if row in audited else _drop(by_row[row], why)
        with this.clock("ask"):
            answers = _ask(this.ask, challenges)
        with this.clock("judge"):
            told = {row: answers.get(case.node_id, "no answer in time") for row, case in cases.items()}
            for row, finding in _judge(verifier, cases, told).items():
                by_row[row] = _conclude(by_row[row], finding, row in audited)
        done.update(rows)
        # A spent budget or an absent authority says nothing about a node, so the detector must not learn from it:
        # after an outage all look-alikes would be asked, and the whole round left out. A malformed commitment does
        # say something.
        unasked = [row for row in rows if by_row[row].verdict in (Outcome.EXHAUSTED, Outcome.REJECTED, Outcome.TRUSTED)]
        judged |= {row: not by_row[row].accepted for row in rows if row not in unasked}
        detection = replace(detection, audits=(*detection.audits, *unasked))
        # What was found may make others suspect.
        with this.clock("detect"):
            pending = detector.more(batch, detection, judged) if judged else ()
    return {v.node_id: v for v in _give_benefit_of_the_doubt(detector, batch, detection, by_row).values()}


def _give_benefit_of_the_doubt(
    detector: Detector, batch: Batch, detection: Detection, by_row: Mapping[int, Verdict]
) -> Mapping[int, Verdict]:
    """Judge suspects that could not be asked as if there were no verifier, unless somebody was convicted."""
    unasked = [row for row in detection.suspects if by_row[row].verdict is Outcome.EXHAUSTED]
    grave = getattr(detector, "grave", None)
    if not unasked or grave is None or any(v.verdict is Outcome.CONVICTED for v in by_row.values()):
        return by_row
    spared = set(unasked) - set(grave(batch, detection))
    told = "not asked, and suspected by less than what counts without evidence"
    return dict(by_row) | {
        row: replace(by_row[row], verdict=Outcome.TRUSTED, accepted=True, reason=f"{told}: {by_row[row].reason}")
        for row in spared
    }


def _challenge(
    this: Round, verifier: Verifier, rows: Iterable[int]
) -> tuple[dict[int, Case], dict[int, bytes], dict[int, Exhausted | Misconfigured | WireError]]:
    """Return the rows' cases, the challenges by node, and why some rows have no challenge."""
    cases, challenges = {}, {}
    unchallenged: dict[int, Exhausted | Misconfigured | WireError] = {}
    for row in rows:
        case = this.case(row)
        try:
            with one_node(case.node_id):
                challenges[case.node_id] = verifier.challenge(case)
            cases[row] = case
        except (Exhausted, Misconfigured, WireError) as why:
            unchallenged[row] = why
    return cases, challenges, unchallenged


def _judge(
    verifier: Verifier, cases: Mapping[int, Case], told: Mapping[int, bytes | str | Exhausted]
) -> dict[int, Finding | Exhausted | Misconfigured | WireError]:
    """Return the findings by row, or why there are none. All evidence is judged at once, if the verifier can."""
    evidence = {row: (cases[row], answer) for row, answer in told.items() if isinstance(answer, bytes)}
    if isinstance(verifier, Collective):
        judged = verifier.judge_all(list(evidence.values()))
    else:
        judged = [outcome(partial(verifier.judge, case, answer)) for case, answer in evidence.values()]
    by_row = dict(zip(evidence, judged, strict=True))
    found: dict[int, Finding | Exhausted | Misconfigured | WireError] = {}
    for row, answer in told.items():
        if not isinstance(answer, bytes):
            found[row] = answer if isinstance(answer, Exhausted) else WireError(answer)
            continue
        try:
            with one_node(cases[row].node_id):
                finding = by_row[row]
                if isinstance(finding, Exception):
                    raise finding
                found[row] = finding
        except (Exhausted, Misconfigured, WireError) as why:
            found[row] = why
    return found


def _conclude(verdict: Verdict, finding: Finding | Exhausted | Misconfigured | WireError, audit: bool) -> Verdict:
    """Return the verdict on a node that has been asked."""
    if not isinstance(finding, Finding):
        return _excuse(verdict, finding) if audit else _drop(verdict, finding)
    return replace(
        verdict,
        verdict=Outcome.CONVICTED if finding.convicted else Outcome.CLEARED,
        suspect=True,
        accepted=not finding.convicted,
        error=finding.error,
        threshold=finding.threshold,
        reason=f"{finding.reason}; {verdict.reason}" if verdict.reason else finding.reason,
    )


def _ask(ask: AskNodes, challenges: Mapping[int, bytes]) -> Mapping[int, bytes | str | Exhausted]:
    """Return what the nodes answer. If asking itself fails, the fault is the server's line, not a node's."""
    try:
        return ask(challenges) if challenges else {}
    except Exception as error:  # noqa: BLE001 - a transport may raise what it likes
        logger.error("faa: asking %d nodes for evidence failed: %r", len(challenges), error)
        return dict.fromkeys(challenges, Exhausted(f"it could not be asked ({type(error).__name__})"))


def _drop(verdict: Verdict, why: Exhausted | Misconfigured | WireError) -> Verdict:
    """Return the finding for a node without evidence: it is out for this round, but not convicted."""
    if isinstance(why, Misconfigured):
        logger.error("faa node=%d cannot be verified: %s", verdict.node_id, why)
        return replace(verdict, verdict=Outcome.REJECTED, accepted=False, reason=str(why))
    if isinstance(why, Exhausted):
        return replace(verdict, verdict=Outcome.EXHAUSTED, suspect=True, accepted=False, reason=str(why))
    reason = f"no valid evidence: {why}"
    return replace(verdict, verdict=Outcome.MISSING, suspect=True, accepted=False, reason=reason)


def _excuse(verdict: Verdict, why: Exhausted | Misconfigured | WireError) -> Verdict:
    """Return the verdict on an audited node that could not be asked: it takes part as if it had not been drawn."""
    if isinstance(why, Exhausted):
        return replace(verdict, reason=f"not audited: {why}; {verdict.reason.removeprefix('audit; ')}")
    return _drop(verdict, why)
