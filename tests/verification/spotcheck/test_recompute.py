"""One step by itself: an honest one differs by rounding alone, a changed number by just as much as the text says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.recompute import Contradiction, _buffer_error, _error, step_error
from flwr_faa.verification.training import Checkpoint
from flwr_faa.verification.wire import WireError


class Dense(nn.Module):
    """A buffer of its own stands before all layers, so the first weight is not the first array."""

    def __init__(self, bias: bool = True, rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("shift_mean", torch.full((1,), 0.5))
        self.fc1, self.norm = nn.Linear(5, 3, bias=bias), nn.BatchNorm1d(3, momentum=rate)
        self.fc2 = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.norm(self.fc1(x.flatten(1)))))


class Spatial(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 2, bias=bias), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.conv(x.reshape(-1, 1, 3, 3))).flatten(1))


def bare() -> nn.Module:
    """Nothing is trained but the first weight."""
    return nn.Linear(5, 3, bias=False)


@dataclass(frozen=True)
class Step:
    """An honest step, the fifth of a run, on four samples; and what its claims are tested by."""

    model: Callable[[], nn.Module]
    shape: tuple[int, ...] = (5,)
    momentum: float = 0.0
    decay: float = 0.0
    index: int = 4
    nonce: int = 7
    lr: float = 0.25

    @cached_property
    def plan(self) -> TrainingPlan:
        return TrainingPlan(
            self.model, self.lr, batch_size=4, momentum=self.momentum, weight_decay=self.decay, scale=1 / 16
        )

    @cached_property
    def layer(self) -> IntegerLayer:
        return IntegerLayer.of(self.plan, self.shape)

    @cached_property
    def samples(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 17, (4, *self.shape))

    labels = np.array([0, 1, 1, 0])

    @cached_property
    def vectors(self) -> np.ndarray:
        return np.random.default_rng(1).integers(-128, 129, (2, *self.layer.kernel))

    @cached_property
    def before(self) -> Checkpoint:
        start, rng = self.plan.start(self.plan.initial_arrays(3)), np.random.default_rng(2)
        moving = tuple(rng.standard_normal(m.shape).astype(m.dtype) / 8 for m in start.momentum)
        return Checkpoint(start.arrays, moving)

    def after(self, before: Checkpoint) -> Checkpoint:
        first = integer_first_layer(self.samples, self.plan.scale, self.plan.bits)
        return self.plan.step(before, (self.samples, self.labels), self.nonce, self.index, first)

    def error(self, after: Checkpoint, before: Checkpoint | None = None, **other: Any) -> float:
        """What the server finds of a step that is claimed to end there."""
        start = before or self.before
        kernels = np.concatenate([self.layer.fixed(start.arrays[self.layer.weight]), self.vectors])
        told = {"claims": self.layer.apply(self.samples, kernels), "labels": self.labels, **other}
        return step_error(
            self.plan, self.layer, (start, after), told["claims"], told["labels"], self.vectors, self.nonce, self.index
        )

    def names(self) -> list[str]:
        return list(self.plan.template.state_dict())


DENSE, MOVING = Step(Dense), Step(Dense, momentum=0.5, decay=0.1)
STEPS = {
    "dense": DENSE,
    "dense, momentum": MOVING,
    "dense, no bias": Step(lambda: Dense(bias=False), decay=0.1),
    "statistics that move": Step(lambda: Dense(rate=0.1), momentum=0.5),
    "convolution": Step(Spatial, (1, 3, 3), momentum=0.5, decay=0.1),
    "convolution, no bias": Step(lambda: Spatial(bias=False), (1, 3, 3)),
    "one weight": Step(bare),
    "one weight, momentum": Step(bare, momentum=0.5),
}


def changed(state: Checkpoint, array: int, by: Any, momentum: bool = False) -> Checkpoint:
    """The checkpoint with something added to one of its arrays, or of its momentum buffers."""
    held = list(state.momentum if momentum else state.arrays)
    held[array] = (held[array] + by).astype(held[array].dtype)
    return replace(state, **{"momentum" if momentum else "arrays": tuple(held)})


def size(*arrays: Any) -> float:
    return math.sqrt(sum(float(np.sum(np.square(np.asarray(a, float)))) for a in arrays))


@pytest.mark.parametrize("name", STEPS)
def test_an_honest_step_differs_by_rounding_alone(name: str) -> None:
    step = STEPS[name]
    assert step.error(step.after(step.before)) < 1e-5


@pytest.mark.parametrize("name", STEPS)
def test_any_claim_of_another_sample_is_seen(name: str) -> None:
    step = STEPS[name]
    after = step.after(step.before)
    kernels = np.concatenate([step.layer.fixed(step.before.arrays[step.layer.weight]), step.vectors])
    for row in range(4):
        samples = step.samples.copy()
        samples[row] = 16 - samples[row]
        assert step.error(after, claims=step.layer.apply(samples, kernels)) > 1e-3


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("far", [1e-4, 0.3])
def test_a_changed_first_weight_counts_relative_to_its_own_step_seen_by_the_vectors(name: str, far: float) -> None:
    """Against the length of the step and a thousandth of the weight's, both as the vectors see them."""
    step = STEPS[name]
    after, at, s = step.after(step.before), step.layer.weight, step.vectors.reshape(2, -1).T
    w0, w1 = (c.arrays[at].reshape(len(c.arrays[at]), -1).astype(float) for c in (step.before, after))
    off = far * np.random.default_rng(5).standard_normal(w0.shape).astype(np.float32)
    likely = math.sqrt(np.square(s).mean() * 2) * size(w0)  # the length of w0 @ s of random vectors of that size
    wanted = size(off @ s) / (size((w1 - w0) @ s) + 1e-3 * likely)
    lie = changed(after, at, off.reshape(after.arrays[at].shape))
    assert step.error(lie) == pytest.approx(wanted, rel=2e-2 if far < 0.1 else 1e-3)


