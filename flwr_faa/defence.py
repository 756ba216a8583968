"""What both strategies share: the pipeline with its memory. Nothing here knows which Flower API it serves."""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import fields
from logging import ERROR, INFO, WARNING
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common.logger import log

from flwr_faa.detection.base import Detector
from flwr_faa.ledger import Ledger
from flwr_faa.pipeline import Ask, Pipeline, Policy, Rule
from flwr_faa.updates import Arrays, Reply
from flwr_faa.verdict import Outcome, RoundReport, Verdict, describe
from flwr_faa.verification.base import Enrolling, Exhausted, Misconfigured, Verifier, one_node
from flwr_faa.verification.wire import WireError

#: Rounds in a row without an accepted update, after which it is said what to change.
BARREN = 3
#: As the pipeline's, with the seconds to wait.
AskFor = Callable[[Mapping[int, bytes], float], Mapping[int, bytes | str]]


class Defence:
    """Pipeline, ledger, and what is remembered from round to round.

    Parameters
    ----------
    detector : Detector or PyOD detector, optional
        Default: ``Sequential()`` with a verifier, ``MultiView()`` without.
    verifier : Verifier, optional
        Without one, suspects are removed unheard.
    policy : Policy
    ledger : Ledger, optional
        In memory if not given. Bans found in it hold.
    timeout : float
        Seconds to wait for the evidence of one batch of suspects.
    rule : callable, optional
        See :class:`flwr_faa.pipeline.Pipeline`.
    seed : int, optional
        For reproducible simulations. Unset, it is drawn: who knows it knows who will be audited.
    observe : bool
        See :class:`flwr_faa.pipeline.Pipeline`. Nodes that did not enrol take part too. Bans found in the ledger hold.
    """

    def __init__(
        self,
        detector: object | None,
        verifier: Verifier | None,
        policy: Policy,
        ledger: Ledger | None,
        timeout: float,
        seed: int | None,
        rule: Rule | None = None,
        observe: bool = False,
    ) -> None:
        self.verifier, self.policy, self.timeout, self.observe = verifier, policy, timeout, observe
        self.detector = _detector(detector, verifier)
        self.ledger = ledger or Ledger()
        self.reports: list[RoundReport] = []
        self._pipeline = Pipeline(self.detector, verifier, policy, rule, observe)
        self._seed = secrets.randbits(63) if seed is None else seed
        for note in verifier.notes if verifier else ():
            log(WARNING, "%s", note)

    def nonce(self, server_round: int) -> int:
        """What the clients draw their batch order from in this round. Non-negative, below 2^63."""
        return self._draw(server_round, 0)

    @property
    def commits(self) -> bool:
        """Whether clients must commit themselves with every update."""
        return isinstance(self.verifier, Enrolling)

    def enrol(self, node_ids: Iterable[int], ask: AskFor) -> dict[int, str]:
        """Ask those about to train who are not enrolled yet, and say why some still are not: they cannot take part.

        Parameters
        ----------
        node_ids : iterable of int
        ask : callable
            ``ask(requests, timeout)``, as the pipeline's.
        """
        if not isinstance(self.verifier, Enrolling):
            return {}
        pending: dict[int, bytes] = {}
        failed: dict[int, str] = {}
        for node in node_ids:
            try:
                with one_node(node):
                    if (request := self.verifier.enrolment(node)) is not None:
                        pending[node] = request
            except (Exhausted, Misconfigured, WireError) as why:
                failed[node] = f"not enrolled: {why}"
        if pending:
            log(INFO, "faa: asking %d nodes to enrol", len(pending))
        answers = ask(pending, self.verifier.enrol_timeout) if pending else {}
        for node in pending:
            answer = answers.get(node, "no answer in time")
            try:
                if isinstance(answer, str):
                    raise WireError(answer)
                with one_node(node):
                    self.verifier.enrol(node, answer)
            except (Exhausted, Misconfigured, WireError) as why:
                failed[node] = f"not enrolled: {why}"
        for node, problem in failed.items():
            log(WARNING, "faa node=%d %s", node, problem)
        return {} if self.observe else failed

    def present(self, connected: Callable[[], Set[int]]) -> Set[int]:
        """The connected nodes, once one of them is not banned.

        Waits for who has taken part in this run and is away, as Flower waits for its least number of nodes: rounds of
        nobody would pass within the minute that a SuperNode takes to come back. Not if all of those are banned too.
        """
        while not (found := connected()) - self.ledger.bans.keys():
            if not {v.node_id for report in self.reports for v in report.nodes} - self.ledger.bans.keys():
                break
            log(INFO, "Waiting for a node that is not banned: %d connected.", len(found))
            time.sleep(1)
        return found

    def check_grid(self, grid: object) -> None:
        """Refuse a simulation-only verifier in a deployment.

        Raises
        ------
        RuntimeError
        """
        if self.verifier is None or not self.verifier.simulation_only:
            return
        # Flower's simulation runs the ServerApp on an InMemoryGrid; a deployment never does.
        if type(grid).__name__ != "InMemoryGrid" and not getattr(grid, "simulated", False):
            raise RuntimeError(
                f"expected a simulation, got {type(grid).__name__}: the verifier {self.verifier.name!r} asks clients "
                "for their data in the clear and refuses to run in a deployment"
            )

    def decide(
        self,
        server_round: int,
        replies: Sequence[Reply],
        model: Arrays,
        ask: Ask,
        seconds: Mapping[str, float],
        names: Sequence[str] = (),
    ) -> tuple[list[npt.NDArray[Any]], RoundReport]:
        """Run one round, remember and log it."""
        arrays, report = self._pipeline.run(
            server_round,
            replies,
            model,
            ask,
            nonce=self.nonce(server_round),
            seed=self._draw(server_round, 1),
            strikes=self.ledger.strikes,
            seconds=seconds,
            names=names,
        )
        self.reports.append(report)
        self.ledger.record(report)
        for verdict in report.nodes:
            log(INFO, "faa round=%d %s", server_round, verdict)
        for verdict in report.having(Outcome.EXHAUSTED):
            log(WARNING, "faa round=%d node=%d could not be asked: %s", server_round, verdict.node_id, verdict.reason)
        if report.disclosures:
            log(INFO, "faa round=%d disclosed: %s", server_round, describe(report.disclosures))
        if report.failed_closed:
            log(WARNING, "faa round=%d failed closed: too many updates convicted or missing", server_round)
        self._alarm(report)
        return arrays, report

    def _alarm(self, report: RoundReport) -> None:
        """Say loudly that a round trained nothing, and why; and what to change if it goes on like that."""
        if report.accepted:
            return
        reasons = Counter(_without_node(v) for v in report.nodes).most_common(3)
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons) or "nobody took part"
        log(ERROR, "faa round=%d nobody was accepted, so the model stays as it is: %s", report.round, why)
        barren = 0
        for past in reversed(self.reports):
            if past.accepted:
                break
            barren += 1
        if barren >= BARREN:
            log(
                ERROR,
                "faa: nothing has been trained for %d rounds. If the nodes were rejected, have them send the model in "
                "the shapes that were broadcast, unmasked and uncompressed; if they were removed or convicted, watch "
                "with observe=True, and compare the training plans of both sides; if they are silent, see their logs",
                barren,
            )

    def summary(self) -> None:
        """Log settings in Flower's style."""
        log(INFO, "\t├──> Defence:")
        log(INFO, "\t│\t├── Detector: %r", self.detector)
        log(INFO, "\t│\t├── Verifier: %s", self.verifier.name if self.verifier else "none (suspects are removed)")
        for f in fields(self.policy):
            log(INFO, "\t│\t├── %s: %s", f.name, getattr(self.policy, f.name))
        log(INFO, "\t│\t├── Observe only: %s", self.observe)
        log(INFO, "\t│\t└── Banned so far: %d", len(self.ledger.bans))

    def _draw(self, server_round: int, stream: int) -> int:
        return int(np.random.SeedSequence([self._seed, server_round, stream]).generate_state(1, np.uint64)[0] >> 1)


