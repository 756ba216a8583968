"""The guard around a strategy of the Message API: it enrols nodes, reads replies, decides, and hands them on.

:class:`flwr_faa.FAADL` has a guard around Flower's ``FedAvg``, ``protect`` has one around a project's own class. The
guard keeps everything that it remembers to itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import copy
from functools import lru_cache, partial
from logging import ERROR
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flwr_faa.client import ACTION, CHALLENGE, COMMITMENT, EVIDENCE, to_record
from flwr_faa.defence import Defence, failure, lower_minima, readable
from flwr_faa.errors import ArgumentValueError, RunError
from flwr_faa.replies import npy
from flwr_faa.replies.metrics import mend
from flwr_faa.replies.updates import Layout, Reply, blank, complete, plausible, weigh_nodes
from flwr_faa.report import RoundReport

#: Why there must be a broadcast.
ONE_MODEL = "expected a strategy that sends all nodes the same model, to which their updates are compared,"
#: A serialised array is its bytes and a short NumPy header.
HEADER = 4096
Model = dict[str, npt.NDArray[Any]]
Kind = TypeVar("Kind", ArrayRecord, MetricRecord, ConfigRecord)
Configure = Callable[[int, ArrayRecord, ConfigRecord, Grid], Iterable[Message]]


class Guard:
    """The defence of one strategy.

    Parameters
    ----------
    defence : Defence

    Notes
    -----
    Every method is told whose guard it is: the strategy's settings are read, and its minimum numbers of nodes are
    lowered by the banned while it draws its nodes.
    """

    def __init__(self, defence: Defence) -> None:
        self.defence = defence
        self._grid: Grid | None = None
        self._model: Model | None = None
        self._asked: set[int] = set()
        self._unenrolled: dict[int, str] = {}
        self._started = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_grid": None}  # a connection cannot be copied; each round brings its own

    def configure_train(
        self, strategy: FedAvg, own: Configure, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return what the strategy's own ``configure_train`` sends, without the banned and those not enrolled."""
        self.defence.check_grid(grid)
        if not arrays and self.defence.verifier is not None:
            raise ArgumentValueError(
                "expected initial arrays, which a verifier replays training from, got an empty record"
            )
        self._grid, self._model = grid, read_model({n: a.data for n, a in arrays.items()}, list(arrays))
        with self.without_banned(strategy, grid, "min_train_nodes") as view:
            messages = self._to_others(own(server_round, arrays, config, view) if view else [])
        if (broadcast := _sent(messages, strategy.arrayrecord_key, arrays)) is not arrays:
            self._model = read_model({n: a.data for n, a in broadcast.items()}, list(broadcast))
        self.defence.check_room(len(messages), list(self._model.values()))
        chosen = [m.metadata.dst_node_id for m in messages]
        self._unenrolled = self.defence.enrol(chosen, partial(self._ask, server_round))
        messages = [m for m in messages if m.metadata.dst_node_id not in self._unenrolled]
        self._tell(messages, strategy.configrecord_key, self.defence.told(server_round))
        self._asked = {m.metadata.dst_node_id for m in messages}
        self._started = time.perf_counter()
        return messages

    def configure_evaluate(
        self, strategy: FedAvg, own: Configure, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return what the strategy's own ``configure_evaluate`` sends, without the banned."""
        with self.without_banned(strategy, grid, "min_evaluate_nodes") as view:
            return self._to_others(own(server_round, arrays, config, view) if view else [])

    def decide(
        self, strategy: FedAvg, server_round: int, messages: Sequence[Message]
    ) -> tuple[ArrayRecord, RoundReport, list[Message]]:
        """Decide a round.

        Returns
        -------
        arrays, report, accepted
            The average of the accepted (the model as it was where nobody is); what was decided; and the accepted
            replies in the order of node ids, rebuilt from what was validated.
        """
        if self._model is None:
            raise RunError("expected configure_train before aggregate_train, got no global model")
        seconds, key = {"train": time.perf_counter() - self._started}, strategy.weighted_by_key
        # For a node that went away the SuperLink answers, under its own id.
        counted = [m for m in messages if m.metadata.src_node_id in self._asked or not m.has_error()]
        model = self._model
        if not model:  # the clients' first models start the run: there is nothing yet to compare them with
            model = blank([found for m in counted if (found := _arrays(m))])
        read = [readable(m.metadata.src_node_id, partial(_read, m, model, key)) for m in counted]
        away = dict.fromkeys(self._asked - {r.node_id for r in read}, "no reply in time") | self._unenrolled
        read += [Reply(node, problem=why, absent=True) for node, why in away.items()]
        ask = partial(self._ask, server_round, timeout=self.defence.timeout)
        arrays, report = self.defence.decide(server_round, read, list(model.values()), ask, seconds, list(model))
        kept = {v.node_id for v in report.accepted}
        if not kept:
            return _record(self._model), report, []
        models = complete([r for r in read if r.node_id in kept], list(model.values()), list(model))
        accepted = self._rebuilt({m.metadata.src_node_id: m for m in counted}, models, list(model), key)
        return ArrayRecord({name: Array(a) for name, a in zip(model, arrays, strict=True)}), report, accepted

    def restored(self, arrays: ArrayRecord | None, average: ArrayRecord) -> ArrayRecord | None:
        """Return a model that the strategy made with the dtypes of the one that was broadcast.

        Raises
        ------
        ValueError
            If it has other arrays, or values that are not finite where the broadcast's are.
        """
        if arrays is None:
            return None
        own = {name: a.numpy() for name, a in average.items()}
        model = self._model or own  # where nothing was broadcast, the clients' dtypes count
        found = {name: a.numpy() for name, a in arrays.items()}
        return _record(self.defence.restored(found, model, list(own.values())))

    def evaluated(self, strategy: FedAvg, messages: Sequence[Message]) -> list[Message]:
        """Return the replies to an evaluation that can be averaged, with their metrics mended, by node id.

        Where nobody sent what can be averaged, all are returned as they are: that is the project's mistake, and Flower
        says what is wrong.
        """
        key = strategy.weighted_by_key
        by_node = {m.metadata.src_node_id: copy(m) for m in messages if not m.has_error()}
        told = {n: RecordDict(dict(m.content)) for n, m in by_node.items() if len(_named(m.content, MetricRecord)) == 1}
        told = {n: c for n, c in told.items() if plausible(_only(c).get(key))}
        if not told:
            return list(messages)
        name = Counter(_first(c, MetricRecord) for c in told.values()).most_common(1)[0][0]
        for node, content in told.items():
            content[name] = content.pop(_first(content, MetricRecord))
            by_node[node].content = content
        return [by_node[n] for n in self._mended(told, key)]

    @contextmanager
    def without_banned(self, strategy: FedAvg, grid: Grid, minimum: str) -> Iterator[Grid | None]:
        """Give the grid without the banned; the strategy's minima are lowered by their number while it is open."""
        connected = self.defence.present(lambda: set(grid.get_node_ids()))
        banned = self.defence.ledger.bans.keys()  # read after that, which may take long: bans can be lifted
        if connected and connected <= banned:
            log(ERROR, "every connected node is banned: nobody is asked this round")
            yield None
            return
        with lower_minima(strategy, (minimum, "min_available_nodes"), len(connected & banned)):
            yield cast(Grid, _View(grid, banned))

    def _to_others(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages to nodes that are not banned: a project's own sampling may remember others."""
        banned = self.defence.ledger.bans.keys()
        return [m for m in messages if m.metadata.dst_node_id not in banned]

    def _tell(self, messages: Sequence[Message], key: str, more: Mapping[str, Any]) -> None:
        """Add to the configs of these messages, which may share one: the project's own is left as it is."""
        for message in messages if more else ():
            content = RecordDict(dict(message.content))
            content[key] = ConfigRecord({**content.config_records.get(key, {}), **more})
            message.content = content

    def _rebuilt(
        self,
        messages: Mapping[int, Message],
        models: Mapping[int, Sequence[npt.NDArray[Any]]],
        names: list[str],
        key: str,
    ) -> list[Message]:
        """Return the accepted replies with validated arrays in the model's order, and with mended metrics."""
        contents = {node: RecordDict(dict(messages[node].content)) for node in models}
        arrays_at, metrics_at = (
            Counter(_first(c, kind) for c in contents.values()).most_common(1)[0][0]
            for kind in (ArrayRecord, MetricRecord)
        )
        for node, content in contents.items():
            metrics = _only(content)
            for name in (COMMITMENT, _first(content, ArrayRecord), _first(content, MetricRecord)):
                content.pop(name, None)
            content[arrays_at] = record = ArrayRecord()  # given a dict, it would make each Array anew
            for name, array in zip(names, models[node], strict=True):
                record[name] = _array(array)
            content[metrics_at] = metrics
        rebuilt = []
        for node in self._mended(contents, key):
            message = copy(messages[node])  # its metadata stay, the caller's own content too
            message.content = contents[node]
            rebuilt.append(message)
        return rebuilt

    def _mended(self, contents: dict[int, RecordDict], key: str) -> list[int]:
        """Mend the one MetricRecord of each of these in place; the nodes in order."""
        nodes, weighting = sorted(contents), self.defence.policy.weighting
        weights = weigh_nodes({n: _only(contents[n])[key] for n in nodes}, weighting)
        plain = {n: {k: v for k, v in _only(contents[n]).items() if k != key} for n in nodes}
        for node, metrics in mend(plain, weights).items():
            contents[node][_first(contents[node], MetricRecord)] = MetricRecord({**metrics, key: weights[node]})
        return nodes

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


class _View:
    """The part of a grid that Flower's sampling uses, without some nodes; it passes for the grid."""

    def __init__(self, grid: Grid, without: Set[int]) -> None:
        self._grid, self._without = grid, without

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._grid)

    def get_node_ids(self) -> list[int]:
        """Sorted: a seeded draw does not depend on the order of connecting."""
        return sorted(set(self._grid.get_node_ids()) - self._without)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)  # what else a project's own sampling may ask


