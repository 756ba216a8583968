"""docs/compatibility.md is what the strategies do today; and what looks like it works, but cannot, stops."""

from __future__ import annotations

import logging
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
from apps.studies.compat import strategies
from apps.studies.compat.__main__ import DOCS
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
