"""docs/how-to/with-flower.md: what works beside a defence, and what cannot, with Flower's own mods and strategies.

Secure aggregation is in tests/studies/test_compat.py, replies that are no model in test_hopeless.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedProx,
)

from apps.lab.running.local_grid import LocalGrid, run_server_app
from flwr_faa import FAADL, protect, verifiable
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from flwr_faa.verification.replay import Replay
from flwr_lomar import LoMar
from tests.helpers.toy import PLANS, seen_by, slice_of

ROOT = Path(__file__).resolve().parents[2]
NODES, ROUNDS = 10, 2
MODEL = {"w": np.zeros((8, 5), np.float32), "norm.weight": np.ones(5, np.float32)}
Model = dict[str, np.ndarray]
DEFENCES: dict[str, Callable[..., Any]] = {
    "FAADL": FAADL, "LoMar": LoMar, "protect": lambda **settings: protect(FedAvg(**settings)),
}  # fmt: skip


def record(model: Model) -> ArrayRecord:
    return ArrayRecord({name: Array(a) for name, a in model.items()})


def clients(mods: Sequence[Any] = (), only: str = "", seen: list[Any] | None = None) -> ClientApp:
    """Honest updates are alike; the last node's is the opposite, and larger. ``only``: the arrays that are sent."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if seen is not None:
            seen.append(dict(message.content.config_records["config"]))
        draw, sign = np.random.default_rng(partition), -5.0 if partition == NODES - 1 else 1.0
        arrays = {n: a.numpy() for n, a in message.content.array_records["arrays"].items() if n.startswith(only)}
        made = {n: (a + sign + 0.1 * draw.normal(size=a.shape)).astype(a.dtype) for n, a in arrays.items()}
        metrics = MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": record(made), "metrics": metrics}), reply_to=message)

    return app


def run(strategy: Any, app: ClientApp, model: Model = MODEL, nodes: int = NODES) -> tuple[Model, LocalGrid]:
    server, grid = ServerApp(), LocalGrid(app, nodes)
    final: list[Model] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        done = strategy.start(grid=grid, initial_arrays=record(model), num_rounds=ROUNDS)
        final.append({name: a.numpy() for name, a in done.arrays.items()})

    run_server_app(server, grid)
    return final[0], grid


def settings() -> dict[str, Any]:
    return {"fraction_evaluate": 0.0, "min_train_nodes": NODES, "min_available_nodes": NODES}


def only_the_poisoner_is_out(strategy: Any, grid: LocalGrid) -> None:
    assert [{v.node_id for v in r.nodes if not v.accepted} for r in strategy.reports] == [{grid.node_ids[-1]}] * ROUNDS


@pytest.mark.parametrize("defence", DEFENCES)
def test_noise_on_the_device_leaves_detection_at_work(defence: str) -> None:
    strategy = DEFENCES[defence](**settings())
    model, grid = run(strategy, clients([LocalDpMod(clipping_norm=50.0, sensitivity=0.001, epsilon=1.0, delta=0.1)]))
    only_the_poisoner_is_out(strategy, grid)
    assert model["w"].mean() > 1.5  # two honest steps of one, and a little noise


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_wrapper_that_has_clients_clip_goes_around_the_defence(defence: str) -> None:
    strategy = DEFENCES[defence](**settings())
    wrapped = DifferentialPrivacyClientSideFixedClipping(strategy, 0.001, 50.0, NODES)
    only_the_poisoner_is_out(strategy, run(wrapped, clients([fixedclipping_mod]))[1])


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_wrapper_that_clips_on_the_server_goes_around_the_defence(defence: str) -> None:
    """It clips before the defence looks; the direction of an update stays, and its length where it is short."""
    strategy = DEFENCES[defence](**settings())
    wrapped = DifferentialPrivacyServerSideFixedClipping(strategy, 0.001, 50.0, NODES)
    only_the_poisoner_is_out(strategy, run(wrapped, clients())[1])
    with pytest.raises(TypeError, match="protect the strategy inside it"):
        protect(wrapped)


