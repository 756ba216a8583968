"""What both strategies share: the pipeline with its memory. Nothing here knows which Flower API it serves."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import fields, replace
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common.logger import log

from flwr_faa import expected
from flwr_faa.client import ACTION, COMMIT, NONCE, SETTINGS
from flwr_faa.detection.base import Detector
from flwr_faa.detection.threshold import FEWEST
from flwr_faa.errors import ArgumentTypeError, ArgumentValueError, RunError
from flwr_faa.holdout.base import Holdout
from flwr_faa.ledger.store import Ledger
from flwr_faa.pipeline import Pipeline, Rule
from flwr_faa.policy import Policy
from flwr_faa.replies.averaging import into_dtype
from flwr_faa.replies.updates import Arrays, Layout, Reply, Role
from flwr_faa.report import Outcome, RoundReport, Verdict, describe
from flwr_faa.verification.base import Enrolling, Exhausted, Misconfigured, Verifier, one_node
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.questioning import AskNodes
from flwr_faa.verification.settings import settings_of
from flwr_faa.verification.wire import WireError

#: Rounds in a row without an accepted update, after which it is said what to change.
BARREN = 3
#: Seconds that a node has for its enrolment while others wait to train.
ENROL_SECONDS = 120.0
_LONGEST = 300
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
    policy : Policy, optional
        The default one if not given.
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
    holdout : Holdout, optional
        See :class:`flwr_faa.pipeline.Pipeline`. Given as ``verifier`` it decides among suspects, and nobody is asked.

    Raises
    ------
    TypeError, ValueError
        If an argument is none that can work, with what was expected.
    """

    def __init__(
        self,
        detector: object | None,
        verifier: Verifier | Holdout | None,
        policy: Policy | None,
        ledger: Ledger | None,
        timeout: float,
        seed: int | None,
        rule: Rule | None = None,
        observe: bool = False,
        holdout: Holdout | None = None,
    ) -> None:
        policy = Policy() if policy is None else policy
        verifier, holdout = _placed(verifier, holdout)
        _check(verifier, policy, ledger, timeout, seed, rule, observe)
        self.verifier, self.policy, self.timeout, self.observe = verifier, policy, timeout, observe
        self.holdout = holdout
        self.detector = _detector(detector, verifier)
        self.ledger = ledger or Ledger()
        self.reports: list[RoundReport] = []
        self._pipeline = Pipeline(self.detector, verifier, policy, rule, observe, holdout)
        self._seed = seed
        self._key = secrets.token_bytes(32)
        self._turn = 0
        #: By node that failed to enrol: how often, and the turn from which it is asked again.
        self._pauses: dict[int, tuple[int, int]] = {}
        for note in (*(verifier.notes if verifier else ()), *(holdout.notes if holdout else ())):
            log(WARNING, "%s", note)

    def nonce(self, server_round: int) -> int:
        """Return the number that clients draw their batch order from in this round, from 0 to below 2^63."""
        return self._draw(server_round, 0)

    def told(self, server_round: int) -> dict[str, Any]:
        """Return what clients are told with the model: nothing, unless their training is to be verified."""
        if self.verifier is None:
            return {}
        plan = getattr(self.verifier, "plan", None)
        agreed = {SETTINGS: settings_of(plan)} if isinstance(plan, TrainingPlan) else {}
        return {NONCE: self.nonce(server_round)} | agreed | ({COMMIT: True} if self.commits else {})

    @property
    def commits(self) -> bool:
        """Whether clients must commit themselves with every update."""
        return isinstance(self.verifier, Enrolling)

    def enrol(self, node_ids: Iterable[int], ask: AskFor) -> dict[int, str]:
        """Ask those about to train who are not enrolled yet, and say why some still are not: they cannot take part.

        As long as no more than half of the nodes are enrolled, all of them are waited for, ``enrol_timeout`` at most.
        The others have ``ENROL_SECONDS``; a device that needs longer goes on with its work, and finds it done when it
        is asked again. One that fails or is silent is asked after 1, 2, 4 ... further rounds.

        Parameters
        ----------
        node_ids : iterable of int
        ask : callable
            ``ask(requests, timeout)``, as the pipeline's.
        """
        if not isinstance(self.verifier, Enrolling):
            return {}
        self._turn += 1
        nodes, failed = list(node_ids), dict[int, str]()
        pending: dict[int, bytes] = {}
        for node in nodes:
            try:
                with one_node(node):
                    if (request := self.verifier.enrolment(node)) is not None:
                        pending[node] = request
            except (Exhausted, Misconfigured, WireError) as why:
                failed[node] = str(why)
        enrolled = len(nodes) - len(pending) - len(failed)
        # Who has failed before is left alone for a while, unless there is nobody to go on with.
        if 2 * enrolled > len(nodes):
            for node in [n for n in pending if self._pauses.get(n, (0, 0))[1] > self._turn]:
                failures, until = self._pauses[node]
                failed[node] = f"it failed to {failures} times, and is asked again in {until - self._turn} rounds"
                del pending[node]
        if pending:
            log(INFO, "faa: asking %d nodes to enrol", len(pending))
        deadline = time.monotonic() + self.verifier.enrol_timeout
        while pending:
            started = time.monotonic()
            seconds = max(0.0, min(ENROL_SECONDS, deadline - started))
            answers = ask(pending, seconds)
            for node in list(pending):
                answer = answers.get(node, "no answer in time")
                try:
                    if isinstance(answer, str):
                        raise WireError(answer)
                    with one_node(node):
                        self.verifier.enrol(node, answer)
                    failed.pop(node, None)
                    self._pauses.pop(node, None)
                    del pending[node]
                except (Exhausted, Misconfigured, WireError) as why:
                    failed[node] = str(why)
                    if node in answers:  # it did answer: asking again at once would not help
                        del pending[node]
            # Where the answers came sooner, no more would come for waiting.
            done = time.monotonic()
            if 2 * (len(nodes) - len(failed)) > len(nodes) or done >= deadline or done - started < seconds:
                break
        for node, problem in failed.items():
            if self._pauses.get(node, (0, 0))[1] <= self._turn:
                failures = self._pauses.get(node, (0, 0))[0] + 1
                self._pauses[node] = failures, self._turn + 2 ** min(failures, 16)
            log(WARNING, "faa node=%d not enrolled: %s", node, problem)
        return {} if self.observe else {node: f"not enrolled: {why}" for node, why in failed.items()}

    def present(self, connected: Callable[[], Set[int]]) -> Set[int]:
        """Wait until a node is connected that is not banned, and return all that are connected.

        Wait only for nodes that have taken part in this run and are away, and not if all of those are banned. Flower
        waits for its least number of nodes in the same way: without it, rounds without any node would pass within the
        minute that a SuperNode takes to come back.
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
            raise RunError(
                f"expected a simulation, got {type(grid).__name__}: the verifier {self.verifier.name!r} asks clients "
                "for their data in the clear and refuses to run in a deployment"
            )

    def decide(
        self,
        server_round: int,
        replies: Sequence[Reply],
        model: Arrays,
        ask: AskNodes,
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
        self._log(report)
        self._alarm(report)
        self._stop_if_hopeless(replies, report)
        return arrays, report

    def restored(
        self, found: Mapping[str, Any], model: Mapping[str, Any], average: Sequence[npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return a model that a project's own rule made, in the names, order and dtypes of the one broadcast.

        Counters, indices and masks are those of the exact ``average``: rules made for weights lose their last bits.

        Raises
        ------
        ValueError
            If it has other arrays or shapes, or values that the broadcast's dtypes cannot hold.
        """
        if found.keys() != model.keys() or any(found[n].shape != w.shape for n, w in model.items()):
            raise ArgumentValueError("expected the strategy to return the arrays that were broadcast, got others")
        roles = Layout.of(list(model.values()), list(model)).roles
        return {
            name: own if role is Role.BOOKKEEPING else into_dtype(found[name], w)
            for (name, w), own, role in zip(model.items(), average, roles, strict=True)
        }

    def _log(self, report: RoundReport) -> None:
        """One line for the round, and one for each node to which something happened; the others' at DEBUG."""
        counts = ", ".join(f"{n} {name}" for name, n in report.counts().items() if n and name != "accepted")
        accepted, known = len(report.accepted), describe(report.disclosures) if report.disclosures else ""
        told = f"{accepted} of {len(report.nodes)} accepted ({counts or 'nobody'})"
        log(INFO, "faa round=%d: %s%s", report.round, told, f"; disclosed: {known}" if known else "")
        compared = len(report.nodes) - len(report.having(Outcome.REJECTED))
        if len(self.reports) == 1 and self.verifier is None and 0 < compared < FEWEST:
            log(
                WARNING,
                "faa: %d updates to compare. With fewer than %d nobody can say what is usual: only what is grossly far "
                "from all others is suspected. A verifier decides with any number (docs/results/false-alarms.md)",
                compared, FEWEST,
            )  # fmt: skip
        for verdict in report.nodes:
            level = DEBUG if verdict.accepted and not verdict.withheld else INFO
            log(level, "faa round=%d %s", report.round, verdict)
        for verdict in report.having(Outcome.EXHAUSTED):
            log(WARNING, "faa round=%d node=%d could not be asked: %s", report.round, verdict.node_id, verdict.reason)
        left_out = len(report.having(Outcome.LEFT_OUT))
        if left_out >= max(1.0, self.policy.assumed_share * len(report.nodes)):
            log(
                WARNING,
                "faa round=%d: %d of %d would raise the held-out loss, as many as there may be attackers. If that goes "
                "on, the held-out data are not like the clients': labels are missing, one outweighs the others, or "
                "they are wrong (docs/how-to/holdout.md)",
                report.round, left_out, len(report.nodes),
            )  # fmt: skip
        if report.failed_closed:
            log(WARNING, "faa round=%d failed closed: too many updates convicted or missing", report.round)
        convicted = report.convicted
        if convicted and not any(v.banned or v.withheld for v in convicted) and self.policy.ban:
            log(
                ERROR,
                "faa round=%d: %d of %d convicted, more than the assumed share of attackers, so nobody is banned. This "
                "usually means a mistake: clients that train otherwise than the verifier's plan says, or on data that "
                "were prepared otherwise. The first: %s",
                report.round, len(convicted), len(report.nodes), convicted[0].reason,
            )  # fmt: skip

    def _stop_if_hopeless(self, replies: Sequence[Reply], report: RoundReport) -> None:
        """Raise if the first replies of all, two at least and of most nodes, have a form that can never be averaged.

        Masked, compressed or differently shaped models are a project's choice, not an attack of every client; a run
        that trains nothing until its end helps nobody.
        """
        present = {r.node_id for r in replies if not r.absent}
        rejected = {v.node_id for v in report.having(Outcome.REJECTED)}
        # Where most are silent, the few that answered do not speak for the project: they may be the attackers.
        if len(self.reports) == 1 and len(present) >= 2 and present <= rejected and 2 * len(present) > len(replies):
            reasons = Counter(_without_node(v) for v in report.nodes if v.node_id in present).most_common(3)
            told = "; ".join(f"{count} x {why}" for why, count in reasons)
            raise RunError(
                f"expected replies that can be judged one by one, got none in the first round: {told}. Secure "
                "aggregation, compression, and clients that send something else than their model cannot be combined "
                "with this defence (docs/results/compatibility.md)"
            )

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

    def check_room(self, clients: int, model: Arrays) -> None:
        """Refuse a round whose replies this machine cannot hold: Flower hands all of them over at once.

        Raises
        ------
        NoRoomError
        """
        each = sum(array.nbytes for array in model)
        what = f"the replies of {clients:,} clients, {each / 1e6:.1f} MB each"
        expected.room(clients * each, what, "ask fewer of them in a round, or judge them in groups (docs/scale.md)")

    def summary(self) -> None:
        """Log settings in Flower's style."""
        log(INFO, "\t├──> Defence:")
        log(INFO, "\t│\t├── Detector: %r", self.detector)
        log(INFO, "\t│\t├── Verifier: %s", self.verifier.name if self.verifier else "none (suspects are removed)")
        log(INFO, "\t│\t├── Held-out data: %r", self.holdout)
        for f in fields(self.policy):
            log(INFO, "\t│\t├── %s: %s", f.name, getattr(self.policy, f.name))
        log(INFO, "\t│\t├── Observe only: %s", self.observe)
        log(INFO, "\t│\t└── Banned so far: %d", len(self.ledger.bans))

    def _draw(self, server_round: int, stream: int) -> int:
        """Draw a number for a purpose: 0 for what clients are told, 1 for what they must not foresee.

        With a seed these are numbers for simulations, as in every release. Without one each is a keyed hash, so that
        what clients are told says nothing of the rest.
        """
        if self._seed is None:
            name = server_round.to_bytes(8, "big", signed=True) + bytes([stream])
            return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=self._key).digest(), "big") >> 1
        return int(np.random.SeedSequence([self._seed, server_round, stream]).generate_state(1, np.uint64)[0] >> 1)


