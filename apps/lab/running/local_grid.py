"""Flower in one process: the real ServerApp and ClientApp, real Messages, no Ray.

A round of twenty small clients takes milliseconds, where ``flwr run`` needs twenty seconds to start::

    grid = LocalGrid(client_app, num_nodes=20, run_config={"overrides": "attack=alie"})
    run_server_app(server_app, grid)
"""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from logging import DEBUG

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1

#: What the network does to a node's reply: return it, another one, or None for a reply that is lost.
Fault = Callable[[Message], Message | None]


class LocalGrid(Grid):
    """A grid whose nodes live in this process.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : mapping, optional
        As ``flwr run --run-config`` would give it to every client.
    faults : mapping of int to callable, optional
        By partition, what happens to that node's replies.

    Attributes
    ----------
    node_ids : tuple of int
        By partition. The same in every run, 64 bits wide and in no order, as Flower's.
    simulated : bool
        True: verifiers for simulations only may be used.
    """

    simulated = True

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, bool | float | int | str] | None = None,
        faults: Mapping[int, Fault] | None = None,
    ) -> None:
        self.run_config, self.node_ids = dict(run_config or {}), tuple(node_of(i) for i in range(num_nodes))
        self._app, self._faults = client_app, dict(faults or {})
        self._contexts = {
            node_id: Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={"partition-id": i, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=self.run_config,
            )
            for i, node_id in enumerate(self.node_ids)
        }
        self._run = Run.create_empty(RUN_ID)
        self._replies: dict[str, Message] = {}
        self._sent = 0
        # Legacy strategies send from many threads; the nodes answer one at a time, as torch's global settings ask for.
        self._lock = threading.Lock()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages; the replies wait to be pulled."""
        message_ids = []
        for message in messages:
            with self._lock:
                self._sent += 1
                message_id = str(self._sent)
                message.metadata.__dict__["_message_id"] = message_id
                reply = self._deliver(message)
                if reply is not None:
                    self._replies[message_id] = reply
                message_ids.append(message_id)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies to messages, where there are any."""
        with self._lock:
            return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Deliver messages and return the replies. Nodes answer at once, so there is nothing to time out."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message | None:
        context = self._contexts[message.metadata.dst_node_id]
        # Flower would send a copy; one strategy's messages to many nodes share their content here.
        received = Message(deepcopy(message.content), metadata=message.metadata)  # type: ignore[call-overload]
        try:
            reply = self._app(received, context)
        except Exception as error:  # noqa: BLE001 - as Flower's runtimes: a client's error is a reply, not the run's end
            log(DEBUG, "A client failed:\n%s", traceback.format_exc())
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason_of(error)), reply_to=message)
        fault = self._faults.get(int(context.node_config["partition-id"]))
        return fault(reply) if fault else reply


def reason_of(error: Exception) -> str:
    """Return what a server is told of a client's exception, in Flower's words."""
    return f"{type(error)}:<'{error}'>"


def run_server_app(
    server_app: ServerApp, grid: LocalGrid, run_config: Mapping[str, bool | float | int | str] | None = None
) -> Context:
    """Run a ServerApp of either API over a LocalGrid.

    Parameters
    ----------
    server_app : ServerApp
    grid : LocalGrid
    run_config : mapping, optional
        The grid's if not given.

    Returns
    -------
    Context
        The server's, with whatever state the app left in it.
    """
    config = dict(grid.run_config if run_config is None else run_config)
    context = Context(run_id=RUN_ID, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=config)
    with task_identity():
        server_app(grid=grid, context=context)
    return context


@contextmanager
def task_identity() -> Iterator[None]:
    """Set ``TaskIdentity``, where messages take their sender from, and restore the outer run's afterwards."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def node_of(partition: int) -> int:
    """Return the id of the node that holds a partition."""
    return int.from_bytes(hashlib.blake2b(str(partition).encode(), digest_size=8).digest(), "big")
