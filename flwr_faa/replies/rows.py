"""The updates of a round as they are read: some columns at a time.

A matrix of all of them would be as large as all replies together. Nothing that is measured here needs one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from flwr_faa.replies import kernels
from flwr_faa.replies.kernels import Floats
from flwr_faa.replies.layout import Arrays, Layout, Role
from flwr_faa.replies.threads import shared_out

Item = TypeVar("Item")
Indices = Sequence[int] | npt.NDArray[np.intp]

#: Columns that are read at a time, and numbers: these stay in a processor's cache.
WIDTH, NUMBERS = 2**14, 2**20
#: Runs of columns that are copied one by one.
RUNS = 8
#: Pieces that one thread reads after each other.
BUNCH = 8


class Rows(Protocol):
    """n updates of d columns."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def read(self, rows: Indices, columns: slice, out: Floats) -> None:
        """Write some columns of some rows into ``out``, shape (number of rows, number of columns)."""
        ...

    def gather(self, rows: Indices, parts: Sequence[slice], out: Floats) -> None:
        """Write several runs of columns, beside each other."""
        at = 0
        for part in parts:
            stop = at + part.stop - part.start
            self.read(rows, part, out[:, at:stop])
            at = stop


class Matrix(Rows):
    """Updates that are there already.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
    """

    def __init__(self, updates: Floats) -> None:
        self._updates, self.dtype = updates, updates.dtype
        self.shape: tuple[int, int] = (updates.shape[0], updates.shape[1])

    def read(self, rows: Indices, columns: slice, out: Floats) -> None:
        """Copy them, some rows at a time, so that what is in between stays in the cache."""
        rows = np.asarray(rows, np.intp)
        for i in range(0, len(rows), 64):
            out[i : i + 64] = self._updates[rows[i : i + 64], columns]

    def gather(self, rows: Indices, parts: Sequence[slice], out: Floats) -> None:
        """Columns that are scattered are found by one look-up each row."""
        if len(parts) <= RUNS:
            super().gather(rows, parts, out)
            return
        columns = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        for into, row in zip(out, rows, strict=True):
            np.take(self._updates[row], columns, out=into, mode="clip")


class Differences(Rows):
    """``w_i - w``, subtracted when it is read.

    What equals the broadcast is a difference of zero, infinities and NaN included.

    Parameters
    ----------
    models : sequence of sequence of ndarray
        The ``w_i``, each in the shapes of the layout.
    base : sequence of ndarray
        ``w``.
    layout : Layout
    """

    def __init__(self, models: Sequence[Arrays], base: Arrays, layout: Layout) -> None:
        wide = any(w.dtype == np.float64 for w in base)
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if wide else np.float32)
        self.shape = (len(models), layout.size)
        with_columns = [i for i, role in enumerate(layout.roles) if role is not Role.BOOKKEEPING and base[i].size]
        self._order = sorted(with_columns, key=lambda i: layout.layers[i].start)
        self._starts = [layout.layers[i].start for i in self._order]
        self._base = {i: flat(base[i]) for i in self._order}
        self._masks = {i for i in self._order if not np.isfinite(_extremes(base[i])).all()}
        self._models = {i: [flat(model[i]) for model in models] for i in self._order}

    def read(self, rows: Indices, columns: slice, out: Floats) -> None:
        """Subtract them."""
        with np.errstate(over="ignore", invalid="ignore"):
            for i, here, there in self.pieces(columns):
                w, differences, arrays = self._base[i][here], out[:, there], self._models[i]
                if w.dtype != self.dtype:  # exact: the shorter floats are among the longer
                    w = w.astype(self.dtype)
                for difference, row in zip(differences, rows, strict=True):
                    np.subtract(arrays[row][here], w, difference)
                if i in self._masks:  # inf - inf
                    for difference, row in zip(differences, rows, strict=True):
                        array = arrays[row][here]
                        difference[(array == w) | (np.isnan(array) & np.isnan(w))] = 0

    def pieces(self, columns: slice) -> Iterator[tuple[int, slice, slice]]:
        """Which arrays these columns are of: each one's index, where in it they are, and where among the columns."""
        start, k = columns.start, bisect_right(self._starts, columns.start) - 1
        while start < columns.stop:
            i, first = self._order[k], self._starts[k]
            stop = min(first + len(self._base[i]), columns.stop)
            yield i, slice(start - first, stop - first), slice(start - columns.start, stop - columns.start)
            start, k = stop, k + 1


