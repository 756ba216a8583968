"""The loops over every entry of every reply: medians, counts, sums for the hash, and the sum of an average.

Each is written twice, for NumPy and for numba, which comes with PyOD and takes a half to a twentieth of the time. Both
give the same bits where there is one right answer: comparisons, integers, and sums whose order is given. The product of
the rows with themselves is rounded in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Words = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

#: A round of fewer entries is over before numba is imported (.2 s, once a process).
LARGE = 2**22
#: Columns of which a median is found at a time.
BLOCK = 1024
#: Rows beyond which a sort is faster than a network.
MOST = 2048
#: Rows up to which compiled loops multiply faster than BLAS.
FEW = 256
#: Columns whose products are added up at a time: of some rows they stay in the first cache.
SHORT = 1024


class Kernels(Protocol):
    """One implementation of all of them."""

    def hash(self, words: Words, keys: Keys, totals: Keys) -> None:
        """Add ``sum_k keys_k words_ik mod 2^64`` to the total of each row."""
        ...

    def largest(self, x: Floats) -> Floats:
        """Return the largest value of each row in size; not finite unless all are."""
        ...

    def centre(self, x: Floats, median: Floats, positive: Counts, nonzero: Counts) -> None:
        """Write the median of each column, subtract it, and add how many entries of each row are > 0 and not 0.

        Parameters
        ----------
        x : ndarray, shape (n, c)
            Finite, C-contiguous; changed in place.
        median : ndarray, shape (c,)
        positive, nonzero : ndarray, shape (n,)
        """
        ...

    def between(self, x: Floats, low: int, high: int, out: npt.NDArray[np.float64]) -> None:
        """Write the mean of those values of each column that have the ranks ``low`` to ``high - 1``: O(n log^2 n) each.

        Parameters
        ----------
        x : ndarray, shape (n, c)
            Finite, C-contiguous.
        low, high : int
            ``0 <= low < high <= n``.
        out : ndarray, shape (c,)
        """
        ...

    def product(self, x: Floats) -> Floats:
        """Return ``x @ x.T``, the same both ways to the last bit, shape (n, n); x is C-contiguous."""
        ...

    def add(self, total: npt.NDArray[np.float64], values: Sequence[Floats], weights: Sequence[float]) -> None:
        """Add ``weight * value`` for each to the total in turn, rounded after each product and each sum."""
        ...


def fastest(entries: int) -> Kernels:
    """Return the faster ones for a round of so many entries."""
    return (_compiled() if entries >= LARGE else None) or PLAIN


class _Plain:
    """The kernels in NumPy."""

    def hash(self, words: Words, keys: Keys, totals: Keys) -> None:
        for i, row in enumerate(words):
            totals[i : i + 1] += np.multiply(row, keys, dtype=np.uint64).sum(dtype=np.uint64)  # a slice: it may wrap

    def largest(self, x: Floats) -> Floats:
        return np.asarray(np.maximum(x.max(axis=1, initial=0), -x.min(axis=1, initial=0)))  # NaN comes through

    def centre(self, x: Floats, median: Floats, positive: Counts, nonzero: Counts) -> None:
        positive += np.count_nonzero(x > 0, axis=1)
        nonzero += np.count_nonzero(x, axis=1)
        # A contiguous sort is three times as fast as np.median down the columns.
        ordered, n = np.sort(x.T.copy(), axis=1), len(x)
        median[:] = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
        x -= median

    def between(self, x: Floats, low: int, high: int, out: npt.NDArray[np.float64]) -> None:
        ordered = np.sort(x.T.copy(), axis=1)
        out[:] = 0
        for rank in range(low, high):  # in this order, whatever NumPy would choose
            out += ordered[:, rank]
        out /= high - low

    def product(self, x: Floats) -> Floats:
        return x @ x.T  # NumPy sees that this is symmetric: half the work

    def add(self, total: npt.NDArray[np.float64], values: Sequence[Floats], weights: Sequence[float]) -> None:
        for value, weight in zip(values, weights, strict=True):
            total += np.multiply(value, np.float64(weight), dtype=np.float64)


PLAIN: Kernels = _Plain()


@cache
def network(n: int, low: int | None = None, high: int | None = None) -> npt.NDArray[np.intp]:
    """Return the comparators of Batcher's odd-even merge sort of n numbers that some ranks need, shape (m, 2).

    A comparator (i, j) puts the smaller of two numbers at i and the larger at j. In that order they leave the numbers
    of the ranks ``low`` to ``high - 1``, by default the middle ones, where a sort would. (Batcher 1968;
    Knuth, TAOCP 3, 5.2.2, Algorithm M.)
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k:
            pairs += [
                (i + j, i + j + k)
                for j in range(k % p, n - k, 2 * k)
                for i in range(min(k, n - j - k))
                if (i + j) // (2 * p) == (i + j + k) // (2 * p)
            ]
            k //= 2
        p *= 2
    low, high = (n - 1) // 2 if low is None else low, n // 2 + 1 if high is None else high
    needed, kept = set(range(low, high)), []
    for pair in reversed(pairs):
        if not needed.isdisjoint(pair):
            needed.update(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.intp).reshape(-1, 2)


