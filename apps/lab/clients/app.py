"""The ClientApp: the scenario's clients, which are NumPyClients, behind both APIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp

from flwr_faa.client import ACTION, CHALLENGE, COMMITMENT, EVIDENCE, to_record


class Clients(Protocol):
    """What the app needs of a scenario."""

    @property
    def config(self) -> Any: ...
    def node(self, config: Mapping[str, Any]) -> NumPyClient:
        """Return the client of a SuperNode."""
        ...


class LabClient(ClientApp):
    """Serves both APIs, one in each run.

    Parameters
    ----------
    find : callable
        The scenario of a run, from Flower's context.
    """

    def __init__(self, find: Callable[[Context], Clients]) -> None:
        super().__init__()

        def client_of(context: Context) -> NumPyClient:
            return find(context).node(context.node_config)

        self._find = find
        self._apps = {"legacy": legacy_app(client_of), "message": message_app(client_of)}

    def __call__(self, message: Message, context: Context) -> Message:
        return self._apps[self._find(context).config.api](message, context)


def legacy_app(client_of: Callable[[Context], NumPyClient]) -> ClientApp:
    """Return a ClientApp of the legacy API."""

    def client_fn(context: Context) -> Client:
        return client_of(context).to_client()

    return ClientApp(client_fn=client_fn)


def message_app(client_of: Callable[[Context], NumPyClient]) -> ClientApp:
    """Return a NumPyClient behind the Message API."""
    app = ClientApp()

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        (name, record), config = next(iter(msg.content.array_records.items())), msg.content.config_records["config"]
        client: Any = client_of(context)  # the APIs' types for settings and metrics are not each other's
        arrays, examples, metrics = client.fit([a.numpy() for a in record.values()], dict(config))
        commitment = metrics.pop(COMMITMENT, b"")
        content = RecordDict(
            {
                name: ArrayRecord({k: Array(a) for k, a in zip(record, arrays, strict=True)}),
                "metrics": MetricRecord({"num-examples": examples, **metrics}),
            }
        )
        if commitment:
            content[COMMITMENT] = ConfigRecord({COMMITMENT: commitment})
        return Message(content, reply_to=msg)

    @app.query(ACTION)
    def verify(msg: Message, context: Context) -> Message:
        challenge = msg.content.array_records[CHALLENGE][CHALLENGE].numpy().tobytes()
        evidence: Any = client_of(context).get_properties({CHALLENGE: challenge})[EVIDENCE]
        return Message(RecordDict({EVIDENCE: to_record(EVIDENCE, evidence)}), reply_to=msg)

    return app