@pytest.mark.parametrize("name", ["dense", "dense, momentum", "dense, no bias", "convolution"])
def test_all_other_parameters_are_compared_as_one_whole(name: str) -> None:
    step = STEPS[name]
    after, layer = step.after(step.before), step.layer
    parameters = {n for n, _ in step.plan.template.named_parameters()}
    others = [i for i, n in enumerate(step.names()) if n in parameters and i != layer.weight]
    start, end = ([c.arrays[i] for i in others] for c in (step.before, after))
    moved = size(*[b.astype(float) - a for a, b in zip(start, end, strict=True)])
    for i in others:
        off = np.zeros(after.arrays[i].shape)
        off.flat[-1] = 0.5
        wanted = 0.5 / (moved + 1e-3 * size(*start))
        assert step.error(changed(after, i, off)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["dense, momentum", "convolution", "one weight, momentum"])
def test_momentum_counts_by_what_it_does_to_the_weights(name: str) -> None:
    """Against its own length and a thousandth of the weights', divided by the learning rate."""
    step = STEPS[name]
    after, layer, s = step.after(step.before), step.layer, step.vectors.reshape(2, -1).T
    first = after.momentum[layer.parameter].reshape(layer.outputs, -1).astype(float)
    w0 = step.before.arrays[layer.weight]
    off = 0.25 * np.random.default_rng(6).standard_normal(first.shape)
    likely = math.sqrt(np.square(s).mean() * 2) * size(w0)
    wanted = size(off @ s) / (size(first @ s) + 1e-3 * likely / 0.25)
    lie = changed(after, layer.parameter, off.reshape(after.momentum[layer.parameter].shape), momentum=True)
    assert step.error(lie) == pytest.approx(wanted, rel=1e-3)
    others = [i for i in range(len(after.momentum)) if i != layer.parameter]
    parameters = [p.detach().numpy() for p in step.plan.build(step.before.arrays).parameters()]
    for i in others:
        off = np.zeros(after.momentum[i].shape)
        off.flat[0] = 0.5
        held = size(*[after.momentum[j] for j in others])
        wanted = 0.5 / (held + 1e-3 * size(*[parameters[j] for j in others]) / 0.25)
        assert step.error(changed(after, i, off, momentum=True)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("model", "shape"), [(Dense, (5,)), (Spatial, (1, 3, 3))])
