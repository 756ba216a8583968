"""The round, without I/O: detect, verify, remove, average (FAA-DL, Algorithm 2).

The pipeline asks for evidence through a callable and does not know which Flower API, or a test, answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.holdout.base import Holdout
from flwr_faa.holdout.selection import Choice
from flwr_faa.replies.averaging import apply_update, average
from flwr_faa.replies.updates import Arrays, Batch, Reply, Weighting, plausible, read_replies
from flwr_faa.report import DataDisclosure, Outcome, RoundReport, Verdict
from flwr_faa.verification.base import (
    Case,
    Disclosing,
    Enrolling,
    Exhausted,
    Finding,
    Misconfigured,
    Verifier,
    logger,
    one_node,
)
from flwr_faa.verification.wire import WireError

#: Challenges by node, to evidence by node; a string says why there is none. A node may also be left out.
AskNodes = Callable[[Mapping[int, bytes]], Mapping[int, bytes | str]]
#: Audit probability of a node whose disclosure budget is spent, relative to an untouched node. Audits prefer the nodes
#: that have disclosed least, but no node may count on not being drawn.
LEAST_CHANCE = 0.25
#: The update ``w' - w``, shape (d,), from a batch and the kept rows. At least one row is kept; their order depends on
#: contents alone.
Rule = Callable[[Batch, Sequence[int]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Policy:
    """What follows from verdicts.

    Parameters
    ----------
    weighting : {"capped", "uniform", "reported"}
        See ``flwr_faa.replies.updates.read_replies``.
    ban : bool
        A convicted node takes no further part. Where more than ``assumed_share`` of a round's updates are convicted,
        nobody is banned and the global model stays: that is what a configuration mistake looks like.
    max_strikes : int
        A node that leaves so many challenges unanswered is banned too (if ``ban``), unless more than ``assumed_share``
        would be out with it in the same round.
    fail_closed : bool
        Keep the global model in a round in which more than ``assumed_share`` of the updates were convicted, missing
        or removed.
    assumed_share : float
        Share of attackers that the operator assumes at most.
    renormalise : bool
        Let the weights of the kept updates sum to one. False is LoMar's Eq. 3 as printed: every removal shortens the
        step.
    drop_above : float or None
        Leave a cleared node out of the round all the same if the detector's score is above this, which should be well
        above the detector's own threshold. Verification shows that a node trained on the data it holds; it cannot show
        that the data's labels are right. So the evidence clears the moderately suspicious, honest clients with odd
        data among them, and the score alone decides about the extreme. A score is no proof: nobody is banned for it.

    Examples
    --------
    >>> Policy(ban=False, drop_above=12.0).weighting
    'capped'
    >>> Policy(max_strikes=0)
    Traceback (most recent call last):
    flwr_faa.errors.ArgumentValueError: expected max_strikes to be an integer of at least 1, got 0
    """

    weighting: Weighting = "capped"
    ban: bool = True
    max_strikes: int = 3
    fail_closed: bool = False
    assumed_share: float = 0.5
    renormalise: bool = True
    drop_above: float | None = None

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"expected weighting to be one of {get_args(Weighting)}, got {self.weighting!r}")
        for name in ("ban", "fail_closed", "renormalise"):
            expected.flag(name, getattr(self, name))
        expected.integer("max_strikes", self.max_strikes, least=1)
        expected.number("assumed_share", self.assumed_share, least=0, most=1)
        if self.drop_above is not None:
            expected.number("drop_above", self.drop_above, least=0)


@dataclass(frozen=True, eq=False)
class _Round:
    """What the stages of one round share."""

    number: int
    nonce: int
    model: Arrays
    batch: Batch
    replies: Mapping[int, Reply]
    ask: AskNodes
    clock: _Clock

    def case(self, row: int) -> Case:
        """Return a row's claim."""
        reply = self.replies[self.batch.node_ids[row]]
        examples = int(float(reply.num_examples))  # type: ignore[arg-type]
        models = self.batch.models[row]
        return Case(self.number, reply.node_id, self.nonce, self.model, models, examples, reply.commitment)


