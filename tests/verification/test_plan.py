"""The training contract: one nonce, one result; and the measure by which a claim is compared with its replay."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification import plan as module
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import find_first_layer
from tests.helpers.toy import PLANS, Logistic, slice_of


@pytest.mark.parametrize(
    ("name", "inside", "outside", "says"),
    [
        ("lr", [5e-324, 1, np.float32(0.5)], [0, -1.0, math.nan, math.inf, "0.1", True], "finite number above 0"),
        ("scale", [5e-324, 300], [0, -1, math.inf], "finite number above 0"),
        ("momentum", [0, 0.999, 1 - 2**-53], [1, -5e-324, math.nan], "finite number at least 0 and below 1"),
        ("weight_decay", [0, 1e3], [-5e-324, math.inf], "finite number at least 0"),
        ("batch_size", [1, np.int64(7)], [0, 1.0, True], "an integer of at least 1"),
        ("epochs", [1, 2], [0, -1, 2.0], "an integer of at least 1"),
        ("bits", [0, 32], [33], "finite number at most 32"),
        ("bits", [0, 32], [-1, 3.0], "an integer of at least 0"),
        ("loss", [None, torch.nn.functional.mse_loss], ["mse", 0], "to be a callable or None"),
        ("model", [Logistic], [3, "Logistic"], "to be a callable that returns a torch module"),
        ("model", [Logistic], [Logistic()], "got the module Logistic: give its class"),
    ],
)
def test_settings_are_refused_beyond_their_bounds(name: str, inside: list[Any], outside: list[Any], says: str) -> None:
    for value in inside:
        assert getattr(replace(PLANS["mlp"], **{name: value}), name) is value
    for value in outside:
        with pytest.raises(ValueError, match=f"expected {name} .*{says}"):
            replace(PLANS["mlp"], **{name: value})


def test_a_plan_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"expected torch for a TrainingPlan, which trains and replays by it, got none"
    ):
        replace(PLANS["mlp"])


@pytest.mark.parametrize(
    ("plan", "factor", "more", "says"),
    [
        ("mlp", 1, {}, None),
        ("mlp", 15.9375, {}, None),  # up to 255
        ("mlp", 16, {}, r"samples from 0 to 255, got 256"),
        ("mlp", 16, {"max_value": 256}, None),
        ("cnn", 1, {}, "dense first layer, got a convolution"),
        ("cnn", 1, {"allow_convolution": True}, None),
    ],
)
def test_a_check_is_of_a_dense_layer_and_of_pixels_unless_it_is_told(
    plan: str, factor: float, more: dict[str, Any], says: str | None
) -> None:
    samples, labels = slice_of(0, 40)
    data = (samples.astype(float) * factor).astype(int), labels
    if says is None:
        PLANS[plan].check(data, budget=1.0, **more)
    else:
        with pytest.raises(ValueError, match=rf"that can be verified; to change:\n  1\. .*{says}"):
            PLANS[plan].check(data, budget=1.0, **more)


@pytest.mark.parametrize("name", PLANS)
def test_training_is_reproducible_whatever_the_threads_and_the_global_seed(name: str) -> None:
    plan, data = PLANS[name], slice_of(0)
    start = plan.initial_arrays(3)
    before = torch.get_rng_state()
    first = plan.train(start, data, 11)
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        second = plan.train(start, data, 11)
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    torch.set_rng_state(before)
    plan.train(start, data, 11)
    assert torch.equal(torch.get_rng_state(), before)
    assert plan.error(start, first, plan.train(start, data, 12)) > 0.05  # another batch order is another result


def test_batches_cover_every_row_once_an_epoch() -> None:
    plan = PLANS["mlp"]
    steps = list(plan.batches(45, 7))
    assert [len(s) for s in steps] == [20, 20, 5] * 2
    assert sorted(np.concatenate(steps[:3])) == list(range(45))
    assert not np.array_equal(np.concatenate(steps[:3]), np.concatenate(steps[3:]))


def test_error_sees_through_large_buffers_and_counts_integers_exactly() -> None:
    plan = PLANS["cnn"]
    start = plan.initial_arrays(0)
    done = plan.train(start, slice_of(0), 1)
    names = list(plan.model().state_dict())
    assert plan.error(start, done, done) == 0.0

    loud = [a.copy() for a in done]
    loud[names.index("norm.running_var")] += 100
    claimed = [a.copy() for a in loud]
    claimed[names.index("fc.weight")] *= -1
    assert plan.error(start, claimed, loud) > 1  # the weights are compared among themselves

    late = [a.copy() for a in done]
    late[names.index("norm.num_batches_tracked")] += 1
    assert plan.error(start, late, done) == float("inf")
    assert plan.error(start, start, start) == 0.0
    assert plan.error(start, done, start) == float("inf")


def test_error_of_a_nan_convicts() -> None:
    plan = PLANS["logistic"]
    start = plan.initial_arrays(0)
    done = plan.train(start, slice_of(0), 1)
    broken = [np.full_like(a, np.nan) for a in done]
    assert not plan.error(start, broken, done) <= 0.05


def test_first_layer() -> None:
    assert isinstance(find_first_layer(PLANS["cnn"].model()), nn.Conv2d)
    with pytest.raises(ValueError, match="got BatchNorm1d"):
        find_first_layer(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="got none"):
        find_first_layer(nn.Sequential(nn.ReLU()))


def test_predict_learns() -> None:
    plan = TrainingPlan(model=PLANS["mlp"].model, lr=0.1, batch_size=20, epochs=20, momentum=0.9, scale=1 / 16)
    data = slice_of(0, 600)
    arrays = plan.train(plan.initial_arrays(0), data, 5)
    test = slice_of(2, 600)
    accuracy = float((plan.predict(arrays, test[0]).argmax(1) == test[1]).mean())
    assert accuracy > 0.9


@pytest.mark.parametrize("name", PLANS)
def test_a_step_alone_is_the_step_of_the_run(name: str) -> None:
    plan, (samples, labels) = PLANS[name], slice_of(0)
    start = plan.initial_arrays(3)
    checkpoints = [plan.start(start)]
    done = plan.train(start, (samples, labels), 11, on_step=checkpoints.append)
    assert all(np.array_equal(a, b) for a, b in zip(done, checkpoints[-1].arrays, strict=True))
    for index, rows in enumerate(plan.batches(len(labels), 11)):
        ours = plan.step(checkpoints[index], (samples[rows], labels[rows]), 11, index)
        theirs = checkpoints[index + 1]
        assert len(ours.momentum) == (len(list(plan.model().parameters())) if plan.momentum else 0)
        for a, b in zip(ours.arrays + ours.momentum, theirs.arrays + theirs.momentum, strict=True):
            assert a.tobytes() == b.tobytes()