def test_a_step_that_hardly_moves_is_held_against_a_thousandth_of_the_model(model: Any, shape: tuple[int, ...]) -> None:
    """By a learning rate of 1e-7 nothing moves, and momentum counts by so much less."""
    step = Step(model, shape, momentum=0.5, lr=1e-7)
    after, layer, s = step.after(step.before), step.layer, step.vectors.reshape(2, -1).T
    likely = math.sqrt(np.square(s).mean() * 2) * size(step.before.arrays[layer.weight])
    parameters = {n for n, _ in step.plan.template.named_parameters()}
    others = [i for i, n in enumerate(step.names()) if n in parameters and i != layer.weight]
    rest = size(*[step.before.arrays[i] for i in others])
    off = np.zeros(after.arrays[layer.weight].shape)
    off.flat[2] = 0.5
    seen = size(off.reshape(len(off), -1) @ s)
    last = np.zeros(after.arrays[others[-1]].shape)
    last[0] = 0.5
    held = size(*after.momentum)
    assert step.error(after) < 1e-2 and held < 10
    for lie, wanted in (
        (changed(after, layer.weight, off), seen / (1e-3 * likely)),
        (changed(after, others[-1], last), 0.5 / (1e-3 * rest)),
        (changed(after, layer.parameter, 1e6 * off, momentum=True), 1e6 * seen / (1e-3 * likely / 1e-7)),
        (changed(after, -1, 1e6 * last, momentum=True), 1e6 * 0.5 / (1e-3 * rest / 1e-7)),
    ):
        assert step.error(lie) == pytest.approx(wanted, rel=0.01)


# Buffers: statistics that do not move, so that what they are compared with is what they are


AT_REST = {
    # A mean against a hundredth of its size, or of its deviation where that is larger; here 2 and .5.
    "a mean": ("norm.running_mean", 0, 0.1, 0.1 / (0.01 * 2)),
    "a mean larger than its deviation": ("norm.running_mean", 1, 0.1, 0.1 / (0.01 * 3)),
    # A variance against a hundredth of itself alone.
    "a variance": ("norm.running_var", 1, 0.01, 0.01 / (0.01 * 0.25)),
    "a variance above one": ("norm.running_var", 0, 0.4, 0.4 / (0.01 * 4)),
    # A mean of which there is no variance: against a hundredth of itself.
    "another mean": ("shift_mean", 0, 0.03, 0.03 / (0.01 * 0.5)),
    "a counter": ("norm.num_batches_tracked", (), 1, math.inf),
}


@pytest.mark.parametrize("which", AT_REST)
def test_a_number_of_a_buffer_counts_by_itself(which: str) -> None:
    name, at, by, wanted = AT_REST[which]
    names, arrays = DENSE.names(), list(DENSE.before.arrays)
    arrays[names.index("norm.running_mean")] = np.array([-1, 3, 0], np.float32)
    arrays[names.index("norm.running_var")] = np.array([4, 0.25, 1], np.float32)
    before = replace(DENSE.before, arrays=tuple(arrays))
    after = DENSE.after(before)
    assert DENSE.error(after, before) < 1e-5
    for sign in (1, -1):
        off = np.zeros(arrays[names.index(name)].shape)
        off[at] = sign * by
        lie = changed(after, names.index(name), off)
        assert DENSE.error(lie, before) == pytest.approx(wanted, rel=1e-4)


def test_a_statistic_that_moves_counts_by_its_own_step_too() -> None:
    step = STEPS["statistics that move"]
    after, at = step.after(step.before), step.names().index("norm.running_var")
    moved = abs(float(after.arrays[at][2]) - 1)
    assert moved > 0.01
    lie = changed(after, at, np.array([0, 0, 0.5]))
    assert step.error(lie) == pytest.approx(0.5 / (moved + 0.01), rel=1e-4)


