"""The distribution: what the wheel holds, and that numbers agree."""

import doctest
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import flwr_faa
from flwr_lomar import LoMarDetector

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"flwr_faa", "flwr_lomar"}
    assert {"flwr_faa/py.typed", "flwr_lomar/py.typed", "flwr_faa/strategy.py"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == flwr_faa.__version__


def test_everything_promised_at_the_top_can_be_had() -> None:
    for name in flwr_faa.__all__:
        assert getattr(flwr_faa, name).__name__ == name


@pytest.mark.parametrize("public", [*(getattr(flwr_faa, name) for name in flwr_faa.__all__), LoMarDetector])
def test_the_examples_of_the_docstrings_work(
    public: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(public, globs={public.__name__: public})
    assert any(test.examples for test in found), f"expected an Examples section in {public.__name__}"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test)
    assert not runner.failures, capsys.readouterr().out
