"""The rule: which updates to average, by the held-out loss of their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flwr_faa.holdout.losses import Landscape, Vector


@dataclass(frozen=True)
class Choice:
    """What the held-out loss says about some rows.

    Attributes
    ----------
    kept : frozenset of int
        Rows that take part, those that were to be kept among them.
    loss : float
        Of the model that these make.
    rises : mapping of int to float
        For every other row, by how much the loss would rise if it took part too; infinite where it cannot be had.
    evaluations : int
        How often the loss was asked for.
    """

    kept: frozenset[int]
    loss: float
    rises: Mapping[int, float]
    evaluations: int


def choose(landscape: Landscape, kept: Sequence[int], open_rows: Sequence[int]) -> Choice:
    """Greedy: start with the kept; add whoever lowers the loss of the mean most, until nobody lowers it."""
    batch = landscape.batch
    place = {row: i for i, row in enumerate(batch.canonical)}
    mean = _Mean(landscape)
    for row in sorted(kept, key=place.__getitem__):
        mean.add(row)
    loss = landscape.at(mean.step) if kept else landscape.start()
    left = sorted(set(open_rows) - set(kept), key=place.__getitem__)
    rises: dict[int, float] = {}
    while left:
        losses = {row: landscape.at(mean.with_(row)) for row in left}
        best = min(left, key=losses.__getitem__)
        if not losses[best] < loss:
            rises = {row: losses[row] - loss for row in left}
            break
        mean.add(best)
        loss = losses[best]
        left.remove(best)
    return Choice(frozenset(mean.rows), loss, rises, landscape.evaluations)


class _Mean:
    """The weighted mean of some updates, to which one can be added."""

    def __init__(self, landscape: Landscape) -> None:
        self._landscape, self._weights = landscape, landscape.batch.weights
        self.rows: list[int] = []
        self._sum: Vector = np.zeros(landscape.batch.layout.size)
        self._weight = 0.0

    @property
    def step(self) -> Vector:
        return self._sum / self._weight

    def with_(self, row: int) -> Vector:
        """Return the mean of these and one more."""
        weight = self._weights[row]
        return np.asarray((self._sum + weight * self._landscape.update(row)) / (self._weight + weight))

    def add(self, row: int) -> None:
        self._sum += self._weights[row] * self._landscape.update(row)
        self._weight += self._weights[row]
        self.rows.append(row)