@pytest.mark.parametrize(
    ("before", "claimed", "redone", "spread", "wanted"),
    [
        ([1.0], [2.0], [2.0], 0.0, 0.0),
        ([0.0], [0.0], [0.0], 0.0, 0.0),
        ([0.0], [1e-9], [0.0], 0.0, math.inf),  # at rest, nothing, and moved by nothing: any difference is too much
        ([0.0], [-1e-9], [0.0], 0.0, math.inf),
        ([0.0], [1.0], [0.5], 0.0, 1.0),
        ([0.0], [0.0], [0.5], 0.0, 1.0),
        ([-2.0], [-2.5], [-2.0], 0.0, 25.0),
        ([2.0], [2.5], [2.0], 10.0, 5.0),
        ([2.0, 0.0], [2.0, 3.0], [2.0, 1.0], 0.0, 2.0),
        ([1.0], [math.nan], [1.0], 0.0, math.inf),
    ],
)
def test_the_error_of_a_buffer_by_hand(
    before: list[float], claimed: list[float], redone: list[float], spread: float, wanted: float
) -> None:
    found = _buffer_error(np.array(before), np.array(claimed), np.array(redone), spread)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_integers_of_a_buffer_are_equal_or_infinitely_wrong(dtype: Any) -> None:
    one, two, none = np.array([1], dtype), np.array([2], dtype), np.array([], np.float32)
    assert _buffer_error(one, two, two, 0.0) == 0.0
    assert _buffer_error(one, one, two, 0.0) == math.inf
    assert _buffer_error(none, none, none, 0.0) == 0.0


@pytest.mark.parametrize(
    ("off", "moved", "held", "wanted"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (1e-9, 0.0, 0.0, math.inf),
        (3.0, 6.0, 0.0, 0.5),
        (3.0, 0.0, 3.0, 1000.0),
        (3.0, 1.0, 500.0, 2.0),
        (0.0, 1.0, 1.0, 0.0),
    ],
)
def test_the_error_of_a_step_by_hand(off: float, moved: float, held: float, wanted: float) -> None:
    """Against what moved, and a thousandth of what is held: where both are nothing any difference is infinite."""
    vectors = (np.array([0.6, -0.8]) * n for n in (off, moved, held))
    assert _error(*vectors) == pytest.approx(wanted)


# What is no step at all


@pytest.mark.parametrize("label", [-1, 2, 100])
def test_labels_that_the_model_does_not_know_are_a_contradiction(label: int) -> None:
    labels = np.array([0, 1, label, 0])
    with pytest.raises(Contradiction, match=r"^no step can be taken on these labels: "):
        DENSE.error(DENSE.after(DENSE.before), labels=labels)


@pytest.mark.parametrize("kind", [IndexError, RuntimeError, ValueError])
def test_a_loss_that_takes_no_such_labels_is_a_contradiction_too(kind: type[Exception]) -> None:
    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.max() > 1:
            raise kind("no such label")
        return torch.nn.functional.cross_entropy(output[:, :1].repeat(1, 3), labels)

    step = Step(lambda: nn.Linear(5, 3))
    step.__dict__["plan"] = replace(step.plan, loss=loss)
    assert step.error(step.after(step.before)) < 1e-5
    with pytest.raises(Contradiction, match=r"^no step can be taken on these labels: no such label$"):
        step.error(step.before, labels=np.array([0, 1, 2, 0]))


class Uses(nn.Module):
    """Uses its first layer so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.fc1, self.fc2 = times, nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = sum((self.fc1(x) for _ in range(self.times)), torch.zeros(len(x), 3))
        return self.fc2(hidden)


@pytest.mark.parametrize("times", [0, 2])
def test_a_model_that_does_not_use_its_first_layer_once_is_no_evidence(times: int) -> None:
    step = Step(lambda: Uses(times))
    with pytest.raises(WireError, match=f"^expected a model that uses its first layer once, got {times} times$"):
        step.error(step.before)
    one = Step(lambda: Uses(1))
    assert one.error(one.after(one.before)) < 1e-5