def flat(array: npt.NDArray[Any]) -> Any:
    """Return an array's entries in C order, to be sliced; without a copy, whatever order they are stored in."""
    return array.reshape(-1) if array.flags.c_contiguous else array.flat


def runs(start: int, stop: int, width: int) -> Iterator[slice]:
    """Return slices of at most that width that follow each other."""
    return (slice(a, min(a + width, stop)) for a in range(start, stop, width))


def bunches(items: Iterable[Item], size: int = BUNCH) -> Iterator[list[Item]]:
    """Return the items in lists of that size; the last may be shorter."""
    rest = iter(items)
    while bunch := list(islice(rest, size)):
        yield bunch


class Scratch:
    """Memory for pieces that are read, used again by whoever is next.

    Parameters
    ----------
    size : int
        Numbers.
    dtype : dtype
    """

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._size, self._dtype, self._free = size, dtype, list[Floats]()

    @contextmanager
    def lent(self) -> Iterator[Floats]:
        """Lend it to one thread."""
        try:
            memory = self._free.pop()
        except IndexError:  # all is lent
            memory = np.empty(self._size, self._dtype)
        yield memory
        self._free.append(memory)


def width_of(n: int, most: int) -> int:
    """Return how many columns of n rows are read at a time; at most so many.

    Of very many rows the products of all pairs are added up each time, so it takes columns enough for that to be cheap.
    """
    return max(1, min(most, max(NUMBERS // max(n, 1), 256, n // 4)))


def hashed(
    rows: Rows, which: Sequence[int], key: int, look: Callable[[slice, Floats], object] = lambda *_: None
) -> list[int]:
    """Return a 64-bit hash of each of some rows.

    It is multilinear: the sum of the row's 32-bit words, each times a random number of 64 bits, mod 2^64. Two rows that
    differ agree for at most one in 2^33 keys (the product of a word's difference, of at most 31 trailing zero bits,
    takes every multiple of 2^31 as often; Lemire and Kaser, "Strongly universal string hashing is fast", 2014). Who
    does not know the key can do no better than chance.

    Parameters
    ----------
    rows : Rows
    which : sequence of int
    key : int
    look : callable
        Shown all columns of these rows, some at a time, while they are in the cache; by several threads.
    """
    if not which:
        return []
    n, d, words = len(which), rows.shape[1], rows.dtype.itemsize // 4
    width, fast, stream = width_of(n, WIDTH), kernels.fastest(n * d), np.random.SFC64(key % 2**128)
    scratch, totals = Scratch(n * width, rows.dtype), np.zeros(n, np.uint64)

    def walk(bunch: list[tuple[slice, kernels.Keys]]) -> kernels.Keys:
        own = np.zeros_like(totals)
        with scratch.lent() as memory:
            for columns, keys in bunch:
                part = memory[: n * (columns.stop - columns.start)].reshape(n, -1)
                rows.read(which, columns, part)
                look(columns, part)
                fast.hash(part.view(np.uint32), keys, own)
        return own

    keyed = ((columns, stream.random_raw((columns.stop - columns.start) * words)) for columns in runs(0, d, width))
    with shared_out(n * d) as each:
        for own in each(walk, bunches(keyed)):
            totals += own
    return [int(total) for total in totals]


def _extremes(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array([w.min(), w.max()])  # NaN comes through
