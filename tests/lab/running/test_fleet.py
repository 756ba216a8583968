"""Many clients trained at once get what their plan would have given each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from apps.lab.config import load
from apps.lab.models import cnn, logistic, mlp
from apps.lab.running import fleet
from apps.lab.running.fleet import Fleet, train_together
from apps.lab.running.local_run import run_locally
from flwr_faa import TrainingPlan
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.training import Data

SHAPE, CLASSES = (1, 8, 8), 10


def dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))


def clients(*sizes: int) -> list[Data]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 17, (n, *SHAPE), np.uint8), rng.integers(0, 10, n)) for n in sizes]


def error(plan: TrainingPlan, start: Arrays, one: Arrays, other: Arrays) -> float:
    assert [(a.shape, a.dtype) for a in one] == [(a.shape, a.dtype) for a in other]
    return plan.error(start, one, other)


PLANS = {
    "logistic": TrainingPlan(partial(logistic, SHAPE, CLASSES), 0.5, 20, 5, scale=1 / 16),
    "mlp": TrainingPlan(partial(mlp, SHAPE, CLASSES), 0.5, 20, 2, scale=1 / 16),
    "cnn": TrainingPlan(partial(cnn, SHAPE, CLASSES), 0.1, 20, scale=1 / 16),
    "momentum and decay": TrainingPlan(partial(mlp, SHAPE, CLASSES), 0.1, 20, 2, 0.9, 0.01, 1 / 16),
    "dropout": TrainingPlan(dropout, 0.1, 20, 2, scale=1 / 16),
}


@pytest.mark.parametrize("name", PLANS)
def test_together_is_each_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Prepare
    monkeypatch.setattr(fleet, "STACK", 3)
    plan, data = PLANS[name], clients(60, 50, 60, 60, 60, 1)
    start = plan.initial_arrays(1)

    # Execute
    together = train_together(plan, start, data, 5)

    # Assert
    alone = [plan.train(start, d, 5) for d in data]
    assert max(error(plan, start, a, b) for a, b in zip(together, alone, strict=True)) < 1e-5
    assert error(plan, start, together[0], alone[2]) > 0.01


def test_buffers_are_refused() -> None:
    plan = replace(PLANS["mlp"], model=batch_norm)
    with pytest.raises(ValueError, match="expected a model without buffers to train many at once, got 2"):
        train_together(plan, plan.initial_arrays(1), clients(20), 0)


@pytest.mark.parametrize("attack", ["label_flip", "alie_jitter", "none"])
def test_a_run_of_the_fleet_is_the_run(attack: str) -> None:
    overrides = f"model=logistic clients=10 partition=shards rounds=3 strategy=lomar api=message attack={attack}"
    alone, together = run_locally(load(overrides)), run_locally(Fleet.of(load(overrides)))
    assert together.accuracy == alone.accuracy
    for one, other in zip(alone.reports, together.reports, strict=True):
        assert [(v.node_id, v.verdict) for v in one.nodes] == [(v.node_id, v.verdict) for v in other.nodes]
        assert [v.score for v in other.nodes] == pytest.approx([v.score for v in one.nodes], rel=1e-3)


def test_verification_clears_a_fleet() -> None:
    run = run_locally(Fleet.of(load("clients=10 rounds=2 strategy=fe attack=sign_flip attack.share=0.2")))
    assert len(run.reports[0].convicted) == 2
    assert run.summary["honest_convicted"] == 0