@pytest.mark.parametrize(("where", "verdict"), [("app", Outcome.MISSING), ("train", Outcome.CONVICTED)])
def test_noise_on_the_device_cannot_be_verified_and_bans_nobody(where: str, verdict: Outcome) -> None:
    """What is sent is not what was trained; a mod of the whole app refuses the answer too. All at once is a mistake."""
    plan, noise = PLANS["logistic"], [LocalDpMod(50.0, 0.001, 1.0, 0.1)]
    app = ClientApp(mods=noise if where == "app" else [])

    def own(context: Context) -> Any:
        return verifiable(plan, seen_by(plan, slice_of(int(context.node_config["partition-id"]))), plaintext=True)

    @app.train(mods=noise if where == "train" else None)
    def train(message: Message, context: Context) -> Message:
        return own(context).train(message, context)

    @app.query("verify")
    def verify(message: Message, context: Context) -> Message:
        return own(context).verify(message, context)

    few = {"fraction_evaluate": 0.0, "min_train_nodes": 4, "min_available_nodes": 4}
    strategy = FAADL(verifier=Replay(plan), detector=Everyone(), **few)
    names = plan.build(plan.initial_arrays(0)).state_dict().keys()
    run(strategy, app, dict(zip(names, plan.initial_arrays(0), strict=True)), nodes=4)
    verdicts = [v for report in strategy.reports for v in report.nodes]
    assert {v.verdict for v in verdicts} == {verdict} and not any(v.banned for v in verdicts)


def smaller(message: Message, context: Context, call_next: Any) -> Message:
    """A mod that sends a tenth of an update, its largest values, and zeros."""
    reply = call_next(message, context)
    for name, array in list(reply.content.array_records["arrays"].items()):
        before, after = message.content.array_records["arrays"][name].numpy(), array.numpy()
        step = after - before
        step[np.abs(step) < np.quantile(np.abs(step), 0.9)] = 0
        reply.content.array_records["arrays"][name] = Array(before + step)
    return reply


def bytes_instead(message: Message, context: Context, call_next: Any) -> Message:
    """A mod that sends eight bits for each value."""
    reply = call_next(message, context)
    for name, array in list(reply.content.array_records["arrays"].items()):
        reply.content.array_records["arrays"][name] = Array((100 * array.numpy()).astype(np.int8))
    return reply


def test_compression_that_keeps_the_form_works() -> None:
    strategy = FAADL(**settings())
    only_the_poisoner_is_out(strategy, run(strategy, clients([smaller]))[1])


def test_compression_that_changes_the_form_stops_the_run_in_its_first_round() -> None:
    with pytest.raises(RuntimeError, match="expected replies that can be judged one by one"):
        run(FAADL(**settings()), clients([bytes_instead]))


def test_fedprox_reaches_the_clients_and_fedadam_keeps_its_moments() -> None:
    seen: list[Any] = []
    strategy = protect(FedProx(proximal_mu=0.3, **settings()))
    only_the_poisoner_is_out(strategy, run(strategy, clients(seen=seen))[1])
    assert len(seen) == NODES * ROUNDS and all(config["proximal-mu"] == 0.3 for config in seen)
    strategy = protect(FedAdam(**settings()))
    only_the_poisoner_is_out(strategy, run(strategy, clients())[1])
    assert np.abs(strategy.m_t["w"]).sum() > 0


@pytest.mark.parametrize("defence", ["FAADL", "LoMar"])
def test_layers_that_stay_on_the_device_are_left_as_they_were(defence: str) -> None:
    """FedBN, and layers of one's own: all clients send the same part of the model."""
    strategy = DEFENCES[defence](**settings())
    model, grid = run(strategy, clients(only="w"))
    only_the_poisoner_is_out(strategy, grid)
    assert "norm.weight" not in model or np.array_equal(model["norm.weight"], MODEL["norm.weight"])
    assert model["w"].mean() > 1.5


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "how-to" / "with-flower.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert len(set(named)) >= 4 and all((ROOT / name).exists() for name in named)
