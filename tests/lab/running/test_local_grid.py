"""The in-process grid runs apps of both APIs, and one client's trouble stays its own."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from apps.lab.running.local_grid import LocalGrid, run_server_app


class _Adder(NumPyClient):
    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters, config):
        if self.partition == 2:
            raise RuntimeError("out of memory")
        return [a + self.partition for a in parameters], 1, {}


def _legacy(rounds: int, results: list) -> tuple[ServerApp, ClientApp]:
    def client_fn(context: Context):
        return _Adder(int(context.node_config["partition-id"])).to_client()

    def server_fn(context: Context) -> ServerAppComponents:
        strategy = LegacyFedAvg(
            fraction_evaluate=0.0,
            initial_parameters=ndarrays_to_parameters([np.zeros(2)]),
            evaluate_fn=lambda _, arrays, __: (0.0, results.append(arrays[0].copy()) or {}),
        )
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    return ServerApp(server_fn=server_fn), ClientApp(client_fn=client_fn)


def _message(rounds: int, results: list) -> tuple[ServerApp, ClientApp]:
    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        def evaluate(_: int, arrays: ArrayRecord) -> None:
            results.append(arrays.to_numpy_ndarrays()[0])

        initial = ArrayRecord([np.zeros(2)])
        FedAvg(fraction_evaluate=0.0).start(grid, initial, num_rounds=rounds, evaluate_fn=evaluate)

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        parameters = msg.content["arrays"].to_numpy_ndarrays()
        arrays, count, _ = _Adder(int(context.node_config["partition-id"])).fit(parameters, {})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": count})})
        return Message(content, reply_to=msg)

    return server, client


@pytest.mark.parametrize("make", [_legacy, _message])
def test_rounds_go_on_without_the_client_that_raises_and_the_one_that_is_lost(make) -> None:
    # Prepare
    results: list = []
    server, client = make(3, results)
    grid = LocalGrid(client, num_nodes=4, faults={3: lambda reply: None})

    # Execute
    run_server_app(server, grid)

    # Assert: clients 0 and 1 add 0 and 1
    np.testing.assert_allclose(results, [[0, 0], [0.5, 0.5], [1, 1], [1.5, 1.5]])


def test_node_ids_are_the_same_in_every_grid() -> None:
    assert LocalGrid(ClientApp(), 3).node_ids == LocalGrid(ClientApp(), 5).node_ids[:3]
