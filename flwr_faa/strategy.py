"""FAA-DL for Flower's Message API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from logging import ERROR
from typing import Any, cast

import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flwr_faa import npy
from flwr_faa.client import ACTION, CHALLENGE, COMMIT, COMMITMENT, EVIDENCE, NONCE, to_record
from flwr_faa.defence import Defence, accounted, consistent, lowered, readable
from flwr_faa.ledger import Ledger
from flwr_faa.pipeline import Policy, Rule
from flwr_faa.updates import MAX_EXAMPLES, Layout, Reply, blank
from flwr_faa.verdict import RoundReport
from flwr_faa.verification.base import Verifier

#: A serialised array is its bytes and a short NumPy header.
HEADER = 4096


class FAADL(FedAvg):
    """Federated Anomaly Analytics (FAA-DL): detect, verify, remove, then FedAvg.

    Implementation based on Shi et al., "Federated Anomaly Analytics for Local Model Poisoning Attack", IEEE JSAC 2022.
    Every reply is validated; a detector names suspects; with a verifier, suspects are asked for evidence during
    aggregation and only those whose evidence contradicts their update, or who give none, are removed. Nothing that a
    client sends makes a round fail for the others.

    Parameters
    ----------
    detector : Detector or PyOD detector (default: None)
        Who names suspects. If ``None``, ``Sequential()`` with a verifier and ``MultiView()`` without.
    verifier : Optional[Verifier] (default: None)
        How suspects are verified. If ``None``, suspects are removed.
    policy : Optional[Policy] (default: None)
        Weighting, bans, strikes, failing closed.
    ledger : Optional[Ledger] (default: None)
        Where reports, bans and strikes go. If ``None``, they are kept in memory.
    verify_timeout : float (default: 60.0)
        Seconds to wait for the evidence of one batch of suspects.
    seed : Optional[int] (default: None)
        Makes batch orders and audits reproducible. If ``None``, drawn from the system: what you want in the field.
    rule : Optional[Callable] (default: None)
        What is made of the updates that are kept, ``rule(batch, rows) -> update``. If ``None``, their weighted mean.
    observe : bool (default: False)
        Detect, verify and report, but remove and ban nobody: to watch before trusting. ``Verdict.withheld`` says what
        would have been done.
    *args, **kwargs
        As in ``FedAvg``.

    Attributes
    ----------
    reports : list of RoundReport
        One a round.
    """

    def __init__(
        self,
        *args: Any,
        detector: object | None = None,
        verifier: Verifier | None = None,
        policy: Policy | None = None,
        ledger: Ledger | None = None,
        verify_timeout: float = 60.0,
        seed: int | None = None,
        rule: Rule | None = None,
        observe: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._defend(Defence(detector, verifier, policy or Policy(), ledger, verify_timeout, seed, rule, observe))

    def _defend(self, defence: Defence) -> None:
        self.defence = defence
        self._grid: Grid | None = None
        self._model: ArrayRecord | None = None
        self._asked: set[int] = set()
        self._unenrolled: dict[int, str] = {}
        self._started = 0.0

    @property
    def reports(self) -> list[RoundReport]:
        return self.defence.reports

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        self.defence.summary()
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated training, without the banned."""
        self.defence.check_grid(grid)
        self._grid, self._model = grid, arrays
        config[NONCE] = self.defence.nonce(server_round)
        if self.defence.commits:
            config[COMMIT] = True
        with self._unbanned(grid, "min_train_nodes") as view:
            messages = list(super().configure_train(server_round, arrays, config, view) if view else [])
        chosen = [m.metadata.dst_node_id for m in messages]
        self._unenrolled = self.defence.enrol(chosen, partial(self._ask, server_round))
        messages = [m for m in messages if m.metadata.dst_node_id not in self._unenrolled]
        self._asked = {m.metadata.dst_node_id for m in messages}
        self._started = time.perf_counter()
        return messages

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation, without the banned."""
        with self._unbanned(grid, "min_evaluate_nodes") as view:
            return list(super().configure_evaluate(server_round, arrays, config, view) if view else [])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Detect, verify, remove, and aggregate the rest."""
        messages = list(replies)
        arrays, report = self._decide(server_round, messages)
        return arrays, self._metrics(messages, report)

    def _decide(
        self, server_round: int, messages: list[Message], problems: Mapping[int, str] | None = None
    ) -> tuple[ArrayRecord, RoundReport]:
        """The new global model, and what was decided; ``problems`` says whose reply is no good for other reasons."""
        if self._model is None:
            raise RuntimeError("expected configure_train before aggregate_train, got no global model")
        seconds = {"train": time.perf_counter() - self._started}
        # For a node that went away the SuperLink answers, under its own id.
        counted = [m for m in messages if m.metadata.src_node_id in self._asked or not m.has_error()]
        model = {name: array.numpy() for name, array in self._model.items()}
        if not model:  # the clients' first models start the run: there is nothing yet to compare them with
            model = blank([found for m in counted if (found := _arrays(m))])
        read = [readable(m.metadata.src_node_id, partial(self._read, m, model)) for m in counted]
        silent = dict.fromkeys(self._asked - {r.node_id for r in read}, "no reply in time")
        read = accounted(read, problems or {}, silent, self._unenrolled)
        ask = partial(self._ask, server_round, timeout=self.defence.timeout)
        arrays, report = self.defence.decide(server_round, read, list(model.values()), ask, seconds, list(model))
        if not report.accepted:
            return self._model, report
        return ArrayRecord({name: Array(a) for name, a in zip(model, arrays, strict=True)}), report

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the metrics of those whose metrics are sound."""
        return super().aggregate_evaluate(server_round, self._sound(list(replies)))

    def _read(self, message: Message, model: Mapping[str, npt.NDArray[Any]]) -> Reply:
        """What a reply holds, without trusting any of it."""
        node_id = message.metadata.src_node_id
        if message.has_error():
            return Reply(node_id, problem=f"the client failed (error code {message.error.code})")
        records, metrics = message.content.array_records, message.content.metric_records
        if len(records) != 1 or len(metrics) != 1:
            got = f"{len(records)} and {len(metrics)}"
            return Reply(node_id, problem=f"expected one ArrayRecord and one MetricRecord, got {got}")
        record, metric = next(iter(records.values())), next(iter(metrics.values()))
        if others := record.keys() - model.keys():
            return Reply(node_id, problem=f"expected the model's arrays, got {len(others)} other ones")
        arrays = [npy.read(record[name].data, limit(own)) if name in record else None for name, own in model.items()]
        commitment = message.content.config_records.get(COMMITMENT, ConfigRecord()).get(COMMITMENT)
        told = commitment if isinstance(commitment, bytes) else b""
        return Reply(node_id, arrays, metric.get(self.weighted_by_key), commitment=told)

    def _ask(self, server_round: int, challenges: Mapping[int, bytes], timeout: float) -> dict[int, bytes | str]:
        """Send requests to their nodes and collect what they answer."""
        assert self._grid is not None
        messages = [
            Message(
                RecordDict({CHALLENGE: to_record(CHALLENGE, challenge)}),
                dst_node_id=node_id,
                message_type=f"query.{ACTION}",
                ttl=timeout,
                group_id=str(server_round),
            )
            for node_id, challenge in challenges.items()
        ]
        replies = self._grid.send_and_receive(messages, timeout=timeout) or ()
        return {m.metadata.src_node_id: _evidence(m) for m in replies if m.metadata.src_node_id in challenges}

    def _metrics(self, messages: list[Message], report: RoundReport) -> MetricRecord:
        kept = {v.node_id for v in report.accepted}
        sound = [m.content for m in self._sound([m for m in messages if m.metadata.src_node_id in kept])]
        metrics = self.train_metrics_aggr_fn(sound, self.weighted_by_key) if sound else MetricRecord()
        metrics.update(report.metrics())
        return metrics

    def _sound(self, messages: list[Message]) -> list[Message]:
        """Replies whose one MetricRecord has the usual form, finite values and a plausible weight."""
        metrics, by_node = {}, {}
        for message in messages:
            if message.has_error() or len(message.content.metric_records) != 1:
                continue
            metric = next(iter(message.content.metric_records.values()))
            weight = metric.get(self.weighted_by_key)
            if isinstance(weight, (int, float)) and 0 < weight <= MAX_EXAMPLES:
                node_id = message.metadata.src_node_id
                metrics[node_id], by_node[node_id] = metric, message
        return [by_node[n] for n in consistent(metrics, sorted(by_node))]

    @contextmanager
    def _unbanned(self, grid: Grid, minimum: str) -> Iterator[Grid | None]:
        """The grid without the banned; the strategy's minima are lowered by their number while it is open."""
        connected = self.defence.present(lambda: set(grid.get_node_ids()))
        banned = self.defence.ledger.bans.keys()  # read after that, which may take long: bans can be lifted
        if connected and connected <= banned:
            log(ERROR, "every connected node is banned: nobody is asked this round")
            yield None
            return
        with lowered(self, (minimum, "min_available_nodes"), len(connected & banned)):
            yield cast(Grid, _View(grid, banned))


