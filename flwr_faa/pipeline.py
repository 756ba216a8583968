"""The round, without I/O: detect, verify, remove, average (FAA-DL, Algorithm 2).

The pipeline asks for evidence through a callable and does not know which Flower API, or a test, answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.errors import ArgumentValueError
from flwr_faa.holdout.base import Holdout
from flwr_faa.holdout.selection import Choice
from flwr_faa.policy import Policy
from flwr_faa.replies.averaging import apply_update, average
from flwr_faa.replies.updates import Arrays, Batch, Reply, plausible, read_replies
from flwr_faa.report import DataDisclosure, Outcome, RoundReport, Verdict
from flwr_faa.verification.base import Disclosing, Enrolling, Verifier
from flwr_faa.verification.questioning import AskNodes, Clock, Round, question

#: Audit probability of a node whose disclosure budget is spent, relative to an untouched node. Audits prefer the nodes
#: that have disclosed least, but no node may count on not being drawn.
LEAST_CHANCE = 0.25
#: The update ``w' - w``, shape (d,), from a batch and the kept rows. At least one row is kept; their order depends on
#: contents alone.
Rule = Callable[[Batch, Sequence[int]], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """One round of FAA-DL over a detector and, where there is one, a verifier.

    Parameters
    ----------
    detector : Detector
    verifier : Verifier, optional
    policy : Policy
    rule : callable, optional
        How accepted updates are combined, ``rule(batch, rows) -> update``, e.g. their median. Default: the mean with
        the weights of the policy.
    observe : bool
        Detect, verify and report, but remove and ban nobody: ``Verdict.withheld`` says what would have been done. Only
        a reply that cannot be averaged is left out.
    holdout : Holdout, optional
        Decides about every node of which nothing is proven.
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
        this = Round(
            server_round, nonce, model, batch, {r.node_id: r for r in replies}, ask, Clock(dict(seconds or {}))
        )
        verdicts = {i: Verdict(i, Outcome.REJECTED, False, reason=why) for i, why in batch.rejected.items()}
        detection = Detection(np.empty(0), float("nan"), (), ())
        if len(batch):
            # Score the updates and name suspects.
            with this.clock("detect"):
                detection = self.detector.detect(batch, seed)
            # Ask the suspects for evidence and judge it.
            verdicts |= question(this, self.detector, self.verifier, detection)
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
            # So many silent nodes have no handler for the question, or no power: that is nobody's fault.
            if sum(v.banned for v in banned.values()) > limit:
                banned = {i: v if v.verdict is Outcome.CONVICTED else verdicts[i] for i, v in banned.items()}
            verdicts = banned
        out = sum(not v.accepted and v.verdict is not Outcome.LEFT_OUT for i, v in verdicts.items() if i in places)
        failed_closed = mistaken or (self.policy.fail_closed and out > limit)
        if failed_closed:
            verdicts = {i: replace(v, accepted=False) for i, v in verdicts.items()}
        return verdicts, failed_closed

    def _as_enrolled(self, replies: Sequence[Reply]) -> list[Reply]:
        """Reject replies that report another number of examples than their node has enrolled.

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
        """Return the batch with chances of an audit: the less a node has disclosed, the more likely it is drawn.

        No audit costs a node the last check that its budget allows: that check is kept for a suspicion.
        """
        known = self._known(batch.node_ids)
        if not known or not isinstance(self.verifier, Disclosing):
            return batch
        spent = [known[i].max_rank / max(1, known[i].budget) if i in known else 0.0 for i in batch.node_ids]
        spare = np.array([self.verifier.affordable(i) >= 2 for i in batch.node_ids])
        return replace(batch, chances=np.where(spare, np.maximum(1.0 - np.array(spent), LEAST_CHANCE), 0.0))

    def _known(self, node_ids: Iterable[int]) -> dict[int, DataDisclosure]:
        """Return what has been disclosed of these nodes' data, as far as the verifier has heard."""
        if not isinstance(self.verifier, Disclosing):
            return {}
        return {i: d for i in node_ids if (d := self.verifier.disclosure(i)) is not None}

    def _drop(self, verdict: Verdict) -> Verdict:
        """Leave a cleared node out for its score, after all evidence: detectors learn from who was cleared."""
        limit, score = self.policy.drop_above, verdict.score
        if limit is None or score is None or verdict.verdict is not Outcome.CLEARED or score <= limit:
            return verdict
        reason = f"left out, not for its evidence but for its score: {score:.4g} is above {limit:g}; {verdict.reason}"
        return replace(verdict, verdict=Outcome.DROPPED, accepted=False, reason=reason)

    def _hold_out(self, this: Round, verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
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
            choice = self.holdout.choose(this.batch, this.model, kept, asked, unheard, this.number)
        for row in asked:
            of_row[row] = _told(of_row[row], choice, row)
        return verdicts | {v.node_id: v for v in of_row.values()}

    def _combine(self, batch: Batch, rows: Sequence[int], model: Arrays) -> list[npt.NDArray[Any]]:
        """Return the new model from the kept rows."""
        if self.rule is None:
            return average(batch, rows, model, renormalise=self.policy.renormalise)
        update = np.asarray(self.rule(batch, rows), np.float64)
        if update.shape != (batch.layout.size,) or not np.isfinite(update).all():
            raise ArgumentValueError(
                f"expected {batch.layout.size} finite numbers from the rule, got shape {update.shape}"
            )
        # A rule combines the columns of the updates; bookkeeping has none, and is averaged.
        counted = average(batch, rows, model, renormalise=self.policy.renormalise, bookkeeping_only=True)
        return apply_update(counted, update, batch.layout)

    def _ban(self, verdict: Verdict, strikes: int) -> Verdict:
        struck_out = verdict.verdict is Outcome.MISSING and strikes + 1 >= self.policy.max_strikes
        return replace(verdict, banned=True) if verdict.verdict is Outcome.CONVICTED or struck_out else verdict


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
