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

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.detection.blocks import SHORT, Block, Square, Sums, Vector, middle
from flwr_faa.detection.units import Unit
from flwr_faa.replies import kernels
from flwr_faa.replies.rows import WIDTH, Matrix, Rows, Scratch, bunches, runs, width_of
from flwr_faa.replies.threads import Each, shared_out, single_threaded
from flwr_faa.replies.updates import Batch, Floats

__all__ = ["Block", "Cloud", "Vector", "embed", "middle", "ranked"]

Columns = npt.NDArray[np.intp]

#: Columns handled at a time, at most.
CHUNK = 2**14
#: From so many updates on their products are float32, however few columns there are: they are most of the work.
MANY = 256
#: Bytes of distances by label that are kept for who needs those of all labels again; of labels beyond, none are.
KEEP = 2**28


@dataclass(frozen=True, eq=False)
class Near:
    """What is near in the columns of one label, rows in canonical order.

    Attributes
    ----------
    distance : ndarray, shape (n, at most 3)
        To the nearest others.
    length : float
        The median norm.
    width : int
        Number of columns.
    """

    distance: Square
    length: float
    width: int


@dataclass(frozen=True)
class Measures:
    """What one walk over all columns finds."""

    whole: Block
    classifier: Block | None
    backbone: Block | None
    labels: tuple[Near, ...]


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

    @classmethod
    def of_matrix(cls, updates: Floats, label_blocks: Sequence[Columns], width: int, unit: Unit | None) -> Cloud:
        """The cloud of a matrix in C order, its rows sorted by their bytes: a comparison stops at the first difference.

        ``label_blocks`` are sorted.
        """
        order = updates.view(f"V{updates.shape[1] * updates.itemsize}").ravel().argsort(kind="stable")
        first, last = np.arange(len(order)), updates[order, -1]
        for i in np.flatnonzero(last[1:] == last[:-1]) + 1:  # few, unless there are clones
            if np.array_equal(updates[order[i - 1]].view(np.uint8), updates[order[i]].view(np.uint8)):
                first[i] = first[i - 1]
        place = np.empty_like(first)
        place[order] = first
        return cls(Matrix(updates), width, tuple(order.tolist()), place, tuple(label_blocks), unit)

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
        d, size = self.rows.shape[1], self.rows.dtype.itemsize
        what = f"a matrix of {len(rows):,} updates of {d:,} parameters, which this detector is fitted on"
        expected.room(len(rows) * d * size, what, "MultiView reads them piece by piece, and needs none")
        found = np.empty((len(rows), d), self.rows.dtype)
        for columns in runs(0, d, WIDTH):
            self.rows.read(rows, columns, found[:, columns])
        if self.unit is not None:
            self.unit.apply(found[:, : self.width], rows)
        return found

    @property
    def whole(self) -> Block:
        """Every column."""
        return self._measured.whole

    @property
    def classifier(self) -> Block | None:
        """The columns that feed any label, or None where the model has no classifier or is nothing else."""
        return self._measured.classifier

    @property
    def backbone(self) -> Block | None:
        """The columns that feed no label, or None where there is no classifier or nothing else."""
        return self._measured.backbone

    @property
    def near_labels(self) -> tuple[Near, ...]:
        """What is near in the columns of each label."""
        return self._measured.labels

    @cached_property
    def labels(self) -> tuple[Block, ...] | None:
        """The columns in one block per label, n x n numbers each; None if these were more than ``KEEP`` bytes in all.

        Who needs them asks for them first: then they are found in the walk that measures everything.
        """
        if len(self.label_blocks) * len(self) ** 2 * self.rows.dtype.itemsize > KEEP:
            return None
        kept = list[Block]()
        self._measure(kept.append)
        return tuple(kept)

    def each_label(self) -> Iterator[Block]:
        """The same one after the other, whatever their size; what was not kept is measured when its turn comes."""
        return iter(self.labels) if self.labels is not None else map(self._label, self.label_blocks)

    @cached_property
    def embedding(self) -> Vector:
        """Principal coordinates of the whole updates, see ``embed``, rows in canonical order."""
        return embed(self.whole.squared)

    @cached_property
    def _measured(self) -> Measures:
        return self._measure(lambda block: None)

    def _measure(self, tell: Callable[[Block], None]) -> Measures:
        """Measure everything in one walk, and tell of each label's block in turn."""
        with shared_out(len(self) * self.width) as each:
            return self._walk(tell, each)

    def _walk(self, tell: Callable[[Block], None], each: Each) -> Measures:
        def look(columns: Columns) -> tuple[Sums, Block, Near]:
            sums = self._sums(_slices(columns))
            block = sums.block()
            return sums, block, Near(block.near, block.length, block.width)

        total, near = Sums.of_none(len(self)), list[Near]()
        # Few updates' numbers of one label are found sooner than a thread is asked.
        for sums, block, closest in (each if len(self) >= MANY else map)(look, self.label_blocks):
            total.add(sums)
            near.append(closest)
            tell(block)
        rest = self._sums(self._beyond_labels(), each)
        split = total.width and rest.width
        classifier, backbone = (total.block(), rest.block()) if split else (None, None)
        total.add(rest)
        found = Measures(total.block(), classifier, backbone, tuple(near))
        self.__dict__.setdefault("_measured", found)
        return found

    def _label(self, columns: Columns) -> Block:
        with single_threaded():
            return self._sums(_slices(columns)).block()

    def _beyond_labels(self) -> list[slice]:
        """The columns that feed no label."""
        labels = _slices(np.sort(np.concatenate(self.label_blocks))) if self.label_blocks else []
        ends = [0, *(end for part in labels for end in (part.start, part.stop)), self.width]
        return [slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b]

    def _sums(self, parts: Sequence[slice], each: Each = map) -> Sums:
        """Measure the updates on some columns: O(n d log n) comparisons for the medians, n^2 d / 2 multiplications."""
        n, rows = len(self), np.array(self.order, np.intp)
        what = f"the distances between {n:,} updates"
        expected.room(3 * 8 * n * n, what, "judge them in groups, or by LoMar (docs/scale.md)")
        width = sum(part.stop - part.start for part in parts)
        exact, fast = n * width < kernels.LARGE and n < MANY, kernels.fastest(n * self.width)
        step = self._step(parts)
        scratch, single = Scratch(n * step, self.rows.dtype), width <= step and not exact

        def measure(bunch: list[list[slice]]) -> Sums:
            own, medians = Sums.of_none(n), np.empty(step, self.rows.dtype)
            with scratch.lent() as memory:
                for x in self._read(bunch, rows, memory):
                    median = medians[: x.shape[1]]
                    fast.centre(x, median, own.positive, own.nonzero)
                    if exact:
                        x, median = x.astype(np.float64), median.astype(np.float64)
                    product = (kernels.PLAIN if exact else fast).product(x)
                    if single:
                        own.gram = product
                    else:
                        own.gram += product
                    own.across += x @ median
                    own.median_square += float(median @ median)
            return own

        found: Sums | None = None
        for own in each(measure, bunches(_chunks(parts, step))):
            if found is None:
                found = own
            else:
                found.add(own)
        found = found or Sums.of_none(n)
        found.width = width
        # Linear algebra may round a row and its clone differently.
        first = self.place[rows]
        if (first[1:] <= first[:-1]).any():
            found.gram, found.across = found.gram[np.ix_(first, first)], found.across[first]
        self._add_raw(found, parts)
        size = float(middle(found.gram.diagonal()))
        found.noise = 2 * size * float(np.finfo(self.rows.dtype).eps) * math.sqrt(min(width, step))
        return found

    def _add_raw(self, found: Sums, parts: Sequence[slice]) -> None:
        """Add the inner products of the updates as they are."""
        across = found.across + found.median_square
        found.square = found.gram.diagonal() + found.across + across
        found.to_median = across
        mean = found.gram @ np.full(len(self), 1 / len(self), found.gram.dtype)
        found.to_mean = mean + found.across.mean() + across
        # Of an update much shorter than the median that would be rounding.
        products = found.square, found.to_median, found.to_mean
        for product in products:
            product[found.nonzero == 0] = 0
        short = np.flatnonzero((found.square < SHORT * found.median_square) & (found.nonzero > 0))
        if len(short):
            again = self._products(parts, short)
            for k, product in enumerate(products):
                product[short] = again[k]

    def _products(self, parts: Sequence[slice], which: npt.NDArray[np.intp]) -> Vector:
        """Inner products of some rows with themselves, the median and the mean, in another walk, shape (3, m)."""
        found, rows = np.zeros((3, len(which))), np.array(self.order, np.intp)
        fast, step = kernels.fastest(len(rows) * self.width), self._step(parts)
        for x in self._read(_chunks(parts, step), rows, np.empty(len(rows) * step, self.rows.dtype)):
            own, mean, median = x[which].astype(np.float64), x.mean(axis=0, dtype=np.float64), np.empty_like(x[0])
            fast.centre(x, median, *np.zeros((2, len(rows)), np.int64))
            found += np.einsum("ij,ij->i", own, own), own @ median.astype(np.float64), own @ mean
        return found

    def _step(self, parts: Sequence[slice]) -> int:
        """How many of these columns are read at a time."""
        return width_of(len(self), max(1, min(CHUNK, sum(part.stop - part.start for part in parts))))

    def _read(
        self, chunks: Iterable[list[slice]], rows: npt.NDArray[np.intp], memory: npt.NDArray[Any]
    ) -> Iterator[Floats]:
        """Columns of some rows, a chunk at a time, measurable; in the same memory each time."""
        for chunk in chunks:
            wide = sum(part.stop - part.start for part in chunk)
            x = memory[: len(rows) * wide].reshape(len(rows), wide)
            self.rows.gather(rows, chunk, x)
            if self.unit is not None:
                self.unit.apply(x, rows)
            yield x

    def by_row(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values in canonical order, put back into the order of the batch."""
        return values[self.place]


_clouds: WeakKeyDictionary[Batch, Cloud] = WeakKeyDictionary()


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
    mean = squared.mean(axis=0)
    with single_threaded():
        values, vectors = np.linalg.eigh(-0.5 * (squared - mean - mean[:, None] + mean.mean()))
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
