"""The ServerApp: it runs the scenario's strategy over the API that the scenario asks for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from logging import INFO

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common import NDArrays, Scalar, ndarrays_to_parameters
from flwr.common.logger import log
from flwr.server import ServerAppComponents, ServerConfig
from flwr.serverapp import Grid, ServerApp

from apps.lab.check import ConfigError
from apps.lab.recording.record import Record
from apps.lab.strategies import LabFAADL, LegacyLabFAADL

#: A simulation's nodes are registered one after the other; no other follows after such a pause.
SETTLED_SECONDS = 5.0


class LabServer(ServerApp):
    """Serves both APIs, one in each run.

    Parameters
    ----------
    start : callable
        Opens the record of a run, from Flower's context.
    done : callable
        Gets the record when the last round is over.
    """

    def __init__(
        self, start: Callable[[Context], Record], done: Callable[[Record], None] = lambda record: None
    ) -> None:
        super().__init__()
        self._start, self._done = start, done

    def __call__(self, grid: Grid, context: Context) -> None:
        record = self._start(context)
        try:
            config = record.scenario.config
            wait_for_nodes(grid, config.min_clients, config.clients)
            random.seed(config.seed)  # Flower draws the clients of a round from it
            app = {"legacy": legacy_app, "message": message_app}[config.api](record)
            app(grid, context)
            self._done(record)
        finally:
            record.close()


def wait_for_nodes(grid: Grid, least: int, most: int) -> None:
    """Wait until enough nodes are connected, and say for how many.

    Raises
    ------
    ConfigError
        In a simulation, which has as many nodes as it has.
    """
    simulated = type(grid).__name__ == "InMemoryGrid" or getattr(grid, "simulated", False)
    told, since = -1, time.monotonic()
    while (found := len(list(grid.get_node_ids()))) < least:
        if found != told:
            log(INFO, "Waiting for %d clients, min_clients: %d connected", least, found)
            told, since = found, time.monotonic()
        if simulated and time.monotonic() > since + SETTLED_SECONDS:
            break
        time.sleep(0.2)
    if simulated and not least <= found <= most:
        wanted = f"{most}" if least == most else f"{least} to {most}"
        raise ConfigError(
            f"expected {wanted} simulated nodes, one for each client, got {found}: pass --federation-config "
            f'"num-supernodes={most}" to flwr run, or clients={found} among the overrides'
        )


def legacy_app(record: Record) -> ServerApp:
    """Return a ServerApp with a legacy strategy."""
    config, initial = record.scenario.config, initial_arrays(record)

    def evaluate(server_round: int, arrays: NDArrays, _: dict[str, Scalar]) -> tuple[float, dict[str, Scalar]]:
        accuracy = record.evaluate(server_round, arrays)
        return 1 - accuracy, {"accuracy": accuracy}

    def server_fn(context: Context) -> ServerAppComponents:
        strategy = LegacyLabFAADL(
            fraction_fit=config.fraction,
            fraction_evaluate=0.0,
            min_fit_clients=least(record),
            min_available_clients=config.min_clients,
            initial_parameters=ndarrays_to_parameters(initial),
            evaluate_fn=evaluate,
            **record.defence(),
        )
        record.reports = strategy.reports
        return ServerAppComponents(strategy=strategy, config=ServerConfig(config.rounds, config.timeout))

    return ServerApp(server_fn=server_fn)


def message_app(record: Record) -> ServerApp:
    """Return a ServerApp with a strategy of the Message API."""
    app, config, initial = ServerApp(), record.scenario.config, initial_arrays(record)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": record.evaluate(server_round, arrays.to_numpy_ndarrays())})

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = message_strategy(record)
        strategy.start(grid, ArrayRecord(initial), config.rounds, config.timeout, evaluate_fn=evaluate)

    return app


def message_strategy(record: Record) -> LabFAADL:
    """Return the strategy of the Message API that a run is to have."""
    config = record.scenario.config
    strategy = LabFAADL(
        fraction_train=config.fraction,
        fraction_evaluate=0.0,
        min_train_nodes=least(record),
        min_available_nodes=config.min_clients,
        **record.defence(),
    )
    record.reports = strategy.reports
    return strategy


def least(record: Record) -> int:
    """Return how many nodes a round has: Flower takes its share of the connected ones before it waits for others."""
    config = record.scenario.config
    return max(min(2, int(config.min_clients)), int(config.fraction * config.min_clients))


def initial_arrays(record: Record) -> NDArrays:
    """Return the untrained model of a run's seed."""
    return record.scenario.plan.initial_arrays(record.scenario.config.seed)
