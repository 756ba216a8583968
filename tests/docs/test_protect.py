"""Who copies *Protect your project* has clients that enrol, and are cleared when they are asked."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from apps.lab.running.local_grid import LocalGrid, run_server_app
from flwr_faa import FAADL, Holdout, SpotCheck
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from tests.helpers.pages import ROOT, blocks


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    for _, text in blocks(ROOT / "docs" / "start" / "protect.md"):
        exec(compile(text, "protect.md", "exec"), names)
    return names


def test_a_client_of_the_page_enrols_and_is_cleared(
    page: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one = {"min_train_nodes": 1, "min_available_nodes": 1, "fraction_evaluate": 0.0}  # a machine is one client
    strategy = FAADL(verifier=SpotCheck(page["plan"]), detector=Everyone(), **one)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid=grid, initial_arrays=ArrayRecord(page["Net"]().state_dict()), num_rounds=1)

    run_server_app(server, LocalGrid(page["app"], 1))
    assert [v.verdict for v in strategy.reports[0].nodes] == [Outcome.CLEARED]


def test_the_held_out_loss_of_the_page_is_one(page: dict[str, Any]) -> None:
    assert isinstance(page["strategy"], FAADL) and isinstance(Holdout(page["loss"]), Holdout)
    assert page["loss"]([page["np"].array([1.0, -2.0, 0.5, 0.0]), page["np"].array(3.0)]) == 0