def _placed(verifier: Verifier | Holdout | None, holdout: Holdout | None) -> tuple[Verifier | None, Holdout | None]:
    """Return verifier and held-out data; held-out data in a verifier's place decide about suspects.

    Raises
    ------
    TypeError
        If they are given twice, or are none.
    """
    if holdout is not None:
        expected.kind("holdout", holdout, Holdout, "Holdout(loss) makes one")
    if not isinstance(verifier, Holdout):
        return verifier, holdout
    if holdout is not None:
        raise ArgumentTypeError(
            "expected one Holdout, got two: as verifier it decides about suspects, as holdout about all"
        )
    return None, replace(verifier, among="suspects")


def _check(
    verifier: object, policy: object, ledger: object, timeout: object, seed: object, rule: object, observe: object
) -> None:
    """Raise TypeError or ValueError for what would only fail in the middle of a run."""
    if verifier is not None:
        expected.having("verifier", verifier, ("challenge", "judge"), "SpotCheck(plan, ...) makes one")
    expected.kind("policy", policy, Policy, "Policy(...) makes one")
    if ledger is not None:
        expected.kind("ledger", ledger, Ledger, "Ledger('folder') makes one")
    expected.number("verify_timeout", timeout, above=0)
    if seed is not None:
        expected.integer("seed", seed, least=0)
    if rule is not None:
        expected.function("rule", rule, "(batch, rows)")
    expected.flag("observe", observe)


