"""Some columns of a round's updates: what is summed over them, and the measures that follow from the sums.

|g_i - g_j|^2 = |c_i|^2 + |c_j|^2 - 2 <c_i, c_j>,   <g_i, m> = <c_i, m> + <m, m>,   c_i = g_i - m
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
#: n x n numbers: float64, or float32 where that is what the products of some columns are known to.
Square = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

#: An update whose squared length is below this part of the median's is measured in another walk.
SHORT = 1e-2
#: Others to whom distances are kept in each label.
NEAR = 3


@dataclass(frozen=True, eq=False)
class Block:
    """The updates seen through some of their columns, rows in canonical order.

    Attributes
    ----------
    squared : ndarray, shape (n, n)
        Squared Euclidean distances; of two updates the same both ways, to the last bit.
    norms : ndarray, shape (n,)
    to_median, to_mean : ndarray, shape (n,)
        Cosine to the coordinate-wise median and to the mean of the updates; 0 for a zero vector.
    positive : ndarray, shape (n,)
        Share of positive signs among the entries that are not zero; .5 where all are.
    above : ndarray, shape (n,)
        Share of positive entries among all; 0 of no columns.
    noise : float
        A squared distance up to this may be rounding.
    width : int
        Number of columns.
    """

    squared: Square
    norms: Vector
    to_median: Vector
    to_mean: Vector
    positive: Vector
    above: Vector
    noise: float
    width: int

    @cached_property
    def length(self) -> float:
        """The median norm."""
        return float(middle(self.norms))

    @cached_property
    def nearest(self) -> Square:
        """Distances to the other rows, the nearest first, shape (n, n - 1)."""
        return self.by_distance()

    def by_distance(self) -> Square:
        """``nearest``, for who needs these n x n numbers once."""
        others = self._others
        others.sort(axis=1)
        return np.sqrt(others, out=others)[:, :-1]

    @cached_property
    def near(self) -> Square:
        """The first three columns of ``nearest``, or as many as there are, without sorting the others."""
        others = self._others
        if len(others) > NEAR + 1:
            others.partition(NEAR - 1, axis=1)
            others = others[:, :NEAR].copy()
        others.sort(axis=1)
        return np.sqrt(others)[:, : len(others) - 1]

    @property
    def _others(self) -> Square:
        """A copy of the squared distances in which those to oneself sort last."""
        others = self.squared.copy()
        np.fill_diagonal(others, np.inf)
        return others

    def among(self, rows: npt.NDArray[np.intp]) -> Block:
        """The same of some rows only."""
        names = "norms", "to_median", "to_mean", "positive", "above"
        vectors = {name: getattr(self, name)[rows] for name in names}
        return replace(self, squared=self.squared[np.ix_(rows, rows)], **vectors)


@dataclass(eq=False)
class Sums:
    """What adds up over the columns.

    Attributes
    ----------
    gram : ndarray, shape (n, n)
        Inner products of the centred updates.
    across : ndarray, shape (n,)
        Inner products of the centred updates with the median.
    median_square : float
        Squared length of the median.
    square, to_median, to_mean : ndarray, shape (n,)
        Inner products of the updates as they are: with themselves, the median and the mean.
    positive, nonzero : ndarray of int, shape (n,)
        Numbers of entries.
    noise : float
        What rounding may make of a squared distance.
    width : int
        Number of columns.
    """

    gram: Square
    across: Vector
    median_square: float
    square: Vector
    to_median: Vector
    to_mean: Vector
    positive: Counts
    nonzero: Counts
    noise: float
    width: int

    @classmethod
    def of_none(cls, n: int) -> Sums:
        """Those of no columns."""
        zeros, none = np.zeros((4, n)), np.zeros((2, n), np.int64)
        return cls(np.zeros((n, n)), zeros[0], 0.0, zeros[1], zeros[2], zeros[3], none[0], none[1], 0.0, 0)

    def add(self, other: Sums) -> None:
        """Add those of other columns."""
        for name in self.__dataclass_fields__:
            found = getattr(self, name)
            found += getattr(other, name)
            setattr(self, name, found)

    def block(self) -> Block:
        """The measures: O(n^2)."""
        gram, across, median_square = self.gram, self.across, self.median_square
        mean_square = max(float(self.to_mean.mean()), 0.0)
        size, norms = gram.diagonal(), np.sqrt(self.square)
        squared = np.add.outer(size, size)  # first the sum, which commutes
        squared -= gram
        squared -= gram
        np.maximum(squared, 0.0, out=squared)
        lengths = norms * math.sqrt(median_square)
        to_median = _ratio(self.to_median, lengths, 0.0)
        # One minus a cosine near 1 would be rounding. It is the squared sine, known from centred rows, over 1 + cos.
        along = (to_median > 0.5) & (self.square >= SHORT * median_square)
        sine = np.maximum(size * median_square - across**2, 0.0)[along] / lengths[along] ** 2
        to_median[along] = 1 - sine / (1 + to_median[along])
        return Block(
            squared,
            norms,
            to_median,
            np.clip(_ratio(self.to_mean, norms * math.sqrt(mean_square), 0.0), -1.0, 1.0),
            _ratio(self.positive.astype(np.float64), self.nonzero.astype(np.float64), 0.5),
            self.positive / max(self.width, 1),
            self.noise,
            self.width,
        )


def middle(values: Square) -> Any:
    """``np.median`` along the last axis, of numbers: for a few of them it takes a fifth of the time."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def _ratio(a: Vector, b: Vector, otherwise: float) -> Vector:
    return np.divide(a, b, out=np.full_like(a, otherwise, dtype=np.float64), where=b > 0)
