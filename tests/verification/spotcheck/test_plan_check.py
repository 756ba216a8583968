"""Models whose steps cannot be recomputed from their first layer are refused at the start, in one line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.plan import TrainingPlan
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
