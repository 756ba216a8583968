"""Steps repeated over the cores: the same bits as one after the other, whatever the model."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.integer_layer import exact, integer_first_layer, real
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import Checkpoint, side_by_side, to_arrays
from tests.helpers.toy import PLANS, slice_of


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 10))


class Uncopied(nn.Linear):
    """A module that refuses to be copied, as some that hold handles do."""

    def __deepcopy__(self, memo: object) -> Uncopied:
        raise TypeError("cannot copy")


MODELS = {**PLANS, "dropout": TrainingPlan(model=with_dropout, lr=0.1, batch_size=10, scale=1 / 16)}


@pytest.mark.parametrize("name", MODELS)
def test_steps_over_the_cores_are_bit_for_bit_those_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    plan, (samples, labels) = MODELS[name], slice_of(0)
    start = plan.start(plan.initial_arrays(0))
    batches = list(plan.batches(len(labels), 3))[:6]
    calls = [partial(plan.step, start, (samples[b], labels[b]), 3, i) for i, b in enumerate(batches)]
    before = torch.default_generator.get_state()
    serial, both = [call() for call in calls], side_by_side(calls)
    assert torch.equal(before, torch.default_generator.get_state())
    for one, other in zip(serial, both, strict=True):
        assert isinstance(other, Checkpoint)
        for a, b in zip((*one.arrays, *one.momentum), (*other.arrays, *other.momentum), strict=True):
            assert a.tobytes() == b.tobytes()


def test_what_one_call_raises_is_its_own() -> None:
    def bad() -> int:
        raise IndexError("mine")

    first, second = side_by_side([lambda: 1, bad])
    assert first == 1 and isinstance(second, IndexError)
    assert side_by_side([]) == []


def test_a_model_that_cannot_be_copied_is_made_again() -> None:
    plan = TrainingPlan(model=lambda: Uncopied(64, 10), lr=0.1, batch_size=10)
    arrays = plan.initial_arrays(0)
    assert all((a == b).all() for a, b in zip(to_arrays(plan.build(arrays)), arrays, strict=True))


def test_models_of_one_plan_share_nothing() -> None:
    plan = replace(PLANS["mlp"])
    one, other = plan.build(plan.initial_arrays(0)), plan.build(plan.initial_arrays(1))
    shared = {id(p) for p in one.parameters()} & {id(p) for p in (*other.parameters(), *plan.template.parameters())}
    assert not shared


def test_integers_in_float32_are_those_in_float64() -> None:
    """As large as they may be; and one machine that multiplies float32 by halves is found out."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (5, 40)).astype(np.float64))
    kernels = torch.from_numpy(rng.integers(-1600, 1600, (7, 40)).astype(np.float64))
    right = x @ kernels.T
    used = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        used.append(a.dtype)
        return a @ b.T

    assert torch.equal(exact(product, x, kernels).double(), right) and used[0] == torch.float32
    used.clear()
    assert torch.equal(exact(product, 1000 * x, kernels), 1000 * right) and torch.float32 not in used

    def halved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == torch.float32:
            return (a.bfloat16() @ b.bfloat16().T).float()
        return a @ b.T

    assert torch.equal(exact(halved, x, kernels).double(), right)
    z = torch.arange(-(2**24), 2**24, 997, dtype=torch.float64)
    assert torch.equal(real(z, 1 / 255, 8, torch.float32), real(z.float(), 1 / 255, 8, torch.float32))


def test_the_integer_layer_takes_the_same_step_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, (samples, labels) = PLANS["cnn"], slice_of(0)
    arrays = plan.initial_arrays(0)

    def run() -> list[np.ndarray]:
        return plan.train(arrays, (samples, labels), 1, integer_first_layer(samples, plan.scale, plan.bits))

    quick = run()
    monkeypatch.setattr("flwr_faa.verification.integer_layer.exact", lambda product, x, kernels: product(x, kernels))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(quick, run(), strict=True))