def _without_node(verdict: Verdict) -> str:
    """Outcome and reason, the same for all nodes to which the same happened."""
    reason = re.sub(r"^node \d+: ", "", verdict.reason)
    return f"{verdict.verdict} ({reason})" if reason else str(verdict.verdict)


def readable(node_id: int, read: Callable[[], Reply]) -> Reply:
    """Read a node's reply; whatever is raised over what the node sent becomes the rejection of that node."""
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - the one place for it: no client may end a round
        told = str(error) if isinstance(error, ValueError) else type(error).__name__
        log(WARNING, "faa node=%d sent a reply that cannot be read: %s", node_id, told)
        return Reply(node_id, problem=f"expected a reply that can be read: {told}")


def accounted(read: Iterable[Reply], problems: Mapping[int, str], *silent: Mapping[int, str]) -> list[Reply]:
    """Every node of a round: replies as read, those with a problem without what they hold, and the silent, with why."""
    found = [Reply(r.node_id, problem=r.problem or problems[r.node_id]) if r.node_id in problems else r for r in read]
    return found + [Reply(node_id, problem=why) for nodes in silent for node_id, why in nodes.items()]


@contextmanager
def lowered(strategy: object, names: Sequence[str], by: int) -> Iterator[None]:
    """Minimum numbers of nodes, lowered for a while by the banned, which would otherwise be waited for forever."""
    before = {name: getattr(strategy, name) for name in names}
    try:
        for name, value in before.items():
            setattr(strategy, name, max(min(value, 1), value - by))
        yield
    finally:
        for name, value in before.items():
            setattr(strategy, name, value)


def consistent(metrics: Mapping[int, Mapping[str, Any]], kept: Sequence[int]) -> list[int]:
    """The kept nodes whose metrics have the names and types that most have, and finite values.

    A stray metric would make averaging raise or turn the average into NaN; it costs its node the metrics, no more.
    """

    def kind(node: int) -> tuple[tuple[str, object], ...]:
        return tuple(sorted((k, len(v) if isinstance(v, list) else -1) for k, v in metrics[node].items()))

    def finite(node: int) -> bool:
        numbers = [v for v in metrics[node].values() if not isinstance(v, (str, bytes))]
        return all(np.all(np.isfinite(np.asarray(v, np.float64))) for v in numbers)

    sound = [node for node in kept if finite(node)]
    kinds = [kind(node) for node in sound]
    if not kinds:
        return []
    usual = max(sorted(set(kinds), key=repr), key=kinds.count)
    return [node for node, k in zip(sound, kinds, strict=True) if k == usual]


def _detector(detector: object | None, verifier: Verifier | None) -> Detector:
    from flwr_faa.detection import MultiView, Sequential, as_detector

    if detector is None:
        return Sequential() if verifier else MultiView()
    return as_detector(detector)
