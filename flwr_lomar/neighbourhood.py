"""Who is near whom, and how far: the neighbourhoods of LoMar's phase I (Sec. 3.2), label by label.

    ||u_i - u_j||^2 = |u_i|^2 + |u_j|^2 - 2 <u_i, u_j>,  summed over blocks of columns

Inner products of a block come from one symmetric matrix product, and those of whole updates are the sum of the blocks'.

Precision: float64 updates are worked on in float64. Of float32 updates, each chunk of columns has a float32 product,
centred (an error would be of the size of the distances otherwise); chunks and blocks are added up in float64. A squared
distance is then good to some 1e-6 of the squared distances of both updates from the centre. Nothing closer than that is
told from equal, except equal rows, whose distance is exactly 0.

Cost: ``n^2 d / 2`` multiplications, and O(n^2 R) beside them. Memory beside the updates: about 40 ``n^2`` bytes,
``CHUNK`` numbers, and at most ``KEEP`` bytes of inner products by label; labels beyond that are multiplied twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: Numbers in one chunk of updates (4 MB of float32): large enough for BLAS, small enough for the cache.
CHUNK = 2**20
#: Bytes of inner products by label that are kept while the neighbourhoods are not known yet.
KEEP = 2**28


@dataclass(frozen=True, eq=False)
class Near:
    """One block of columns, seen from each of n updates to its k neighbours.

    Attributes
    ----------
    squared : ndarray, shape (n, k)
        Squared distances, in the dtype of the updates.
    noise : float
        A squared distance up to this may be rounding.
    length : float
        Of the median update.
    """

    squared: Floats
    noise: float
    length: float


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The k nearest others of each of n updates.

    Attributes
    ----------
    index : ndarray of int, shape (n, k)
        Which they are, the nearest not necessarily first.
    member : ndarray, shape (n, n)
        The same as 1 and 0.
    blocks : iterator of Near
        One for each block in turn; to be read once, since each takes memory.
    """

    index: Indices
    member: Doubles
    blocks: Iterator[Near]


@dataclass(frozen=True, eq=False)
class Seen:
    """One block of columns, seen from each of n updates to all of them.

    Attributes
    ----------
    squared : ndarray, shape (n, n)
        Squared distances, in the dtype of the updates; those that may be rounding are 0.
    squares : ndarray, shape (n,)
        Squared lengths of the rows themselves.
    positive : ndarray, shape (n,)
        Share of their entries that are positive.
    width : int
        Number of columns.
    """

    squared: Floats
    squares: Doubles
    positive: Doubles
    width: int


#: Told of one block after the other: its name (a number is a label's), and what is seen.
Watch = Callable[[str | int, Seen], None]


@dataclass(frozen=True, eq=False)
class Sizes:
    """Squared lengths of centred rows, and what may be rounding.

    And for the rows as they are: their squared lengths, and how many of their entries are positive.
    """

    centred: Floats
    noise: float
    squares: Doubles
    positive: Doubles
    width: int

    def __add__(self, other: Sizes) -> Sizes:
        noise, width = self.noise + other.noise, self.width + other.width
        squares, positive = self.squares + other.squares, self.positive + other.positive
        return Sizes(self.centred + other.centred, noise, squares, positive, width)


def split_columns(label_blocks: Sequence[npt.ArrayLike] | None, d: int | None) -> tuple[list[Indices], Indices]:
    """The columns of each block, sorted, and those in none. No blocks: one of all columns. d: None if not yet known."""
    if not (label_blocks is None or isinstance(label_blocks, (Sequence, np.ndarray))):
        raise ValueError(f"Expected label_blocks to be a sequence of columns, got {type(label_blocks).__name__}")
    if label_blocks is None or len(label_blocks) == 0:
        return [np.arange(d or 0)], np.empty(0, np.intp)
    blocks = [_columns(block) for block in label_blocks]
    if d is None:
        d = 1 + max((int(block[-1]) for block in blocks if len(block)), default=0)
    for block in blocks:
        if len(block) and (block[0] < 0 or block[-1] >= d):
            raise ValueError(f"Expected columns from 0 to {d - 1} in label_blocks, got {block[0]} to {block[-1]}")
    times = np.bincount(np.concatenate(blocks), minlength=d)
    if (times > 1).any():
        raise ValueError(f"Expected disjoint label_blocks, got column {times.argmax()} {times.max()} times")
    return blocks, np.flatnonzero(times == 0)


