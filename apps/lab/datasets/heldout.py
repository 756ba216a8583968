"""Clean samples that the server of a scenario holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from apps.lab.datasets.base import Dataset
from flwr_faa.verification.training import Data

#: Samples that a server holds unless another number is given.
USUAL = 100


@dataclass(frozen=True)
class HeldOut:
    """Samples taken out of a data set's test samples, as evenly over the labels as they go.

    Parameters
    ----------
    dataset : Dataset
    samples : int or None
        100 if not given.
    seed : int
    labels : int or None
        Of how many labels, counted from the lowest, there are any; all if not given.
    skew : float
        Share of the samples that have the lowest label, beyond its even part.
    wrong : float
        Share of the samples whose label is another one than theirs, drawn at random.

    Raises
    ------
    ValueError
        If the test samples are too few.
    """

    dataset: Dataset
    samples: int | None
    seed: int
    labels: int | None = None
    skew: float = 0.0
    wrong: float = 0.0

    @cached_property
    def rows(self) -> npt.NDArray[np.intp]:
        """Which of the test samples."""
        (_, found), rng = self.dataset.test, np.random.default_rng([self.seed, 3])
        known = np.unique(found)[: self.labels]
        samples = USUAL if self.samples is None else self.samples
        first = round(self.skew * samples)
        wanted = np.full(len(known), (samples - first) // len(known))
        wanted[: (samples - first) % len(known)] += 1
        wanted[0] += first
        rows = []
        for label, count in zip(known, wanted, strict=True):
            here = rng.permutation(np.flatnonzero(found == label))
            if len(here) < count:
                raise ValueError(f"expected {count} test samples of label {label} to hold out, got {len(here)}")
            rows.append(here[:count])
        return np.concatenate(rows).astype(np.intp)

    @cached_property
    def data(self) -> Data:
        """The samples, and the labels that they are given."""
        samples, labels = (part[self.rows] for part in self.dataset.test)
        known, rng = np.unique(self.dataset.test[1]), np.random.default_rng([self.seed, 4])
        mistaken = rng.permutation(len(labels))[: round(self.wrong * len(labels))]
        places = np.searchsorted(known, labels[mistaken]) + rng.integers(1, len(known), len(mistaken))
        labels[mistaken] = known[places % len(known)]
        return samples, labels

    @property
    def rest(self) -> Dataset:
        """The data set without them."""
        samples, labels = (np.delete(part, self.rows, axis=0) for part in self.dataset.test)
        return Dataset(self.dataset.train, (samples, labels))