@dataclass(frozen=True)
class Pipeline:
    """One round of FAA-DL over a detector and, where there is one, a verifier.

    Parameters
    ----------
    detector : Detector
    verifier : Verifier, optional
    policy : Policy
    rule : callable, optional
        How the kept updates are combined, ``rule(batch, rows) -> update``, e.g. their median. Default: the mean with
        the weights of the policy.
    observe : bool
        Detect, verify and report, but remove and ban nobody: ``Verdict.withheld`` says what would have been done. Only
        a reply that cannot be averaged is left out.
    holdout : Holdout, optional
        Has the last word about everybody of whom nothing is proven.
    """

    detector: Detector
    verifier: Verifier | None = None
    policy: Policy = field(default_factory=Policy)
    rule: Rule | None = None
    observe: bool = False
    holdout: Holdout | None = None

    def run(
        self,
        server_round: int,
        replies: Sequence[Reply],
        model: Arrays,
        ask: AskNodes,
        *,
        nonce: int = 0,
        seed: int = 0,
        strikes: Mapping[int, int] | None = None,
        seconds: Mapping[str, float] | None = None,
        names: Sequence[str] = (),
    ) -> tuple[list[npt.NDArray[Any]], RoundReport]:
        """Decide a round.

        Parameters
        ----------
        server_round : int
        replies : sequence of Reply
            In any order; the result is the same bit for bit.
        model : sequence of ndarray
            The global model that was broadcast.
        ask : callable
            Gets challenges to their nodes and evidence back. If it raises, nobody could be asked.
        nonce, seed : int
            The round's: ``nonce`` went to the clients (batch order), ``seed`` never leaves the server (audits).
        strikes : mapping
            Strikes so far, by node.
        seconds : mapping
            Times already spent on this round, for the report.
        names : sequence of str
            Of the model's arrays, where the API has them.

        Returns
        -------
        arrays, report
            The new global model: ``w + sum_i alpha_i g_i`` over the kept (the paper's ``w - alpha g`` has the wrong
            sign for its ``g_i = w_i - w``). ``w`` itself where nobody is kept or the round failed closed.
        """
        # Read the replies. What cannot be read is rejected, and its node is not asked about it.
        batch = self._prefer(read_replies(self._as_enrolled(replies), model, self.policy.weighting, names, seed))
        this = _Round(
            server_round, nonce, model, batch, {r.node_id: r for r in replies}, ask, _Clock(dict(seconds or {}))
        )
        verdicts = {i: Verdict(i, Outcome.REJECTED, False, reason=why) for i, why in batch.rejected.items()}
        detection = Detection(np.empty(0), float("nan"), (), ())
        if len(batch):
            # Score the updates and name suspects.
            with this.clock("detect"):
                detection = self.detector.detect(batch, seed)
            # Ask the suspects for evidence and judge it.
            verdicts |= self._verify(this, detection)
        # Drop, ask the held-out data, ban, or fail closed.
        verdicts = self._hold_out(this, {i: self._drop(v) for i, v in verdicts.items()})
        verdicts, failed_closed = self._sanction(verdicts, batch, strikes or {})
        if self.observe:
            verdicts = {i: _withhold(v) for i, v in verdicts.items()}
        # Combine what is accepted.
        with this.clock("aggregate"):
            rows = [row for row in batch.canonical if verdicts[batch.node_ids[row]].accepted]
            arrays = self._combine(batch, rows, model) if rows else [np.array(w) for w in model]
        known = self._known(verdicts)
        report = RoundReport(
            server_round,
            tuple(verdicts[i] for i in sorted(verdicts)),
            self.verifier.name if self.verifier else "",
            detection.threshold,
            failed_closed,
            this.clock.seconds,
            tuple(known[i] for i in sorted(known)),
        )
        return arrays, report

    def _sanction(
        self, verdicts: dict[int, Verdict], batch: Batch, strikes: Mapping[int, int]
    ) -> tuple[dict[int, Verdict], bool]:
        """Ban whoever is to be banned, and say whether the round fails closed: then nothing is accepted."""
        limit, places = self.policy.assumed_share * len(batch), set(batch.node_ids)
        # More convictions than there may be attackers: a mistake of the project's, or the end of what can be assumed.
        mistaken = sum(v.verdict is Outcome.CONVICTED for v in verdicts.values()) > limit
        if self.policy.ban and not mistaken:
            banned = {i: self._ban(v, strikes.get(i, 0)) for i, v in verdicts.items()}
            # So many silent at once have no handler for the question, or no power: no crime of each.
            if sum(v.banned for v in banned.values()) > limit:
                banned = {i: v if v.verdict is Outcome.CONVICTED else verdicts[i] for i, v in banned.items()}
            verdicts = banned
        out = sum(not v.accepted and v.verdict is not Outcome.LEFT_OUT for i, v in verdicts.items() if i in places)
        failed_closed = mistaken or (self.policy.fail_closed and out > limit)
        if failed_closed:
            verdicts = {i: replace(v, accepted=False) for i, v in verdicts.items()}
        return verdicts, failed_closed

    def _as_enrolled(self, replies: Sequence[Reply]) -> list[Reply]:
        """The replies, without those that report another number of examples than their node has enrolled.

        The number is a weight in every average, and only a suspect would be asked about it.
        """
        checked = []
        for reply in replies:
            enrolled = self.verifier.samples(reply.node_id) if isinstance(self.verifier, Enrolling) else None
            told = not reply.problem and plausible(reply.num_examples)  # anything else is read_replies' to reject
            if enrolled is not None and told and not self.observe and reply.num_examples != enrolled:
                why = f"num-examples: expected the {enrolled} samples that it has enrolled, got {reply.num_examples!r}"
                reply = Reply(reply.node_id, problem=why)
            checked.append(reply)
        return checked

    def _prefer(self, batch: Batch) -> Batch:
        """The batch, in which whoever's data are less known is more likely to be drawn for an audit.

        Nobody is audited at the price of the last check that its budget allows: that one is kept for a suspicion.
        """
        known = self._known(batch.node_ids)
        if not known or not isinstance(self.verifier, Disclosing):
            return batch
        spent = [known[i].max_rank / max(1, known[i].budget) if i in known else 0.0 for i in batch.node_ids]
        spare = np.array([self.verifier.affordable(i) >= 2 for i in batch.node_ids])
        return replace(batch, chances=np.where(spare, np.maximum(1.0 - np.array(spent), LEAST_CHANCE), 0.0))

    def _known(self, node_ids: Iterable[int]) -> dict[int, DataDisclosure]:
        """What has been disclosed of these nodes' data, as far as the verifier has heard."""
        if not isinstance(self.verifier, Disclosing):
            return {}
        return {i: d for i in node_ids if (d := self.verifier.disclosure(i)) is not None}

    def _verify(self, this: _Round, detection: Detection) -> dict[int, Verdict]:
        """Return the verdicts on all valid updates, after asking until the detector names no further suspect."""
        batch, audited = this.batch, frozenset(detection.audits)
        by_row = {
            row: Verdict(node_id, Outcome.TRUSTED, True, score=float(score), reason=evidence)
            for row, (node_id, score, evidence) in enumerate(
                zip(batch.node_ids, detection.scores, detection.evidence, strict=True)
            )
        }
        if self.verifier is None:
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
            cases, challenges, unchallenged = self._challenge(this, rows)
            for row, why in unchallenged.items():
                by_row[row] = _unaudited(by_row[row], why) if row in audited else _dropped(by_row[row], why)
            with this.clock("ask"):
                answers = _asked(this.ask, challenges)
            with this.clock("judge"):
                for row, case in cases.items():
                    answer = answers.get(case.node_id, "no answer in time")
                    by_row[row] = self._judge(by_row[row], case, answer, row in audited)
            done.update(rows)
            # A budget that is spent or an authority that is away says nothing about anybody: no verdict to learn from,
            # or an outage would have the look-alikes of everybody asked, and the whole round left out. A commitment
            # that is malformed does.
            unasked = [
                row for row in rows if by_row[row].verdict in (Outcome.EXHAUSTED, Outcome.REJECTED, Outcome.TRUSTED)
            ]
            judged |= {row: not by_row[row].accepted for row in rows if row not in unasked}
            detection = replace(detection, audits=(*detection.audits, *unasked))
            # What was found may make others suspect.
            with this.clock("detect"):
                pending = self.detector.more(batch, detection, judged) if judged else ()
        return {v.node_id: v for v in self._benefit_of_the_doubt(batch, detection, by_row).values()}

    def _benefit_of_the_doubt(
        self, batch: Batch, detection: Detection, by_row: Mapping[int, Verdict]
    ) -> Mapping[int, Verdict]:
        """Suspects that could not be asked are judged as where there is no verifier, unless somebody was convicted."""
        unasked = [row for row in detection.suspects if by_row[row].verdict is Outcome.EXHAUSTED]
        grave = getattr(self.detector, "grave", None)
        if not unasked or grave is None or any(v.verdict is Outcome.CONVICTED for v in by_row.values()):
            return by_row
        spared = set(unasked) - set(grave(batch, detection))
        told = "not asked, and suspected by less than what counts without evidence"
        return dict(by_row) | {
            row: replace(by_row[row], verdict=Outcome.TRUSTED, accepted=True, reason=f"{told}: {by_row[row].reason}")
            for row in spared
        }

    def _challenge(
        self, this: _Round, rows: Iterable[int]
    ) -> tuple[dict[int, Case], dict[int, bytes], dict[int, Exhausted | Misconfigured | WireError]]:
        """Return the rows' cases, the challenges by node, and why some rows have no challenge."""
        assert self.verifier is not None
        cases, challenges = {}, {}
        unchallenged: dict[int, Exhausted | Misconfigured | WireError] = {}
        for row in rows:
            case = this.case(row)
            try:
                with one_node(case.node_id):
                    challenges[case.node_id] = self.verifier.challenge(case)
                cases[row] = case
            except (Exhausted, Misconfigured, WireError) as why:
                unchallenged[row] = why
        return cases, challenges, unchallenged

    def _judge(self, verdict: Verdict, case: Case, evidence: bytes | str | Exhausted, audit: bool) -> Verdict:
        assert self.verifier is not None
        try:
            if isinstance(evidence, Exhausted):
                raise evidence
            if isinstance(evidence, str):
                raise WireError(evidence)
            with one_node(case.node_id):
                finding: Finding = self.verifier.judge(case, evidence)
        except (Exhausted, Misconfigured, WireError) as why:
            return _unaudited(verdict, why) if audit else _dropped(verdict, why)
        outcome = Outcome.CONVICTED if finding.convicted else Outcome.CLEARED
        return replace(
            verdict,
            verdict=outcome,
            suspect=True,
            accepted=not finding.convicted,
            error=finding.error,
            threshold=finding.threshold,
            reason=f"{finding.reason}; {verdict.reason}" if verdict.reason else finding.reason,
        )

    def _drop(self, verdict: Verdict) -> Verdict:
        """After all evidence is in: to a sequential detector, who is dropped here was cleared."""
        limit, score = self.policy.drop_above, verdict.score
        if limit is None or score is None or verdict.verdict is not Outcome.CLEARED or score <= limit:
            return verdict
        reason = f"left out, not for its evidence but for its score: {score:.4g} is above {limit:g}; {verdict.reason}"
        return replace(verdict, verdict=Outcome.DROPPED, accepted=False, reason=reason)

    def _hold_out(self, this: _Round, verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
        """Let the held-out data decide about those of whom nothing is proven."""
        if self.holdout is None:
            return verdicts
        of_row = {row: verdicts[node_id] for row, node_id in enumerate(this.batch.node_ids)}
        unheard = [row for row, v in of_row.items() if v.verdict in (Outcome.REMOVED, Outcome.EXHAUSTED)]
        accepted = [row for row, v in of_row.items() if v.accepted]
        among_all = self.holdout.among == "everybody"
        kept, asked = ([], [*accepted, *unheard]) if among_all else (accepted, unheard)
        if not asked:
            return verdicts
        with this.clock("hold out"):
            choice = self.holdout.choose(this.batch, this.model, kept, asked, this.number)
        for row in asked:
            of_row[row] = _told(of_row[row], choice, row)
        return verdicts | {v.node_id: v for v in of_row.values()}

    def _combine(self, batch: Batch, rows: Sequence[int], model: Arrays) -> list[npt.NDArray[Any]]:
        """Return the new model from the kept rows."""
        if self.rule is None:
            return average(batch, rows, model, renormalise=self.policy.renormalise)
        update = np.asarray(self.rule(batch, rows), np.float64)
        if update.shape != (batch.layout.size,) or not np.isfinite(update).all():
            raise ValueError(f"expected {batch.layout.size} finite numbers from the rule, got shape {update.shape}")
        # A rule combines the columns of the updates; bookkeeping has none, and is averaged.
        counted = average(batch, rows, model, renormalise=self.policy.renormalise, bookkeeping_only=True)
        return apply_update(counted, update, batch.layout)

    def _ban(self, verdict: Verdict, strikes: int) -> Verdict:
        struck_out = verdict.verdict is Outcome.MISSING and strikes + 1 >= self.policy.max_strikes
        return replace(verdict, banned=True) if verdict.verdict is Outcome.CONVICTED or struck_out else verdict


def _asked(ask: AskNodes, challenges: Mapping[int, bytes]) -> Mapping[int, bytes | str | Exhausted]:
    """Return what the nodes answer. If asking itself fails, the fault is the server's line, not a node's."""
    try:
        return ask(challenges) if challenges else {}
    except Exception as error:  # noqa: BLE001 - a transport may raise what it likes
        logger.error("faa: asking %d nodes for evidence failed: %r", len(challenges), error)
        return dict.fromkeys(challenges, Exhausted(f"it could not be asked ({type(error).__name__})"))


def _dropped(verdict: Verdict, why: Exhausted | Misconfigured | WireError) -> Verdict:
    """Return the finding for a node without evidence: it is out for this round, but not convicted."""
    if isinstance(why, Misconfigured):
        logger.error("faa node=%d cannot be verified: %s", verdict.node_id, why)
        return replace(verdict, verdict=Outcome.REJECTED, accepted=False, reason=str(why))
    if isinstance(why, Exhausted):
        return replace(verdict, verdict=Outcome.EXHAUSTED, suspect=True, accepted=False, reason=str(why))
    reason = f"no valid evidence: {why}"
    return replace(verdict, verdict=Outcome.MISSING, suspect=True, accepted=False, reason=reason)


def _unaudited(verdict: Verdict, why: Exhausted | Misconfigured | WireError) -> Verdict:
    """Return the verdict on an audited node that could not be asked: it takes part as if it had not been drawn."""
    if isinstance(why, Exhausted):
        return replace(verdict, reason=f"not audited: {why}; {verdict.reason.removeprefix('audit; ')}")
    return _dropped(verdict, why)


def _told(verdict: Verdict, choice: Choice, row: int) -> Verdict:
    """Return the verdict on a node about which held-out data have decided."""
    own = f"; {verdict.reason}" if verdict.reason else ""
    if row not in choice.kept:
        risen = choice.rises[row]
        told = f"would have risen by {risen:.3g}" if math.isfinite(risen) else "would not have been finite"
        reason = f"left out, not guilty: with it the held-out loss of {choice.loss:.4g} {told}{own}"
        return replace(verdict, verdict=Outcome.LEFT_OUT, accepted=False, reason=reason)
    if verdict.accepted:
        return verdict
    reason = f"suspected and not asked, but it does not raise the held-out loss{own}"
    return replace(verdict, verdict=Outcome.TRUSTED, accepted=True, reason=reason)


def _withhold(verdict: Verdict) -> Verdict:
    """Return the same finding without its consequences."""
    if verdict.accepted or verdict.verdict is Outcome.REJECTED:
        return verdict
    withheld = "left out" if verdict.verdict is Outcome.LEFT_OUT else "removed"
    return replace(verdict, accepted=True, banned=False, withheld=withheld + " and banned" * verdict.banned)


@dataclass
class _Clock:
    seconds: dict[str, float]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start
