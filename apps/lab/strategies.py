"""The lab's strategies: FAA-DL in both APIs, which also note which node holds which partition.

Flower draws node ids at random, so two runs have only the partitions in common. Clients name their partition in their
metrics. Only the report uses that: a defence that trusted it would let an attacker choose who it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import Grid

from flwr_faa import FAADL, legacy
from flwr_faa.client import NONCE


@dataclass
class Census:
    """Which node holds which partition, as far as nodes have said.

    Parameters
    ----------
    malicious : frozenset of int
        Partitions.
    """

    malicious: frozenset[int]
    partitions: dict[int, int] = field(default_factory=dict)

    def note(self, node_id: int, partition: object) -> None:
        """Remember what a node said."""
        if isinstance(partition, int):
            self.partitions.setdefault(node_id, partition)

    def about(self, node_id: int) -> dict[str, Any]:
        """Return notes for the ledger; None for a node that has never sent anything."""
        partition = self.partitions.get(node_id)
        return {"partition": partition, "malicious": None if partition is None else partition in self.malicious}


class LabFAADL(FAADL):
    """The lab's strategy for the Message API."""

    def __init__(self, *args: Any, census: Census, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.census = census

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Tell the batch order whatever the defence, so that runs with and without one can be compared."""
        config[NONCE] = self.defence.nonce(server_round)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note which node holds which partition, then aggregate."""
        messages = list(replies)
        for message in messages:
            if message.has_content():
                for metrics in message.content.metric_records.values():
                    self.census.note(message.metadata.src_node_id, metrics.get("partition"))
        return super().aggregate_train(server_round, messages)


class LegacyLabFAADL(legacy.FAADL):
    """The lab's strategy for the legacy API."""

    def __init__(self, *args: Any, census: Census, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.census = census

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Tell the batch order whatever the defence, so that runs with and without one can be compared."""
        nonce = self.defence.nonce(server_round)
        instructions = super().configure_fit(server_round, parameters, client_manager)
        return [(client, FitIns(ins.parameters, {**ins.config, NONCE: nonce})) for client, ins in instructions]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Note which node holds which partition, then aggregate."""
        for client, result in results:
            self.census.note(legacy.node_id(client), result.metrics.get("partition"))
        return super().aggregate_fit(server_round, results, failures)
