"""TensorBoard and MLflow around strategies of both APIs, of ours and of Flower's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from apps.lab.clients.app import LabClient
from apps.lab.config import load
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.lab.trackers import MLflow, TensorBoard, tracked
from flwr_faa import FAADL


class Seen:
    """Keeps everything."""

    def __init__(self) -> None:
        self.figures: dict[tuple[int, str], float] = {}

    def log(self, server_round: int, figures: Mapping[str, float]) -> None:
        self.figures |= {(server_round, name): value for name, value in figures.items()}


def federation(api: str, strategy: object) -> None:
    """Two rounds of four clients under a strategy."""
    experiment = load(f"clients=4 rounds=2 api={api}")
    initial = experiment.plan.initial_arrays(1)
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            return MetricRecord({"accuracy": 0.25 * server_round})

        strategy.start(grid, ArrayRecord(initial), num_rounds=2, evaluate_fn=evaluate)  # type: ignore[attr-defined]

    def server_fn(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))

    server = app if api == "message" else ServerApp(server_fn=server_fn)
    run_server_app(server, LocalGrid(LabClient(lambda _: experiment), 4))


def test_our_strategy_with_tensorboard_and_another(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    seen = Seen()
    strategy = FAADL(fraction_evaluate=0.0, min_available_nodes=4)
    assert tracked(strategy, TensorBoard(tmp_path), seen) is strategy
    federation("message", strategy)
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("server/accuracy")] == [0.0, 0.25, 0.5]
    accepted = [(report.round, len(report.accepted)) for report in strategy.reports]
    assert [(e.step, e.value) for e in events.Scalars("nodes/accepted")] == accepted
    assert {"seconds/detect", "score/largest"} <= set(events.Tags()["scalars"])
    assert seen.figures[1, "nodes/accepted"] == accepted[0][1] > 0


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "file://{}/mlruns"])
def test_flowers_own_strategy_with_mlflow(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = store.format(tmp_path)
    tracker = MLflow(uri, name="fedavg")
    federation("message", tracked(FedAvg(fraction_evaluate=0.0, min_available_nodes=4), tracker))
    history = mlflow.MlflowClient(tracking_uri=uri).get_metric_history(tracker.run_id, "server/accuracy")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.25), (2, 0.5)]


def test_a_legacy_strategy() -> None:
    seen, arrays = Seen(), load("clients=4").plan.initial_arrays(1)
    strategy = LegacyFedAvg(
        fraction_evaluate=0.0,
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters(arrays),
        evaluate_fn=lambda number, *_: (1.0 / (number + 1), {"accuracy": 0.25 * number}),
    )
    federation("legacy", tracked(strategy, seen))
    assert {name for _, name in seen.figures} == {"server/loss", "server/accuracy"}
    assert seen.figures[2, "server/accuracy"] == 0.5
    assert seen.figures[1, "server/loss"] == 0.5


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a strategy with aggregate_train or aggregate_fit, got str"):
        tracked("FedAvg", Seen())
