"""``docs/how-to/extend.md``: its files are written, and its command run, as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apps.lab.config import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "extend.md").read_text()
BLOCKS = re.findall(r"```(python|yaml|sh)\n(.*?)```", PAGE, re.DOTALL)
FILES = {body.split("\n")[0].removeprefix("# "): body for kind, body in BLOCKS if kind != "sh"}
(COMMAND,) = (body for kind, body in BLOCKS if kind == "sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the repository's packages and the page's files."""
    for package in ("apps", "flwr_faa", "flwr_lomar"):
        (tmp_path / package).symlink_to(ROOT / package)
    for name, body in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return tmp_path


def test_each_is_one_file_and_one_yaml_in_under_20_lines() -> None:
    kinds = {
        Path(name).stem: sorted(Path(n).suffix for n in FILES if Path(n).stem == Path(name).stem) for name in FILES
    }
    assert kinds == {key: [".py", ".yaml"] for key in ("quartiles", "lazy", "tumours", "wide")}
    for stem in kinds:
        assert sum(len(body.splitlines()) for name, body in FILES.items() if Path(name).stem == stem) < 20


def test_the_command_runs(checkout: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-c", COMMAND], cwd=checkout, env={**os.environ, "PATH": path}, check=True, timeout=550)
    (summary,) = (checkout / "runs").glob("tumours-iid-wide-lazy-quartiles-seed1-rounds=3/summary.json")
    found = json.loads(summary.read_text())
    assert (found["strategy"], found["attack"], found["rounds"]) == ("quartiles", "lazy", 3)
    assert found["final_accuracy"] > 0.8


def test_the_search_path_is_an_override_too(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(checkout / "mine"))
    scenario = load(f"hydra.searchpath=[file://{checkout}/mine] attack=lazy attack.factor=3.0")
    assert scenario.attack.factor == 3.0
    assert scenario.folder.name == "digits-iid-mlp-lazy-faa-sequential-replay-seed1-attack.factor=3.0"
