"""What a round's updates look like as points: distances, norms and directions, all from one walk over the columns.

Of some columns at a time, which stay in the cache, the coordinate-wise median is found and subtracted (a mean could be
dragged a million units away by one client, and the honest distances would drown in rounding). Then
the products of the rows with themselves and the median hold all that is needed:

    |g_i - g_j|^2 = |c_i|^2 + |c_j|^2 - 2 <c_i, c_j>,   <g_i, m> = <c_i, m> + <m, m>,   c_i = g_i - m

Where there is much of it, products of float32 updates are float32 for one chunk, and added up in float64. A squared
distance is then good to some 1e-7 of the squared distances of both updates from the median, or better, since what
chunks are rounded by differs. Elsewhere they are float64. Clones are at distance zero: a row and its clones are one.

Everything is computed with the rows sorted by content. Linear algebra may round differently when rows trade places,
and a verdict must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, reduce
from operator import add
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from flwr_faa.replies import kernels
from flwr_faa.replies.rows import WIDTH, Rows, runs, width_of
from flwr_faa.replies.updates import Batch, Floats

Vector = npt.NDArray[np.float64]
Columns = npt.NDArray[np.intp]

#: Columns handled at a time, at most.
CHUNK = 2**14
#: An update whose squared length is below this part of the median's is measured in another walk.
SHORT = 1e-2
#: Updates are measured as they are if their largest entries are usually between these two. Squares of numbers far
#: outside leave float32, which LoMar works in.
SMALL, LARGE = 1e-8, 1e8
#: An update whose largest entry is this many times the usual one is measured as if it were this many times as large.
#: It stands out anyway, and beside a larger one the differences of all others would drown in rounding.
FAR = 1e4


@dataclass(frozen=True, eq=False)
class Block:
    """The updates seen through some of their columns, rows in canonical order.

    Attributes
    ----------
    squared : ndarray, shape (n, n)
        Squared Euclidean distances.
    norms : ndarray, shape (n,)
    to_median, to_mean : ndarray, shape (n,)
        Cosine to the coordinate-wise median and to the mean of the updates; 0 for a zero vector.
    positive : ndarray, shape (n,)
        Share of positive signs among the entries that are not zero; .5 where all are.
    width : int
        Number of columns.
    """

    squared: Vector
    norms: Vector
    to_median: Vector
    to_mean: Vector
    positive: Vector
    width: int

    @cached_property
    def length(self) -> float:
        """The median norm."""
        return float(middle(self.norms))

    @cached_property
    def nearest(self) -> Vector:
        """Distances to the other rows, the nearest first, shape (n, n - 1)."""
        return np.sqrt(np.sort(self._others, axis=1))

    def few(self, k: int) -> Vector:
        """The first k columns of ``nearest``, without sorting the others."""
        others = self._others
        if k < others.shape[1]:
            others = np.partition(others, k - 1, axis=1)[:, :k]
        return np.sqrt(np.sort(others, axis=1))

    @property
    def _others(self) -> Vector:
        n = len(self.squared)
        return self.squared[~np.eye(n, dtype=bool)].reshape(n, n - 1)


@dataclass(frozen=True, eq=False)
class Sums:
    """What adds up over the columns; of no columns, zeros.

    Attributes
    ----------
    gram : ndarray, shape (n + 1, n + 1)
        Inner products of the centred updates, in the last column with the median, in the corner of the median.
    square, to_median, to_mean : ndarray, shape (n,)
        Inner products of the updates as they are: with themselves, the median and the mean.
    positive, nonzero : ndarray of int, shape (n,)
        Numbers of entries.
    width : int
    """

    gram: Vector
    square: Vector
    to_median: Vector
    to_mean: Vector
    positive: npt.NDArray[np.int64]
    nonzero: npt.NDArray[np.int64]
    width: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def block(self) -> Block:
        """The measures."""
        gram, across, median_square = self.gram[:-1, :-1], self.gram[:-1, -1], float(self.gram[-1, -1])
        mean_square = max(float(gram.mean() + 2 * across.mean() + median_square), 0.0)
        size, norms = gram.diagonal(), np.sqrt(self.square)
        squared = -2 * gram
        squared += size
        squared += size[:, None]
        np.maximum(squared, 0.0, out=squared)
        lengths = norms * np.sqrt(median_square)
        to_median = _ratio(self.to_median, lengths, 0.0)
        # One minus a cosine near 1 would be rounding. It is the squared sine, known from centred rows, over 1 + cos.
        sine = np.maximum(_ratio(size * median_square - across**2, lengths**2, 0.0), 0.0)
        along = (to_median > 0.5) & (self.square >= SHORT * median_square)
        to_median = np.where(along, 1 - sine / (1 + to_median), to_median)
        return Block(
            squared,
            norms,
            to_median,
            np.clip(_ratio(self.to_mean, norms * np.sqrt(mean_square), 0.0), -1.0, 1.0),
            _ratio(self.positive.astype(np.float64), self.nonzero.astype(np.float64), 0.5),
            self.width,
        )


@dataclass(frozen=True, eq=False)
class Cloud:
    """The updates of one round as points.

    Parameters
    ----------
    rows : Rows
        The updates of the batch, to be read piece by piece.
    width : int
        Number of columns of parameters, which come first. Those behind are running statistics. They are in no distance
        and no norm: they are measured in other units, and their changes say more about a client's data than about what
        it does to the model.
    order : sequence of int
        The rows sorted by content. Whatever is computed here has its rows in this order.
    place : ndarray, shape (n,)
        Where each row stands in ``order``; identical rows share the first one's place, and so every score.
    label_blocks : sequence of ndarray
        Columns that feed each output label; may be empty.
    unit : Unit or None
        What makes the updates measurable, if they are not as they are.
    """

    rows: Rows
    width: int
    order: tuple[int, ...]
    place: npt.NDArray[np.intp]
    label_blocks: tuple[Columns, ...] = ()
    unit: Unit | None = None

    @classmethod
    def of(cls, batch: Batch) -> Cloud:
        """The cloud of a batch; asked again for the same batch, the same cloud, so nothing is measured twice."""
        if batch not in _clouds:
            first = {batch.digests[row]: k for k, row in reversed(list(enumerate(batch.canonical)))}
            place = np.array([first[digest] for digest in batch.digests], np.intp)
            layout = batch.layout
            width = layout.parameters.stop
            unit = Unit.of(_largest(batch, width))
            _clouds[batch] = cls(batch.rows, width, batch.canonical, place, layout.label_blocks, unit)
        return _clouds[batch]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def statistics(self) -> Floats:
        """The columns of running statistics as they are, shape (n, d - width), rows in the order of the batch."""
        found = np.empty((len(self), self.rows.shape[1] - self.width), self.rows.dtype)
        self.rows.read(range(len(self)), slice(self.width, self.rows.shape[1]), found)
        return found

    def matrix(self, rows: Sequence[int]) -> Floats:
        """Some updates as a matrix, measurable, with the statistics behind them: as much memory as their replies."""
        found = np.empty((len(rows), self.rows.shape[1]), self.rows.dtype)
        for columns in runs(0, self.rows.shape[1], WIDTH):
            self.rows.read(rows, columns, found[:, columns])
        if self.unit is not None:
            self.unit.apply(found[:, : self.width], rows)
        return found

    @cached_property
    def whole(self) -> Block:
        """Every column."""
        return reduce(add, (*self._labels, self._rest)).block()

    @cached_property
    def classifier(self) -> Block | None:
        """The columns that feed any label, or None where the model has no classifier or is nothing else."""
        return reduce(add, self._labels).block() if self._labels and self._rest.width else None

    @cached_property
    def labels(self) -> tuple[Block, ...]:
        """The columns in one block per label."""
        return tuple(sums.block() for sums in self._labels)

    @cached_property
    def embedding(self) -> Vector:
        """Principal coordinates of the whole updates, see ``embed``, rows in canonical order."""
        return embed(self.whole.squared)

    @cached_property
    def _labels(self) -> tuple[Sums, ...]:
        return tuple(self.sums(_slices(columns)) for columns in self.label_blocks)

    @cached_property
    def _rest(self) -> Sums:
        """The columns that feed no label."""
        labels = _slices(np.sort(np.concatenate(self.label_blocks))) if self.label_blocks else []
        ends = [0, *(end for part in labels for end in (part.start, part.stop)), self.width]
        gaps = [slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]
        return self.sums(gaps)

    def sums(self, parts: Sequence[slice]) -> Sums:
        """Measure the updates on some columns."""
        n, rows = len(self), np.array(self.order, np.intp)
        gram, (positive, nonzero) = np.zeros((n + 1, n + 1)), np.zeros((2, n), np.int64)
        total = sum(part.stop - part.start for part in parts)
        exact, fast = n * total < kernels.LARGE, kernels.fastest(n * self.width)
        medians = np.empty(CHUNK, self.rows.dtype)
        for x in self._read(parts, rows):
            median = medians[: x.shape[1]]
            fast.centre(x, median, positive, nonzero)
            if exact:
                x, median = x.astype(np.float64), median.astype(np.float64)
            gram[:n, :n] += x @ x.T  # NumPy sees that this is symmetric: half the work
            gram[:n, n] += x @ median
            gram[n, n] += median @ median
        # Linear algebra may round a row and its clone differently.
        first = np.append(self.place[rows], n)
        if (first[1:] <= first[:-1]).any():
            gram = gram[np.ix_(first, first)]
        across = gram[:n, n] + gram[n, n]
        products = np.stack(
            [
                gram.diagonal()[:n] + gram[:n, n] + across,
                across,
                gram[:n, :n].mean(axis=1) + gram[:n, n].mean() + across,
            ]
        )
        # Of an update much shorter than the median that would be rounding.
        products[:, nonzero == 0] = 0
        if len(short := np.flatnonzero((products[0] < SHORT * gram[n, n]) & (nonzero > 0))):
            products[:, short] = self._products(parts, short)
        return Sums(gram, products[0], products[1], products[2], positive, nonzero, total)

    def _products(self, parts: Sequence[slice], which: npt.NDArray[np.intp]) -> Vector:
        """Inner products of some rows with themselves, the median and the mean, in another walk, shape (3, m)."""
        found, rows = np.zeros((3, len(which))), np.array(self.order, np.intp)
        fast = kernels.fastest(len(rows) * self.width)
        for x in self._read(parts, rows):
            own, mean, median = x[which].astype(np.float64), x.mean(axis=0, dtype=np.float64), np.empty_like(x[0])
            fast.centre(x, median, *np.zeros((2, len(rows)), np.int64))
            found += np.einsum("ij,ij->i", own, own), own @ median.astype(np.float64), own @ mean
        return found

    def _read(self, parts: Sequence[slice], rows: npt.NDArray[np.intp]) -> Iterator[Floats]:
        """Columns of some rows, some at a time, measurable; in the same memory each time."""
        width = width_of(len(rows), min(CHUNK, sum(part.stop - part.start for part in parts)))
        memory = np.empty(len(rows) * width, self.rows.dtype)
        for chunk in _chunks(parts, width):
            wide = sum(part.stop - part.start for part in chunk)
            x, at = memory[: len(rows) * wide].reshape(len(rows), wide), 0
            for part in chunk:
                self.rows.read(rows, part, x[:, at : at + part.stop - part.start])
                at += part.stop - part.start
            if self.unit is not None:
                self.unit.apply(x, rows)
            yield x

    def by_row(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values in canonical order, put back into the order of the batch."""
        return values[self.place]


