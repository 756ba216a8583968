"""What the wheel promises, tried where nothing else of this repository is: prints a JSON object of findings.

``matrix.py`` copies this file and the lab's ``local_grid.py`` into an environment and runs it there, so it imports the
wheel, Flower and numpy only. A finding is ``works``, or what went wrong. The argument names what is installed beside
the base: ``none``, ``server`` or ``all``.
"""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flwr.server.strategy
import flwr.serverapp.strategy
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp as LegacyServerApp
from flwr.server import ServerAppComponents, ServerConfig
from flwr.serverapp import Grid, ServerApp

import flwr_faa
import flwr_lomar
from apps.lab.running.local_grid import LocalGrid, run_server_app

NODES, ROUNDS, SHAPE = 10, 2, (8, 5)


def step(partition: int) -> np.ndarray[Any, Any]:
    """Return an update: honest ones are alike, the last node's is the opposite, and larger."""
    noise = np.random.default_rng(partition).normal(size=SHAPE)
    return (1.0 + 0.1 * noise if partition < NODES - 1 else -5.0 + noise).astype(np.float32)


def message_app() -> ClientApp:
    """Clients of the Message API."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent = message.content.array_records["arrays"]["w"].numpy()
        arrays = ArrayRecord({"w": Array(sent + step(int(context.node_config["partition-id"])))})
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})}), reply_to=message)

    return app


class Client(NumPyClient):
    """A client of the legacy API."""

    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters: Any, config: Any) -> Any:
        """One made-up update."""
        return [parameters[0] + step(self.partition)], 10, {}


def caught(strategy: Any, grid: Any) -> None:
    """Raise unless the poisoner, and nobody else, was kept out of every round."""
    for report in strategy.reports:
        out = {v.node_id for v in report.nodes if not v.accepted}
        if out != {grid.node_ids[-1]}:
            raise AssertionError(f"expected one node out, got {len(out)}")
    if len(strategy.reports) != ROUNDS:
        raise AssertionError(f"expected {ROUNDS} rounds, got {len(strategy.reports)}")


def message_round(make: Callable[..., Any]) -> None:
    """A federation of the Message API."""
    strategy, app = make(fraction_evaluate=0.0, min_train_nodes=NODES, min_available_nodes=NODES), ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(
            grid=grid, initial_arrays=ArrayRecord({"w": Array(np.zeros(SHAPE, np.float32))}), num_rounds=ROUNDS
        )

    grid = LocalGrid(message_app(), NODES)
    run_server_app(app, grid)
    caught(strategy, grid)


def legacy_round(make: Callable[..., Any]) -> None:
    """A federation of the legacy API."""
    start = ndarrays_to_parameters([np.zeros(SHAPE, np.float32)])
    strategy = make(initial_parameters=start, fraction_evaluate=0.0, min_fit_clients=NODES, min_available_clients=NODES)

    def server_fn(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))

    clients = ClientApp(lambda context: Client(int(context.node_config["partition-id"])).to_client())
    grid = LocalGrid(clients, NODES)
    run_server_app(LegacyServerApp(server_fn=server_fn), grid)
    caught(strategy, grid)


def detection() -> None:
    """FAA-DL in both APIs, around a strategy too, without torch."""
    from flwr_faa import legacy

    message_round(flwr_faa.FAADL)
    legacy_round(legacy.FAADL)
    message_round(lambda **settings: flwr_faa.protect(flwr.serverapp.strategy.FedAdam(**settings)))
    loaded = [name for name in ("torch", "pyod", "sklearn") if sys.modules.get(name)]
    if loaded:
        raise AssertionError(f"expected detection without them, got {', '.join(loaded)}")


def lomar() -> None:
    """LoMar in both APIs."""
    from flwr_lomar import legacy

    message_round(flwr_lomar.LoMar)
    legacy_round(legacy.LoMar)


def verification() -> None:
    """A training plan on digits made up: the same nonce is the same model, and a spot check can be built."""
    from torch import nn

    plan = flwr_faa.TrainingPlan(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=0.1, batch_size=10)
    data = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8), np.arange(40) % 10
    start = plan.initial_arrays(0)
    once, again = plan.train(start, data, nonce=7), plan.train(start, data, nonce=7)
    if not all(np.array_equal(a, b) for a, b in zip(once, again, strict=True)):
        raise AssertionError("expected the same model of the same nonce, got another one")
    flwr_faa.SpotCheck(plan)


def signatures() -> None:
    """Every argument of Flower's ``FedAvg`` is taken by ours, in its place."""
    for module, ours in (
        (flwr.serverapp.strategy, flwr_faa.FAADL),
        (flwr.server.strategy, __import__("flwr_faa.legacy").legacy.FAADL),
    ):
        theirs = inspect.signature(module.FedAvg.__init__).parameters
        own = {n for n, p in inspect.signature(ours.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY}
        if own & set(theirs):
            raise AssertionError(f"expected names that FedAvg does not use, got {', '.join(sorted(own & set(theirs)))}")
        defaults = {n: p.default for n, p in theirs.items() if p.default is not p.empty}
        mine, plain = ours(**defaults), module.FedAvg(**defaults)
        lost = [n for n in defaults if hasattr(plain, n) and type(getattr(mine, n)) is not type(getattr(plain, n))]
        if lost:
            raise AssertionError(f"expected every argument to reach FedAvg, got others for {', '.join(lost)}")


def commands() -> None:
    """Each command says its version, and the authority is made and shown."""
    for command in ("faa-authority", "faa-device", "faa-ledger"):
        told = call(command, "--version")
        if told.split() != [command, flwr_faa.__version__]:
            raise AssertionError(f"expected {command} {flwr_faa.__version__}, got {told!r}")
    with tempfile.TemporaryDirectory() as folder:
        call("faa-authority", "init", f"{folder}/authority")
        call("faa-authority", "show", f"{folder}/authority")


def call(command: str, *args: str) -> str:
    """Return what a command of this environment prints."""
    done = subprocess.run([Path(sys.executable).with_name(command), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"expected {command} {args[0]} to succeed, got: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


def refused(action: Callable[[], None], extra: str) -> None:
    """Raise unless the action ends in one line that names the extra."""
    try:
        action()
    except flwr_faa.FlwrAnomalyError as error:
        if "\n" in str(error) or f"pip install 'flwr-anomaly[{extra}]'" not in str(error):
            raise AssertionError(f"expected one line that names [{extra}], got {error}") from error
    else:
        raise AssertionError(f"expected it to need [{extra}], got no error")


def missing(installed: str) -> None:
    """What an extra brings is refused in one line where the extra is missing."""
    if installed == "none":
        refused(lomar, "server")
    if installed != "all":
        refused(lambda: void(flwr_faa.TrainingPlan(model=lambda: None, lr=0.1)), "torch")  # type: ignore[arg-type,return-value]


def void(_: object) -> None:
    """Take an object and forget it."""


def main(installed: str) -> dict[str, str]:
    """Try everything that this environment should be able to do."""
    parts: dict[str, Callable[[], None]] = {
        "detection": detection, "signatures": signatures, "commands": commands, "missing": lambda: missing(installed),
    }  # fmt: skip
    if installed != "none":
        parts["lomar"] = lomar
    if installed == "all":
        parts["verification"] = verification
    findings = {}
    for name, part in parts.items():
        try:
            part()
            findings[name] = "works"
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
            findings[name] = f"{type(error).__name__}: {error}"
    return findings


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps(main(sys.argv[1])))
