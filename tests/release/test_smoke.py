"""The smoke tests of the wheel, where only the base can be imported; `make matrix` runs them in fresh environments."""

import json
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
from typer.testing import CliRunner

from apps.lab.__main__ import dispatch
from apps.release import matrix
from flwr_faa import device_check
from flwr_faa.authority import cli as authority
from flwr_faa.ledger import cli as ledger

BLOCKED = ("torch", "pyod", "sklearn", "scipy", "numba", "fastapi", "charm_lite", "ray", "pandas", "matplotlib")


def run(script: str) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
    return subprocess.run([sys.executable, "-c", blocked + script], capture_output=True, text=True, check=False)


def test_the_base_detects_and_says_in_one_line_what_the_rest_needs() -> None:
    done = run("import json; from apps.release import smoke; print(json.dumps(smoke.main('none')))")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("commands")  # those of the wheel, which this environment need not have
    assert found == {"detection": "works", "signatures": "works", "missing": "works"}


@pytest.mark.parametrize(
    ("extra", "script"),
    [
        ("live", "import flwr_faa.ledger.live"),
        ("server", "from flwr_faa.detection import OCSVM; OCSVM()._outside(1 - __import__('numpy').eye(3))"),
        ("server", "import flwr_lomar.legacy"),
        ("charm", "from flwr_faa.crypto.backends import open_group; open_group('charm')"),
        ("torch", "import flwr_faa; flwr_faa.TrainingPlan(None, lr=.1)"),
    ],
)
def test_what_an_extra_brings_is_missed_in_one_line(extra: str, script: str) -> None:
    done = run(script)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("flwr_faa.errors.MissingExtraError: expected "), done.stderr
    assert last.endswith(f"got none: pip install 'flwr-anomaly[{extra}]'")


@pytest.mark.parametrize(
    ("name", "app"),
    [("faa-authority", authority.app), ("faa-device", device_check.app), ("faa-ledger", ledger.app)],
)
def test_every_command_says_its_version(name: str, app: Any) -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"{name} {metadata.version('flwr-anomaly')}\n"


def test_the_lab_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"apps.lab {metadata.version('flwr-anomaly')}\n"


def test_a_python_that_cannot_be_had_is_a_line_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = matrix.lines(["3.99"], [">=1.38"], ["none"])
    assert line[2].startswith("not tried") and len(line) == len(matrix.HEAD)