def _columns(block: npt.ArrayLike) -> Indices:
    columns = np.asarray(block)
    if columns.ndim != 1 or (len(columns) and columns.dtype.kind not in "iu"):
        raise ValueError(f"Expected a list of column numbers in label_blocks, got {block!r:.60}")
    return np.sort(columns.astype(np.intp))


def canonical_order(updates: Floats) -> tuple[Indices, Indices]:
    """Rows sorted by their bytes, and for each place in that order the first place with the same contents.

    By their bytes and not by a hash, which would have to read all of them: a comparison stops at the first difference.
    """
    rows = updates.view(f"V{updates.shape[1] * updates.itemsize}").ravel()
    order = rows.argsort(kind="stable")
    first = np.arange(len(order))
    last = updates[order, -1]
    for i in np.flatnonzero(last[1:] == last[:-1]) + 1:  # few, unless there are clones
        if np.array_equal(updates[order[i - 1]], updates[order[i]]):
            first[i] = first[i - 1]
    return order, first


def among(
    updates: Floats,
    order: Indices,
    first: Indices,
    blocks: list[Indices],
    rest: Indices,
    k: int,
    watch: Watch | None = None,
) -> Neighbourhoods:
    """Neighbourhoods of n updates among themselves, in canonical order, nobody its own neighbour; 1 <= k < n.

    ``watch`` is told of the whole updates, of the ``classifier`` and the ``backbone`` (the columns in blocks, and those
    in none) where there are both, and of the labels while ``blocks`` is read.
    """
    n = len(updates)
    memory, dtype = np.empty(n * _width(n), updates.dtype), updates.dtype
    products = partial(_products, updates, order, first, memory, watch is not None)
    room = min(len(blocks), KEEP // (n * n * dtype.itemsize))
    inner = np.empty((room + 1, n, n), dtype)  # in one piece, which the system maps in large pages; the last is scratch
    whole = np.zeros((n, n))
    sizes: list[Sizes] = []
    for label, columns in enumerate([*blocks, rest] if len(rest) else blocks):
        block = inner[min(label, room)]
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            size = products(columns, block)
        if not size.centred.max() < np.finfo(dtype).max / 8:  # false for NaN too
            raise ValueError("Expected finite updates with finite squares, got NaN, infinity or too large a number")
        if watch and label == len(blocks):  # the last, beyond all labels
            watch("classifier", _seen(whole, reduce(add, sizes)))
            watch("backbone", _seen(block, size))
        whole += block
        sizes.append(size)
    total = reduce(add, sizes)
    if watch:
        watch("update", _seen(whole, total))
    np.subtract(total.centred.astype(np.float64) / 2, whole, out=whole)  # half the squared distance, but for the row's
    np.fill_diagonal(whole, np.inf)  # own size: the same order
    mask = _nearest(whole, k)
    at = np.flatnonzero(mask)
    index = (at % n).reshape(n, k)

    def near() -> Iterator[Near]:
        for label, (columns, size) in enumerate(zip(blocks, sizes, strict=False)):
            block = inner[min(label, room)]
            if label >= room:
                products(columns, block)
            if watch and len(blocks) > 1:
                watch(label, _seen(block, size))
            squared = np.take(size.centred, index)  # first the sum, which commutes: d(i, j) is d(j, i) to the last bit
            squared += size.centred[:, None]
            twice = np.take(block, at).reshape(n, k)
            twice *= 2
            squared -= twice
            yield Near(np.maximum(squared, 0, out=squared), size.noise, math.sqrt(np.median(size.squares)))

    whole[...] = mask  # its memory is there, and mapping as much again costs more than filling it
    return Neighbourhoods(index, whole, near())


def _seen(inner: Floats, size: Sizes) -> Seen:
    squared = np.add(size.centred[:, None], size.centred, dtype=inner.dtype)
    squared -= 2 * inner
    squared[squared <= size.noise] = 0
    return Seen(
        squared.astype(size.centred.dtype, copy=False), size.squares, size.positive / max(size.width, 1), size.width
    )


def _nearest(distance: Doubles, k: int) -> npt.NDArray[np.bool_]:
    """The k smallest of each row, ties to the first."""
    limit = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    mask: npt.NDArray[np.bool_] = distance <= limit
    surplus = np.count_nonzero(mask, axis=1) - k
    for i in np.flatnonzero(surplus):
        mask[i, np.flatnonzero(distance[i] == limit[i])[-surplus[i] :]] = False
    return mask


def _products(
    updates: Floats, order: Indices, first: Indices, memory: Floats, signs: bool, columns: Indices, out: Floats
) -> Sizes:
    """Inner products of all pairs in canonical order, into `out` (n, n); `signs`: count them too."""
    n = len(order)
    width = _width(n)
    total = np.zeros(out.shape if len(columns) > width else 0)
    squares, positive = np.zeros(n), np.zeros(n)
    if len(columns) == 0:
        out[...] = 0.0
    for part in _chunks(columns, width):
        chunk = _take(updates, order, part, memory)
        length = np.einsum("ij,ij->i", chunk, chunk)
        squares += length
        positive += _positive(chunk) if signs else 0
        chunk -= _centre(chunk, length)
        np.matmul(chunk, chunk.T, out=out)  # NumPy sees that this is symmetric: half the work
        if len(total):
            total += out
    if len(total):
        out[...] = total
    if (first != np.arange(n)).any():
        out[...] = out[np.ix_(first, first)]  # equal rows: equal distances, and 0 between them
    sizes = out.diagonal().copy()
    noise = 2 * float(np.median(sizes)) * float(np.finfo(out.dtype).eps) * math.sqrt(min(width, len(columns)))
    return Sizes(sizes, noise, squares, positive, len(columns))


def _positive(chunk: Floats) -> Doubles:
    """How many entries of each row are positive; row by row, NumPy counts four times as fast as along an axis."""
    return np.array([np.count_nonzero(row) for row in chunk > 0], np.float64)


def _width(n: int) -> int:
    return max(256, CHUNK // n)


def _chunks(columns: Indices, width: int) -> Iterator[Indices]:
    return (columns[a : a + width] for a in range(0, len(columns), width))


def _take(updates: Floats, rows: Indices, columns: Indices, memory: Floats) -> Floats:
    """``updates[rows][:, columns]`` in `memory`: mapping new pages for each chunk would take longer than the copy."""
    chunk = memory[: len(rows) * len(columns)].reshape(len(rows), len(columns))
    cuts = np.flatnonzero(np.diff(columns) > 1) + 1
    if len(cuts) > 8:
        chunk[...] = np.take(updates, columns, axis=1)[rows]
        return chunk
    for start, run in zip([0, *cuts], np.split(columns, cuts), strict=True):  # a few runs, as a label's columns are
        into, source = chunk[:, start : start + len(run)], updates[:, run[0] : run[-1] + 1]
        for i in range(0, len(rows), 64):
            into[i : i + 64] = source[rows[i : i + 64]]
    return chunk


def _centre(chunk: Floats, squares: Floats) -> Floats:
    """The mean of that half of the rows that is nearest to 0.

    Distances do not depend on it, but their precision does: the mean of all rows could be dragged away by one attacker
    with an enormous update, and the distances between honest updates would drown in rounding.
    """
    half = (len(chunk) + 1) // 2
    nearest = np.argpartition(squares, half - 1)[:half]
    centre: Floats = chunk[nearest].mean(axis=0)
    return centre