_clouds: WeakKeyDictionary[Batch, Cloud] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Unit:
    """What updates are multiplied by, so that their squares neither overflow nor vanish.

    A power of two, so scaling rounds nothing. An update that is more than ``FAR`` times as large as the usual one is
    shrunk to that: nothing that a client sends may make another's distances infinite, or zero.

    Attributes
    ----------
    factors : ndarray, shape (n,)
        1 but for the shrunk.
    exponent : int
    """

    factors: Vector
    exponent: int

    @classmethod
    def of(cls, largest: Vector) -> Unit | None:
        """The unit of updates whose largest entries have these sizes; None if they can be measured as they are.

        Raises
        ------
        ValueError
            If one is not finite.
        """
        if not np.isfinite(largest).all():
            raise ValueError("Expected finite updates, got NaN or infinity")
        usual = float(np.median(largest[largest > 0])) if largest.any() else 1.0
        far = largest / FAR > usual
        if SMALL <= usual <= LARGE and not far.any():
            return None
        factors = np.where(far, 1 / np.where(far, largest, 1.0) * (FAR * usual), 1.0)
        return cls(factors, 0 if SMALL <= usual <= LARGE else -int(np.frexp(usual)[1]))

    def apply(self, x: Floats, rows: Sequence[int] | npt.NDArray[np.intp]) -> None:
        """Multiply some columns of these rows, in place."""
        for part, factor in zip(x, self.factors[np.asarray(rows, np.intp)], strict=True):
            part[:] = np.ldexp(part * factor, self.exponent)


