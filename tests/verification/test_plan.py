"""The training contract: one nonce, one result; and the measure by which a claim is compared with its replay."""

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import find_first_layer
from tests.helpers.toy import PLANS, slice_of


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