def _read(message: Message, model: Model, key: str) -> Reply:
    """Read a reply without trusting any of it."""
    node_id = message.metadata.src_node_id
    if message.has_error():
        return Reply(node_id, problem=failure(message.error.reason or message.error.code), absent=True)
    records, metrics = _named(message.content, ArrayRecord), _named(message.content, MetricRecord)
    if len(records) != 1 or len(metrics) != 1:
        got = f"{len(records)} and {len(metrics)}"
        return Reply(node_id, problem=f"expected one ArrayRecord and one MetricRecord, got {got}")
    record = next(iter(records.values()))
    if others := record.keys() - model.keys():
        return Reply(node_id, problem=f"expected the model's arrays, got {len(others)} other ones")
    if key not in _only(message.content):
        return Reply(node_id, problem=f"expected {key!r} among the metrics, got none")
    arrays = [npy.read(record[name].data, limit(own)) if name in record else None for name, own in model.items()]
    commitment = _named(message.content, ConfigRecord).get(COMMITMENT, ConfigRecord()).get(COMMITMENT)
    told = commitment if isinstance(commitment, bytes) else b""
    return Reply(node_id, arrays, _only(message.content)[key], commitment=told)


def read_model(data: Mapping[str, bytes], names: Sequence[str] = ()) -> Model:
    """Return the arrays of the model that is about to be broadcast, which may come from a client.

    Parameters
    ----------
    data : mapping
        The bytes of each array, by what it is called.
    names : sequence of str, optional
        The arrays' names, where the API has them.

    Raises
    ------
    ValueError
        If they cannot be averaged, or hold nothing in which updates could be compared.
    """
    model: Model = {}
    for name, raw in data.items():
        try:
            model[name] = npy.read(raw, len(raw))
        except ValueError as why:
            raise ArgumentValueError(f"expected a model of real numbers, got array {name} that is none: {why}") from why
    Layout.of(list(model.values()), names)
    if model and not any(array.dtype.kind == "f" for array in model.values()):
        raise ArgumentValueError(
            f"expected a model with arrays of floats, in which updates are compared, got {_dtypes(model)} only: trees "
            "and other serialised models cannot be defended"
        )
    return model