def failure(told: object) -> str:
    """Return a client's own words about its failure, printable and of bounded length."""
    text = " ".join(str(told).split())
    # In a simulation Ray's traceback stands before what the client has raised.
    text = text.rpartition("ClientAppException occurred. Message: ")[2]
    if f"No query function registered with name '{ACTION}'" in text:  # Flower's words
        text = f'its ClientApp has no @app.query("{ACTION}"), which returns verifiable(plan, data).verify(msg, context)'
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_LONGEST])
    return f"the client failed: {shown}" + ("..." if len(text) > _LONGEST else "")


def _without_node(verdict: Verdict) -> str:
    """Tell outcome and reason, in words that are the same for all nodes to which the same happened."""
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


@contextmanager
def lower_minima(strategy: object, names: Sequence[str], by: int) -> Iterator[None]:
    """Lower minimum numbers of nodes by the banned for a while; Flower would wait for them for ever."""
    before = {name: getattr(strategy, name) for name in names}
    try:
        for name, value in before.items():
            setattr(strategy, name, max(min(value, 1), value - by))
        yield
    finally:
        for name, value in before.items():
            setattr(strategy, name, value)


def _detector(detector: object | None, verifier: Verifier | None) -> Detector:
    from flwr_faa.detection import MultiView, Sequential, as_detector

    if detector is None:
        return Sequential() if verifier else MultiView()
    return as_detector(detector)