def measurable(updates: Floats) -> Floats:
    """Return updates in their :class:`Unit`: as they are, if they can be measured so.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
        float32 or float64.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    unit = Unit.of(kernels.PLAIN.largest(updates).astype(np.float64))
    if unit is None:
        return updates
    scaled = updates.copy()
    unit.apply(scaled, range(len(scaled)))
    return scaled


def middle(values: Vector) -> Any:
    """``np.median`` along the last axis, of numbers: for a few of them it takes a fifth of the time."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def embed(squared: Vector) -> Vector:
    """Principal coordinates: n points in at most n - 1 dimensions with the given distances (Torgerson 1952).

    Lossless, to 1e-7 of the largest distance: a detector that sees distances only (RBF kernel, nearest neighbours)
    cannot tell the embedding from the updates themselves. The axis of the largest spread comes first; the sign of
    each axis makes its largest entry positive.

    Parameters
    ----------
    squared : ndarray, shape (n, n)
        Squared distances.

    Returns
    -------
    ndarray, shape (n, max(1, rank))
    """
    gram = -0.5 * (squared - squared.mean(axis=0) - squared.mean(axis=1)[:, None] + squared.mean())
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = max(1, int(np.count_nonzero(values > 1e-14 * values[0])))
    points = vectors[:, :keep] * np.sqrt(np.maximum(values[:keep], 0.0))
    top = points[np.abs(points).argmax(axis=0), np.arange(keep)]
    return np.asarray(points * np.where(top < 0, -1.0, 1.0))


