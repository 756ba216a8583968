"""Through real ``flwr run``s: same seed, same verdicts as in process; a failed run is noticed; nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.lab.config import load
from apps.lab.running.local_run import run_locally
from apps.lab.running.processes import ROOT, descendants
from apps.lab.running.superlink import RunError, SuperLink

pytestmark = pytest.mark.slow

LAB = ROOT / "docs" / "how-to" / "lab.md"

OVERRIDES = "partition=shards attack=alie attack.share=0.3 rounds=3 run.baseline=false"
SPOTCHECK = (
    "dataset=mnist5k model=mlp +model.model.units=2 partition=lambda partition.size=20 clients=10 attack=sign_flip "
    "attack.share=0.3 rounds=2 strategy=fe verification=spotcheck model.batch_size=20 verification.budget=0.5 "
    "run.baseline=false"
)


def verdicts(folder: Path) -> list[list[tuple[Any, ...]]]:
    """By round and partition: node ids differ from run to run."""
    keys = ("partition", "malicious", "verdict", "accepted", "suspect", "score", "error", "banned", "reason")
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").open()]
    return [sorted(tuple(node[k] for k in keys) for node in r["nodes"]) for r in rounds]


def test_flwr_run_gives_the_verdicts_of_the_run_in_process(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    with SuperLink(tmp_path / "flwr.log") as link:
        for api in ("legacy", "message"):
            real, local = tmp_path / f"{api}-real", tmp_path / f"{api}-local"
            link.run(f"{OVERRIDES} api={api} run.dir={real}", nodes=20)
            run_locally(load(f"{OVERRIDES} api={api}"), local)
            assert verdicts(real) == verdicts(local)
            summary = json.loads((real / "summary.json").read_text())
            assert summary["recall"] == 1
            assert summary["honest_convicted"] == 0
        # With the spot check clients keep what they are bound to between messages, each in its own folder. A budget of
        # half the dimensions is spent by the first check.
        spot = tmp_path / "spot"
        link.run(f"{SPOTCHECK} run.dir={spot}", nodes=10)
        record = run_locally(load(f"{SPOTCHECK} run.dir={tmp_path / 'local'}"), tmp_path / "local")
        outcomes = [[row[:5] for row in r] for r in verdicts(spot)]
        assert outcomes == [[row[:5] for row in r] for r in verdicts(tmp_path / "local")]
        assert {row[2] for row in outcomes[0]} == {"convicted", "cleared"}
        assert {row[2] for row in outcomes[1]} == {"exhausted"}
        nodes = json.loads((spot / "summary.json").read_text())["disclosure"]["nodes"]
        assert sorted(n["max_rank"] for n in nodes) == sorted(
            n["max_rank"] for n in record.summary["disclosure"]["nodes"]
        )
    assert descendants(os.getpid()) == before


def test_the_printed_flwr_run_runs_as_printed_and_two_nodes_are_refused(tmp_path: Path) -> None:
    (printed,) = (c for c in re.findall(r"^flwr run .*$", LAB.read_text(), re.MULTILINE))
    folder = load("attack=alie strategy=faa").folder.name
    with SuperLink(tmp_path / "flwr.log") as link:
        with pytest.raises(RunError, match="finished:failed"):
            link.run("attack=alie strategy=faa", nodes=2)  # as Flower does unless it is told otherwise
        said = (tmp_path / "flwr.log").read_text()
        assert "expected 20 simulated nodes, one for each client, got 2: pass --federation-config" in said
        done = link.shell(printed)
    assert f"{folder}: accuracy" in done and "recall 1.00" in done
    (summary,) = re.findall(rf"\S+{re.escape(folder)}(?=\s)", done)[-1:]
    assert json.loads((Path(summary) / "summary.json").read_text())["recall"] == 1


def test_the_labs_first_example_prints_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"```\n(python -m apps\.lab [^\n]*)\n```\n\n```\n(.*?)```", LAB.read_text(), re.DOTALL)
    ((command, printed),) = blocks
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    shown = [line for line in done.stdout.splitlines() if line][:3]
    without_time = [re.sub(r", [\d.]+ s$", "", line) for line in (*shown, *printed.splitlines())]
    assert without_time[:3] == without_time[3:]
