"""The three models; each sees samples of shape (m, 1, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

CLASSES = 10


def logistic(shape: Sequence[int]) -> nn.Module:
    """Logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), CLASSES))


def mlp(shape: Sequence[int]) -> nn.Module:
    """One hidden layer of 32 units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 32), nn.ReLU(), nn.Linear(32, CLASSES))


def cnn(shape: Sequence[int]) -> nn.Module:
    """The paper's: 5x5x32, pool, 5x5x64, pool, 320, softmax (Sec. VII-A); 383,306 parameters on 28 x 28 pixels.

    On 8 x 8 pixels two 5 x 5 convolutions need padding.
    """
    padding = 2 if shape[-1] < 16 else 0
    side = (((shape[-1] + 2 * padding - 4) // 2) + 2 * padding - 4) // 2
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * side * side, 320),
        nn.ReLU(),
        nn.Linear(320, CLASSES),
    )
