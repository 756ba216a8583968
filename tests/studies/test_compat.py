"""docs/results/compatibility.md is what the strategies do today; and what looks like it works, but cannot, stops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid

from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.studies.compat import examples, strategies
from apps.studies.compat.__main__ import DOCS
from apps.studies.compat.outcome import Kind
from flwr_faa import legacy, protect


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "disabled", True)


def test_the_table_of_strategies_is_up_to_date() -> None:
    expected = f"<!-- table:strategies -->\n\n{strategies.measure()}\n\n<!-- /table -->"
    assert expected in DOCS.read_text(), "python -m apps.studies.compat --write, and see what has changed"


class Steps(NumPyClient):
    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters: Any, config: Any) -> Any:
        return [a + np.float32(0.1 * self.partition) for a in parameters], 10, {}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: DifferentialPrivacyClientSideFixedClipping(s, 0.1, 9.0, 5)])
@pytest.mark.parametrize("make", [legacy.FAADL, lambda **settings: protect(FedAvg(**settings))])
def test_an_average_by_secure_aggregation_is_no_set_of_updates(make: Any, wrap: Any) -> None:
    app = ServerApp()
    start = ndarrays_to_parameters([np.zeros((2, 3), np.float32)])

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = make(initial_parameters=start, fraction_evaluate=0.0, min_fit_clients=5)
        legacy_context = LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=wrap(strategy))
        DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2))(grid, legacy_context)

    clients = ClientApp(lambda c: Steps(int(c.node_config["partition-id"])).to_client(), mods=[secaggplus_mod])
    with pytest.raises(RuntimeError, match=r"the same one for all 5: secure aggregation"):
        run_server_app(app, LocalGrid(clients, 5))


PROJECT = {
    "pyproject.toml": """
[tool.flwr.app.components]
serverapp = "mine.server_app:app"
clientapp = "mine.client_app:app"
[tool.flwr.app.config]
num-server-rounds = 9
step = 1.0
""",
    "mine/__init__.py": "",
    "mine/strategy.py": """
from flwr.serverapp.strategy import FedAvg

class Own(FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)
""",
    "mine/server_app.py": """
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from mine.strategy import Own

app = ServerApp()

@app.main()
def main(grid, context):
    print("training")
    start = ArrayRecord({"w": Array(np.zeros((4, 3), np.float32))})
    Own().start(grid, start, num_rounds=context.run_config["num-server-rounds"])
""",
    "mine/client_app.py": """
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(msg, context):
    i = context.node_config["partition-id"]
    w = msg.content["arrays"]["w"].numpy() + np.random.default_rng(i).normal(context.run_config["step"], 0.1, (4, 3))
    arrays = ArrayRecord({"w": Array(w.astype(np.float32))})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 5})}), reply_to=msg)

@app.evaluate()
def evaluate(msg, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 5, "loss": 1.0})}), reply_to=msg)
""",
}


def test_an_example_runs_as_it_is_and_defended(tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / "examples" / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "examples" / "project" / name).write_text(text)
    mine = examples.Example("project", nodes=6)
    for defence in examples.DEFENCES:
        found = examples.apart(tmp_path, mine, defence)
        assert (found.kind, found.why) == (Kind.WORKS, "")
        assert len(found.seen) == (0 if defence == examples.UNDEFENDED else examples.ROUNDS)
    code = tmp_path / "examples" / "project" / "mine" / "client_app.py"
    code.write_text(PROJECT["mine/client_app.py"].replace("w.astype", "(0 * w).astype"))
    assert examples.apart(tmp_path, mine, examples.UNDEFENDED).kind is Kind.TRAINS_NOTHING
    code.write_text("import nonsense_that_nobody_has")
    broken = examples.apart(tmp_path, mine, examples.UNDEFENDED)
    assert broken.kind is Kind.FAILS and broken.why.startswith("ModuleNotFoundError: No module named 'nonsense")
