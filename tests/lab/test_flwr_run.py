"""Through real ``flwr run``s: same seed, same verdicts as in process; a failed run is noticed; nothing stays behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from apps.lab.config import load
from apps.lab.local_run import run_locally
from apps.lab.processes import descendants
from apps.lab.superlink import RunError, SuperLink

pytestmark = pytest.mark.slow

OVERRIDES = "partition=shards attack=alie attack.share=0.3 rounds=3 run.baseline=false"


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
        with pytest.raises(RunError, match="finished:failed"):
            link.run("attack=unheard_of", nodes=2)
    assert descendants(os.getpid()) == before
