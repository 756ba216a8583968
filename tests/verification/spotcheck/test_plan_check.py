"""Models whose steps cannot be recomputed from their first layer are refused at the start, in one line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import plan_check
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.plan_check import check_recomputable
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.helpers.toy import PLANS
from tests.verification.spotcheck.spot import SHAPE, Node


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.calls = nn.Linear(64, 4), nn.Linear(4, 10), 0
        self.register_buffer("seen", torch.zeros(100, 100))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Skip(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.1 * x.flatten(1)[:, :10]


class Gate(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.sigmoid(x.flatten(1)[:, :10])


class GateInTraining(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + x.mean() if self.training else 1.0)


class Twice(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))) + self.fc1(x.flatten(1)))


class Reconstructs(Base):
    """Another use of the weight, in a loss on the sample itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.fc1(x.flatten(1)))
        return self.fc2(hidden) / (1 + (linear(hidden, self.fc1.weight.T) - x.flatten(1)).square().mean())


class Remembers(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Draws(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + random.random() if self.training else 1.0)


class DrawsFromNumPy(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (float(np.random.default_rng().random()) if self.training else 0.0) * self.fc2.bias


class Writes(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1.0
        return super().forward(x)


class Frozen(Base):
    def __init__(self) -> None:
        super().__init__()
        self.fc1.requires_grad_(False)


class Normed(Base):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.fc1)


REFUSED = {
    Skip: "uses the sample again",
    Gate: "uses the sample again",
    GateInTraining: "uses the sample again",
    Twice: "uses its first layer once",
    Reconstructs: "uses the sample again",
    Remembers: "uses the sample again|not in state_dict",
    Draws: "random numbers of its own",
    DrawsFromNumPy: "random numbers of its own",
    Writes: "large buffers",
    Frozen: "uses its first layer once",
    Normed: "a computed one",
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("model", REFUSED)
def test_a_model_that_would_convict_the_honest_is_refused(model: type[Base], momentum: float) -> None:
    plan = TrainingPlan(model=model, lr=0.1, batch_size=20, momentum=momentum, scale=1 / 16)
    with pytest.raises(ValueError, match=REFUSED[model]) as refused:
        SpotCheck(plan, SHAPE, LocalAuthority("arkworks", 1.0), max_value=16)
    assert "\n" not in str(refused.value) and "expected" in str(refused.value)


def test_a_loss_that_cannot_train_is_refused() -> None:
    plan = TrainingPlan(model=Base, lr=0.1, scale=1 / 16, loss=torch.nn.functional.mse_loss)
    with pytest.raises(ValueError, match="expected a plan that can train"):
        SpotCheck(plan, SHAPE, LocalAuthority("arkworks", 1.0), max_value=16)


class Tied(nn.Module):
    """Ties two layers behind the first, drops some units by torch's generator, and has a small counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.out, self.drop, self.norm = nn.Linear(4, 10), nn.Dropout(0.3), nn.BatchNorm1d(4, momentum=None)
        self.fc3.weight = self.fc2.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.relu(self.fc1(x.flatten(1))))
        return self.out(self.drop(self.fc3(torch.relu(self.fc2(x)))))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_other_layers_may_be_tied_dropped_and_normed(momentum: float, tmp_path: Path) -> None:
    plan = TrainingPlan(model=Tied, lr=0.1, batch_size=5, momentum=momentum, weight_decay=0.01, scale=1 / 16)
    node = Node(tmp_path)
    node.plan, node.verifier = plan, SpotCheck(plan, SHAPE, node.verifier.authority, max_value=16)
    node.enrol()
    for nonce in range(3):
        finding = node.judge(node.train(nonce))
        assert not finding.convicted and finding.error < 0.05 * finding.threshold, finding


@pytest.mark.parametrize("name", PLANS)
def test_what_may_be_trained_leaves_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    SpotCheck(PLANS[name], SHAPE, LocalAuthority("arkworks", 1.0), max_value=16, allow_convolution=True)
    assert torch.equal(before, torch.get_rng_state())


# By itself


def checked(tau: float = 1e-3, loss: Any = None, model: Callable[[], nn.Module] = Base) -> None:
    plan = TrainingPlan(model=model, lr=0.1, batch_size=20, epochs=3, momentum=0.9, scale=1 / 255, loss=loss)
    check_recomputable(plan, IntegerLayer.of(plan), tau)


def test_an_honest_step_may_differ_by_half_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine rounds in another way, so the other half is left to it."""
    error_of, errors = plan_check.step_error, []
    monkeypatch.setattr(plan_check, "step_error", lambda *what: errors.append(error_of(*what)) or errors[-1])  # type: ignore[func-returns-value]
    checked()
    assert len(errors) > 1  # more steps than one, so that what the first leaves behind is seen
    worst = max(errors)
    assert 0 < worst < 1e-5
    checked(2 * worst)
    refusal = "^expected steps that can be recomputed from the outputs of the first layer, got a step that differs by "
    with pytest.raises(ValueError, match=rf"{refusal}{worst:.2g}: the model uses the sample again"):
        checked(float(np.nextafter(2 * worst, 0)))
    monkeypatch.setattr(plan_check, "step_error", lambda *what: math.nan)
    with pytest.raises(ValueError, match="differs by nan"):
        checked()


FAILURES = (IndexError, RuntimeError, TypeError, ValueError)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_plan_that_cannot_train_is_refused_with_its_own_words(kind: type[Exception]) -> None:
    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise kind("no such thing")

    with pytest.raises(ValueError, match=rf"^expected a plan that can train, got {kind.__name__}: no such thing$"):
        checked(loss=loss)


@pytest.mark.parametrize("kind", [IndexError, RuntimeError, ValueError])
def test_a_plan_that_cannot_be_repeated_is_refused_with_its_own_words(kind: type[Exception]) -> None:
    """A loss that fails as soon as both runs are over."""
    calls = []

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(labels)
        if len(calls) > trained:
            raise kind("no more")
        return torch.nn.functional.cross_entropy(output, labels)

    trained = 10**6
    checked(loss=loss)
    trained = len(calls) // 3 * 2  # two runs, and each step once again
    calls.clear()
    wanted = (
        r"^expected steps that can be recomputed from the first layer: no step can be taken on these labels: no more$"
    )
    with pytest.raises(ValueError, match=wanted):
        checked(loss=loss)


@pytest.mark.parametrize("classes", [1, 2, 10, 13])
def test_labels_are_those_of_the_model(classes: int) -> None:
    """More classes than the samples that are tried, or one alone; and outputs that have no classes."""
    seen: set[int] = set()

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.update(labels.tolist())
        assert labels.min() >= 0 and (labels.max() < classes)
        return torch.nn.functional.cross_entropy(output, labels)

    checked(loss=loss, model=lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, classes)))
    assert (len(seen) > 1) == (classes > 1)

    def squared(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (output - labels).square().mean()

    checked(loss=squared, model=lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 1), nn.Flatten(0)))


def test_a_large_buffer_that_changes_is_named() -> None:
    at = list(Base().state_dict()).index("seen")
    with pytest.raises(ValueError, match=f"large buffers that training leaves alone, got array {at} changed by it"):
        checked(model=Writes)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_large_buffer_that_changes_once_is_found_in_any_step_that_is_tried(step: int) -> None:
    class Once(Base):
        def __init__(self, at: int = step) -> None:
            super().__init__()
            self.at = at
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.count += 1
                self.seen += float(int(self.count) == self.at)
            return super().forward(x)

    with pytest.raises(ValueError, match="large buffers that training leaves alone"):
        checked(model=Once)
    checked(model=lambda: Once(10**6))  # a small buffer may change
