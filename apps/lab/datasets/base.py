"""What a data set is, and how one without a test set is split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.verification.training import Data

#: Share of the samples kept for testing the global model.
TEST = 0.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples, uint8, shape (m, channels, H, W) or (m, features), with their labels, int64."""

    train: Data
    test: Data


def split(samples: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Dataset:
    """Shuffle and split in the same way for every seed of a scenario, so that accuracies stay comparable.

    Every label's share of the two parts is the same, up to a sample.
    """
    from sklearn.model_selection import train_test_split

    train, test, train_labels, test_labels = train_test_split(
        samples.astype(np.uint8, copy=False),
        labels.astype(np.int64),
        test_size=TEST,
        stratify=labels,
        random_state=0,
    )
    return Dataset((train, train_labels), (test, test_labels))