class _View:
    """The part of a grid that Flower's sampling uses, without some nodes."""

    def __init__(self, grid: Grid, without: Set[int]) -> None:
        self._grid, self._without = grid, without

    def get_node_ids(self) -> list[int]:
        """Sorted: a seeded draw does not depend on the order of connecting."""
        return sorted(set(self._grid.get_node_ids()) - self._without)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)  # what else a project's own sampling may ask


def limit(own: npt.NDArray[Any]) -> int:
    """Return the most bytes that a serialised array of this shape may have: eight for each value, and its header."""
    return 8 * own.size + HEADER


def _arrays(message: Message) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a reply that can be read and averaged, or none."""
    records = [] if message.has_error() else list(message.content.array_records.values())
    try:
        found = {name: npy.read(a.data, len(a.data)) for name, a in records[0].items()} if len(records) == 1 else {}
        Layout.of(list(found.values()), list(found))
    except ValueError:
        return {}
    return found


def _evidence(message: Message) -> bytes | str:
    if message.has_error():
        return f"the client failed (error code {message.error.code})"
    try:
        data = message.content.array_records[EVIDENCE][EVIDENCE].data
        return npy.read(data, len(data)).tobytes()
    except (KeyError, ValueError) as error:
        return f"expected one array of bytes, got {type(error).__name__}"