# What follows is compiled: explicit loops, no Python objects.


def _hash(words, keys, totals):  # type: ignore[no-untyped-def]
    for i in range(words.shape[0]):
        total = np.uint64(0)
        for t in range(words.shape[1]):
            total += np.uint64(words[i, t]) * keys[t]
        totals[i] += total


def _largest(bits, mask, tops):  # type: ignore[no-untyped-def]
    for i in range(bits.shape[0]):
        top = tops[i]
        for t in range(bits.shape[1]):
            size = bits[i, t] & mask  # floats without their sign are ordered as integers are, NaN last
            top = size if size > top else top
        tops[i] = top


def _count(x, positive, nonzero):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        above = 0
        other = 0
        for t in range(x.shape[1]):
            above += x[i, t] > 0
            other += x[i, t] != 0
        positive[i] += above
        nonzero[i] += other


def _medians(x, pairs, work, median):  # type: ignore[no-untyped-def]
    n = x.shape[0]
    for start in range(0, x.shape[1], work.shape[1]):
        width = min(work.shape[1], x.shape[1] - start)
        for i in range(n):
            work[i, :width] = x[i, start : start + width]
        for k in range(len(pairs)):
            i = pairs[k, 0]
            j = pairs[k, 1]
            for t in range(width):
                a = work[i, t]
                b = work[j, t]
                work[i, t] = a if a < b else b
                work[j, t] = b if a < b else a
        for t in range(width):
            median[start + t] = (work[(n - 1) // 2, t] + work[n // 2, t]) / x.dtype.type(2)


def _between(x, pairs, low, high, work, out):  # type: ignore[no-untyped-def]
    for start in range(0, x.shape[1], work.shape[1]):
        width = min(work.shape[1], x.shape[1] - start)
        for i in range(x.shape[0]):
            work[i, :width] = x[i, start : start + width]
        for k in range(len(pairs)):
            i = pairs[k, 0]
            j = pairs[k, 1]
            for t in range(width):
                a = work[i, t]
                b = work[j, t]
                work[i, t] = a if a < b else b
                work[j, t] = b if a < b else a
        out[start : start + width] = 0.0
        for rank in range(low, high):
            for t in range(width):
                out[start + t] += np.float64(work[rank, t])
        for t in range(width):
            out[start + t] /= high - low


def _subtract(x, median):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        for t in range(x.shape[1]):
            x[i, t] -= median[t]


def _product(x, out):  # type: ignore[no-untyped-def]
    # Four rows by two: as many sums as the registers of any machine hold. Rows beyond the last stand in the margin.
    n, last = x.shape[0], x.shape[0] - 1
    for start in range(0, x.shape[1], SHORT):
        stop = min(start + SHORT, x.shape[1])
        for i in range(0, n, 4):
            x0 = x[i, start:stop]
            x1 = x[min(i + 1, last), start:stop]
            x2 = x[min(i + 2, last), start:stop]
            x3 = x[min(i + 3, last), start:stop]
            for j in range(0, i + 4, 2):
                y0 = x[min(j, last), start:stop]
                y1 = x[min(j + 1, last), start:stop]
                s00 = s10 = s20 = s30 = s01 = s11 = s21 = s31 = x.dtype.type(0)
                for t in range(stop - start):
                    a = y0[t]
                    b = y1[t]
                    s00 += x0[t] * a
                    s10 += x1[t] * a
                    s20 += x2[t] * a
                    s30 += x3[t] * a
                    s01 += x0[t] * b
                    s11 += x1[t] * b
                    s21 += x2[t] * b
                    s31 += x3[t] * b
                out[i, j] += s00
                out[i + 1, j] += s10
                out[i + 2, j] += s20
                out[i + 3, j] += s30
                out[i, j + 1] += s01
                out[i + 1, j + 1] += s11
                out[i + 2, j + 1] += s21
                out[i + 3, j + 1] += s31
    for i in range(n):
        for j in range(i):
            out[j, i] = out[i, j]


def _add(total, a, b, c, d, weights):  # type: ignore[no-untyped-def]
    for t in range(len(total)):
        found = total[t] + np.float64(a[t]) * weights[0]
        found += np.float64(b[t]) * weights[1]
        found += np.float64(c[t]) * weights[2]
        total[t] = found + np.float64(d[t]) * weights[3]


class _Compiled:
    """The kernels as numba compiles them."""

    def __init__(self, compile: Callable[..., Any]) -> None:
        self._hash, self._largest, self._add = compile(_hash), compile(_largest), compile(_add)
        self._count, self._medians, self._subtract = compile(_count), compile(_medians), compile(_subtract)
        self._between = compile(_between)
        self._product = compile(_product, fastmath={"reassoc", "contract", "nsz"})

    def hash(self, words: Words, keys: Keys, totals: Keys) -> None:
        self._hash(words, keys, totals)

    def largest(self, x: Floats) -> Floats:
        signed = np.int32 if x.dtype.itemsize == 4 else np.int64
        tops = np.zeros(len(x), signed)
        self._largest(x.view(signed), signed(np.iinfo(signed).max), tops)
        return tops.view(x.dtype)

    def centre(self, x: Floats, median: Floats, positive: Counts, nonzero: Counts) -> None:
        if len(x) > MOST:
            PLAIN.centre(x, median, positive, nonzero)
            return
        self._count(x, positive, nonzero)
        self._medians(x, network(len(x)), np.empty((len(x), min(BLOCK, x.shape[1])), x.dtype), median)
        self._subtract(x, median)

    def between(self, x: Floats, low: int, high: int, out: npt.NDArray[np.float64]) -> None:
        if len(x) > MOST:
            PLAIN.between(x, low, high, out)
            return
        work = np.empty((len(x), min(BLOCK, x.shape[1])), x.dtype)
        self._between(x, network(len(x), low, high), low, high, work, out)

    def product(self, x: Floats) -> Floats:
        if len(x) > FEW:
            return PLAIN.product(x)
        n, out = len(x), np.zeros((len(x) + 3, len(x) + 3), x.dtype)
        self._product(x, out)
        return out[:n, :n]

    def add(self, total: npt.NDArray[np.float64], values: Sequence[Floats], weights: Sequence[float]) -> None:
        k = 0
        if all(value.dtype.itemsize >= 4 for value in values):  # float16 is none of numba's
            for k in range(4, len(values) + 1, 4):
                self._add(total, *map(_read_only, values[k - 4 : k]), np.array(weights[k - 4 : k]))
        PLAIN.add(total, values[k:], weights[k:])


def _read_only(values: Floats) -> Floats:
    """Return a view that is: of arrays that can be written and others numba would compile every mixture."""
    view = values.view()
    view.flags.writeable = False
    return view


@cache
def _compiled() -> Kernels | None:
    """Return the compiled kernels, or None without numba. Compiled once per machine (seconds), then loaded."""
    try:
        import numba
    except ImportError:
        return None

    def compile(function: Any, **options: Any) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return numba.njit(nogil=True, **options)(function)

    return _Compiled(compile)
