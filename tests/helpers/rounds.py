"""Rounds of a strategy without clients around it: messages out of its methods, made-up replies back in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import ClientManager, SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from apps.lab.running.local_grid import task_identity
from tests.helpers.models import Model

#: Model and node id to the node's model and metrics.
Client = Callable[[Model, int], tuple[Model, dict[str, Any]]]
#: A reply's records by name: the model and its metrics, in this order.
Answer = dict[str, Any]
IDS = tuple(range(101, 107))


class Grid:
    """The nodes of one strategy's rounds."""

    def __init__(self, ids: tuple[int, ...] = IDS) -> None:
        self.ids = ids

    def get_node_ids(self) -> list[int]:
        return list(self.ids)


def record(model: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in model.items()})


def message_rounds(
    strategy: Any,
    start: Model,
    client: Client,
    rounds: int = 5,
    edit: Mapping[int, Callable[[Answer], Answer]] = {},
) -> list[Model]:
    """The model after each round, by the Message API; ``edit`` changes the records that a node answers with."""
    with task_identity():
        return _message_rounds(strategy, start, client, rounds, edit)


def _message_rounds(
    strategy: Any, start: Model, client: Client, rounds: int, edit: Mapping[int, Callable[[Answer], Answer]]
) -> list[Model]:
    arrays, found = record(start), []
    for server_round in range(1, rounds + 1):
        sent = list(strategy.configure_train(server_round, arrays, ConfigRecord(), Grid()))
        replies = []
        for message in sent:
            message.metadata.__dict__["_message_id"] = "m"  # as the SuperLink gives it
            broadcast = {k: a.numpy() for k, a in next(iter(message.content.array_records.values())).items()}
            model, metrics = client(broadcast, message.metadata.dst_node_id)
            answer = {"arrays": record(model), "metrics": MetricRecord(metrics)}
            answer = edit.get(message.metadata.dst_node_id, dict)(answer)
            replies.append(Message(RecordDict(answer), reply_to=message))
        new, _ = strategy.aggregate_train(server_round, replies)
        arrays = arrays if new is None else new
        found.append({k: a.numpy() for k, a in arrays.items()})
    return found


class Proxy(ClientProxy):
    """A client by its id; nothing is ever sent through it."""

    grid = SimpleNamespace(simulated=True)

    def get_properties(self, ins: Any, timeout: Any, group_id: Any) -> Any: ...
    def get_parameters(self, ins: Any, timeout: Any, group_id: Any) -> Any: ...
    def fit(self, ins: Any, timeout: Any, group_id: Any) -> Any: ...
    def evaluate(self, ins: Any, timeout: Any, group_id: Any) -> Any: ...
    def reconnect(self, ins: Any, timeout: Any, group_id: Any) -> Any: ...


def legacy_rounds(
    strategy: Any, start: Model, client: Client, rounds: int = 5, manager: ClientManager | None = None
) -> list[Model]:
    """The model after each round, by the legacy API."""
    manager, names, found = manager or SimpleClientManager(), list(start), []
    for node in IDS:
        manager.register(Proxy(str(node)))
    parameters = ndarrays_to_parameters(list(start.values()))
    for server_round in range(1, rounds + 1):
        results = []
        for proxy, ins in strategy.configure_fit(server_round, parameters, manager):
            broadcast = dict(zip(names, parameters_to_ndarrays(ins.parameters), strict=True))
            model, metrics = client(broadcast, int(proxy.cid))
            examples = metrics.pop("num-examples")
            sent = ndarrays_to_parameters(list(model.values()))
            results.append((proxy, FitRes(Status(Code.OK, ""), sent, examples, metrics)))
        new, _ = strategy.aggregate_fit(server_round, results, [])
        parameters = parameters if new is None else new
        found.append(dict(zip(names, parameters_to_ndarrays(parameters), strict=True)))
    return found
