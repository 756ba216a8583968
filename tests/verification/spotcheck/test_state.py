"""What a checkpoint is in bytes: where each array lies in it, which of them may change, and how far momentum goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.training import Checkpoint
from tests.helpers.toy import PLANS


class Mixed(nn.Module):
    """Eight arrays: 0 to 3 trained, 4 to 6 the norm's (a mean, a variance, a counter), then two buffers, see ``SIZES``.

    The buffers are registered before the layers, whose arrays stand in front of them all the same.
    """

    def __init__(self, size: int = 4096) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
        self.register_buffer("moving_variance", torch.ones(1))
        self.register_buffer("table", torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))  # type: ignore[no-any-return]


def layout(momentum: float = 0.0, size: int = 4096) -> StateLayout:
    return StateLayout.of(TrainingPlan(lambda: Mixed(size), lr=0.1, momentum=momentum))


NAMES = list(Mixed().state_dict())


def test_buffers_of_more_than_4096_values_must_stay() -> None:
    table, at = NAMES.index("table"), {name: i for i, name in enumerate(NAMES)}
    others = tuple(at[n] for n in NAMES if "running" in n or "tracked" in n or n == "moving_variance")
    for size, changing in ((4096, True), (4097, False)):
        found = layout(size=size)
        assert set(found.buffers) == {*others, *([table] if changing else [])}
        assert found.fixed == (() if changing else (table,))
        assert found.buffer_count == len(found.variances) == sum(n for n, _ in sizes(found, size))
    assert found.parameters == tuple(at[n] for n in ("fc.weight", "fc.bias", "norm.weight", "norm.bias"))


def sizes(found: StateLayout, size: int) -> list[tuple[int, str]]:
    held = {"norm.running_mean": 2, "norm.running_var": 2, "norm.num_batches_tracked": 1, "moving_variance": 1}
    return [({**held, "table": size}[NAMES[i]], NAMES[i]) for i in found.buffers]


def test_variances_are_those_that_are_named_so() -> None:
    found = layout(size=3)
    named = [name for count, name in sizes(found, 3) for _ in range(count)]
    marked = [name for name, variance in zip(named, found.variances, strict=True) if variance]
    assert marked == [n for n in named if n in ("norm.running_var", "moving_variance")] and len(marked) == 3


@pytest.mark.parametrize(("momentum", "coast"), [(0.0, 0.0), (0.5, 0.1), (0.9, 0.9)])
def test_momentum_coasts_by_the_sum_of_a_geometric_series(momentum: float, coast: float) -> None:
    """Parameters go on by ``lr (mu + mu^2 + ...)`` times the momentum, with a learning rate of .1."""
    found = layout(momentum, 3)
    assert found.coast == pytest.approx(coast, rel=1e-12)
    assert found.coast == pytest.approx(0.1 * sum(momentum**k for k in range(1, 2000)))
    assert found.lengths == (2 if momentum else 1) and found.measures == found.lengths + 1


def test_without_buffers_a_step_is_measured_by_lengths_alone() -> None:
    plain = StateLayout.of(PLANS["mlp"])
    assert (plain.buffer_count, plain.buffers, plain.fixed) == (0, (), ())
    assert (plain.lengths, plain.measures) == (2, 2)
    assert (StateLayout.of(PLANS["logistic"]).measures, StateLayout.of(PLANS["cnn"]).measures) == (1, 2)


def test_a_checkpoint_is_all_arrays_then_all_momentum_and_nothing_else() -> None:
    """By hand for 3 x 2 weights, 2 biases, and buffers of 8 bytes and of 4."""
    plan = TrainingPlan(lambda: Mixed(3), lr=0.1, momentum=0.9)
    found, start = StateLayout.of(plan), plan.start(plan.initial_arrays(1))
    arrays = tuple((np.arange(a.size).reshape(a.shape) + i).astype(a.dtype) for i, a in enumerate(start.arrays))
    momentum = tuple(m - i for i, m in enumerate(start.momentum))
    encoded = found.encode(Checkpoint(arrays, momentum))
    assert encoded == b"".join(a.tobytes() for a in (*arrays, *momentum))
    trained, buffers = (6 + 2 + 2 + 2) * 4, (2 + 2 + 1 + 3) * 4 + 8
    assert found.size == len(encoded) == 2 * trained + buffers
    assert (found.arrays, len(found.shapes), len(found.dtypes)) == (9, 13, 13)

    read = found.decode(encoded)
    for mine, got in ((arrays, read.arrays), (momentum, read.momentum)):
        assert len(mine) == len(got)
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(mine, got, strict=True))
    for i, a in enumerate(arrays):
        assert encoded[found.place(i)] == a.tobytes()

    # Where each parameter, its momentum, and each buffer that may change begin.
    spans = list(found.spans())
    assert len(spans) == 4
    for (w, m, count, dtype), i, kept in zip(spans, found.parameters, momentum, strict=True):
        assert np.array_equal(np.frombuffer(encoded, dtype, count, w), arrays[i].ravel())
        assert np.array_equal(np.frombuffer(encoded, dtype, count, m), kept.ravel())
    for (at, count, dtype), i in zip(found.buffer_spans(), found.buffers, strict=True):
        assert np.array_equal(np.frombuffer(encoded, dtype, count, at), arrays[i].ravel())
    assert [count for _, count, _ in found.buffer_spans()] == [n for n, _ in sizes(found, 3)]


def test_without_momentum_there_is_none_in_a_checkpoint() -> None:
    plan = TrainingPlan(lambda: Mixed(3), lr=0.1)
    found, start = StateLayout.of(plan), plan.start(plan.initial_arrays(1))
    assert found.size == 48 + 40 and len(found.shapes) == found.arrays
    assert [m for _, m, _, _ in found.spans()] == [0, 0, 0, 0]
    assert found.decode(found.encode(start)).momentum == ()
    with pytest.raises(ValueError, match="zip"):
        found.encode(replace(start, arrays=start.arrays[1:]))


def test_a_weight_used_by_two_layers_is_one_parameter() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    found = StateLayout.of(TrainingPlan(tied, lr=0.1))
    assert (found.arrays, found.parameters, found.buffers) == (4, (0, 1, 3), ())
