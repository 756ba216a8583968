"""Small real federations for tests: scikit-learn's digits, an honest plan, and models small enough to train in ms."""

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from flwr_faa.replies.updates import Reply
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import Data


class Logistic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class CNN(nn.Module):
    """Convolution with batch norm and dropout, so that buffers and random masks are covered."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.fc(self.drop(x.flatten(1)))


PLANS = {
    "logistic": TrainingPlan(model=Logistic, lr=0.1, batch_size=20, scale=1 / 16),
    "mlp": TrainingPlan(model=MLP, lr=0.1, batch_size=20, epochs=2, momentum=0.9, scale=1 / 16),
    "cnn": TrainingPlan(model=CNN, lr=0.05, batch_size=20, weight_decay=1e-3, scale=1 / 16),
}


class Narrow(nn.Module):
    """A first layer of two units, which tells little enough for a budget to cover several checks of 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 2), nn.Linear(2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


#: Pixels from 0 to this hold so much that a check tells little of them: digits' own, of 4 bits, are known after one.
FINE = 2**16
#: A step of 20 tells 21 of 64 dimensions of a sample at most: two outputs and two projections, two each; and for the
#: gradient 13 = ceil(2 * 64 * 2 / 20). A step's key tells 4. Weights that are no larger than usual tell as much.
NARROW = TrainingPlan(model=Narrow, lr=0.1, batch_size=20, scale=1 / FINE)
OPENED, EVERY = 21, 4


@cache
def digits() -> Data:
    samples, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return samples[order].reshape(-1, 1, 8, 8).astype(np.uint8), labels[order].astype(np.int64)


def slice_of(partition: int, size: int = 40) -> Data:
    samples, labels = digits()
    part = slice(partition * size, (partition + 1) * size)
    return samples[part], labels[part]


def seen_by(plan: TrainingPlan, data: Data) -> Data:
    """The same digits with the largest value that the plan's scale is for."""
    factor = round(1 / (16 * plan.scale))
    return (data[0].astype(np.int64) * factor if factor > 1 else data[0]), data[1]


def honest_replies(plan: TrainingPlan, arrays: list[np.ndarray], nonce: int, count: int) -> list[Reply]:
    """Node ``i`` trains on slice ``i``; node ids are not in the order of the slices."""
    return [
        Reply(1000 - i, plan.train(arrays, seen_by(plan, slice_of(i)), nonce), len(slice_of(i)[1]))
        for i in range(count)
    ]
