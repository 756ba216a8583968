"""A project's clients that name no device, in Flower's own simulation: each is itself, and HOME stays empty."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from apps.lab.running.processes import ROOT

pytestmark = pytest.mark.slow

PROJECT = """
import json, os, sys
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
import numpy as np
from torch import nn
from flwr_faa import FAADL, SpotCheck, TrainingPlan, verifiable
from flwr_faa.detection import Everyone

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 2), nn.ReLU(), nn.Linear(2, 10))

plan = TrainingPlan(model, lr=0.1, batch_size=40, scale=1 / 255)

def client(context):
    rng = np.random.default_rng(int(context.node_config["partition-id"]))
    data = rng.integers(0, 256, (40, 1, 28, 28)).astype(np.uint8), rng.integers(0, 10, 40)
    return verifiable(plan, data, answers=("spotcheck",))

app, server = ClientApp(), ServerApp()

@app.train()
def train(msg, context): return client(context).train(msg, context)

@app.query("verify")
def verify(msg, context): return client(context).verify(msg, context)

@server.main()
def main(grid, context):
    verifier = SpotCheck(plan, (1, 28, 28))
    strategy = FAADL(verifier=verifier, detector=Everyone(), fraction_evaluate=0.0, min_available_nodes=3)
    names = plan.model().state_dict()
    start = ArrayRecord({n: Array(a) for n, a in zip(names, plan.initial_arrays(0))})
    strategy.start(grid=grid, initial_arrays=start, num_rounds=1)
    open(sys.argv[1], "w").write(json.dumps([str(v.verdict) for v in strategy.reports[0].nodes]))

run_simulation(server_app=server, client_app=app, num_supernodes=3,
               backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}})
"""


def test_simulated_clients_without_a_device_keep_apart_and_leave_home_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    temporary = Path(tempfile.mkdtemp(prefix="faa-"))  # Ray's sockets are in it, whose paths must be short
    kept = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    (tmp_path / "project.py").write_text(PROJECT)
    command = [sys.executable, str(tmp_path / "project.py"), str(tmp_path / "verdicts.json")]
    with (tmp_path / "log").open("w") as log:  # a pipe would be waited for as long as Ray's own processes hold it
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=log, stderr=log, timeout=300)
    assert done.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    found = json.loads((tmp_path / "verdicts.json").read_text())
    assert found == ["cleared"] * 3, (tmp_path / "log").read_text()[-3000:]
    assert not (home / ".local").exists()
    assert len(list(temporary.glob("flwr-faa-*/*"))) == 3
    shutil.rmtree(temporary)
