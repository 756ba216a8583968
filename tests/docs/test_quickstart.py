"""The quickstarts: how little changes in somebody's project, and that the page's diffs make what works."""

import importlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.lab.running.local_grid import LocalGrid, run_server_app
from tests.helpers.quickstart import CHECK

VARIANTS = [(project, variant) for project, variants in CHECK.PROJECTS.items() for variant in variants]


@pytest.mark.parametrize(("project", "variant"), VARIANTS)
def test_how_much_of_a_project_changes(project: str, variant: str) -> None:
    diff = CHECK.diff(project, variant)
    files = re.split(rf"^\+\+\+ {variant}/quickstart/(\w+\.py)$", diff, flags=re.MULTILINE)[1:]
    added = {
        name: [line for line in text.splitlines() if line.startswith("+") and line[1:].strip()]
        for name, text in zip(files[::2], files[1::2], strict=True)
    }
    if variant != "verified":  # one import and one line
        assert added.keys() == {"server_app.py"} and len(added["server_app.py"]) == 2
    else:
        assert added.keys() == {"client_app.py", "server_app.py", "task.py"} and len(added["client_app.py"]) <= 10


@pytest.mark.parametrize(("project", "variant"), VARIANTS)
def test_the_attackers_are_removed(
    project: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = CHECK.project(project, variant, tmp_path / "project")
    (tmp_path / "attackers").mkdir()
    monkeypatch.setenv("ATTACKERS", str(tmp_path / "attackers"))
    monkeypatch.syspath_prepend(where)
    caplog.set_level("INFO", "flwr")
    settings = tomllib.loads((where / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    torch.manual_seed(0)

    def app(name: str) -> Any:
        return importlib.import_module(f"quickstart.{name}").app

    try:
        run_server_app(app("server_app"), LocalGrid(app("attacker"), CHECK.NODES, settings | {"num-server-rounds": 1}))
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "quickstart"]:
            del sys.modules[name]
    attackers = {p.name for p in (tmp_path / "attackers").iterdir()}
    assert CHECK.judge(variant, caplog.text, attackers) == ""


def test_a_run_that_went_wrong_is_noticed() -> None:
    right = "faa round=1 node=1 verdict=convicted accepted=False\nfaa round=1 node=2 verdict=convicted accepted=False\n"
    assert CHECK.judge("verified", right, {"1", "2"}) == ""
    left_out = right.replace("convicted", "left-out")
    assert CHECK.judge("holdout", left_out, {"1", "2"}) == ""
    assert CHECK.removed(right, {"1", "3"}) == "round 1: 1 attackers and 1 others out"
    assert "got 1" in CHECK.judge("faa", right, {"1", "3"})
    assert "honest" in CHECK.judge("verified", right + "faa round=2 node=5 verdict=missing accepted=False", {"1", "2"})
    assert "got 2 and 0 lines" in CHECK.judge("faa", "", {"1", "2"})