def ranked(batch: Batch, *keys: Sequence[float] | npt.NDArray[Any]) -> list[int]:
    """Rows by falling key, ties by the next key, then by content, then by node id."""
    place = {row: k for k, row in enumerate(batch.canonical)}
    return sorted(range(len(batch)), key=lambda row: (*(-float(key[row]) for key in keys), place[row]))


def _largest(batch: Batch, width: int) -> Vector:
    """The largest of the first columns of each row, in size."""
    if len(batch.largest):
        return batch.largest
    found, fast, n = np.zeros(len(batch)), kernels.fastest(len(batch) * width), len(batch)
    memory = np.empty((n, min(WIDTH, width)), batch.rows.dtype)
    for columns in runs(0, width, WIDTH):
        part = memory[:, : columns.stop - columns.start]
        batch.rows.read(range(n), columns, part)
        found = np.maximum(found, fast.largest(part))  # NaN comes through
    return found


def _slices(columns: Columns) -> list[slice]:
    """Sorted columns as slices."""
    cuts = np.flatnonzero(np.diff(columns) > 1) + 1
    return [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(columns, cuts) if len(run)]


def _chunks(parts: Sequence[slice], width: int) -> Iterator[list[slice]]:
    """The same columns, so many at a time."""
    chunk, room = list[slice](), width
    for part in parts:
        start = part.start
        while start < part.stop:
            stop = min(part.stop, start + room)
            chunk.append(slice(start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield chunk
                chunk, room = [], width
    if chunk:
        yield chunk


def _ratio(a: Vector, b: Vector, otherwise: float) -> Vector:
    return np.divide(a, b, out=np.full_like(a, otherwise), where=b > 0)