def _dtypes(model: Model) -> str:
    return " and ".join(sorted({str(array.dtype) for array in model.values()}))


def limit(own: npt.NDArray[Any]) -> int:
    """Return the most bytes that a serialised array of this shape may have: eight for each value, and its header."""
    return 8 * own.size + HEADER


def _sent(messages: Sequence[Message], key: str, arrays: ArrayRecord) -> ArrayRecord:
    """Return the model that all of these messages hold: a strategy need not send the one that it was given.

    Raises
    ------
    ValueError
        If nodes are sent different ones.
    """
    found = [dict(m.content.array_records) for m in messages]
    named = [r.get(key, next(iter(r.values()))) for r in found if key in r or len(r) == 1]
    first, *others = {id(record): record for record in named}.values() or (arrays,)
    for other in others:
        if other.keys() != first.keys() or any(other[k].data != a.data for k, a in first.items()):
            raise ArgumentValueError(f"{ONE_MODEL} got different ones")
    return first


def _named(content: RecordDict, kind: type[Kind]) -> dict[str, Kind]:
    """Return the records of a kind, by name, without the views that Flower's own properties build each time."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _first(content: RecordDict, kind: type[object]) -> str:
    return next(name for name, record in content.items() if isinstance(record, kind))


def _only(content: RecordDict) -> MetricRecord:
    return next(record for record in content.values() if isinstance(record, MetricRecord))


def _array(a: npt.NDArray[Any]) -> Array:
    """Convert an array as Flower does, without a second copy of what a client sent."""
    return Array(_name(a.dtype), tuple(a.shape), "numpy.ndarray", npy.write(a))


@lru_cache
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)  # microseconds, for each array of each client


def _record(model: Model) -> ArrayRecord:
    return ArrayRecord({name: Array(a) for name, a in model.items()})


def _arrays(message: Message) -> Model:
    """Return the arrays of a reply that can be read and averaged, or none."""
    records = [] if message.has_error() else list(message.content.array_records.values())
    try:
        found = {name: npy.read(a.data, len(a.data)) for name, a in records[0].items()} if len(records) == 1 else {}
        Layout.of(list(found.values()), list(found))
    except ValueError:
        return {}
    return found


def _evidence(message: Message) -> bytes | str:
    if message.has_error():
        return failure(message.error.reason or message.error.code)
    try:
        data = message.content.array_records[EVIDENCE][EVIDENCE].data
        return npy.read(data, len(data)).tobytes()
    except (KeyError, ValueError) as error:
        return f"expected one array of bytes, got {type(error).__name__}"
