"""Operations in any group: fast sums of multiples, and points to bytes and back.

Points travel uncompressed, ``x || y``, big-endian: twice the bytes, but read four times faster, all checks included
(no square root). Reading is strict: both coordinates below p, on the curve, in the subgroup, never the identity
(which has no affine coordinates).

Nothing here is constant-time: Python integers are not, and neither are table look-ups. Secrets are used on the
machines of their owners (the client encrypts, the authority derives); do not time them for strangers.
"""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto.group import Group, Point
from flwr_faa.errors import ArgumentValueError


def random_scalar(group: Group) -> int:
    """Draw uniformly from [1, order), by the operating system."""
    return 1 + secrets.randbelow(group.order - 1)


def total(group: Group, points: Sequence[Point]) -> Point:
    """Return the sum of the points."""
    return functools.reduce(group.add, points, group.identity)


def msm(group: Group, points: Sequence[Point], scalars: Sequence[int]) -> Point:
    """Multiply many scalars at once: the sum of ``scalars[i] * points[i]``; small and negative scalars are cheap."""
    chosen, factors = [], []
    for p, k in zip(points, scalars, strict=True):
        if k := _centred(group, k):
            chosen.append(p if k > 0 else group.neg(p))
            factors.append(abs(k))
    if all(k == 1 for k in factors):
        return total(group, chosen)
    return group.multiexp(chosen, factors) if group.multiexp else _pippenger(group, chosen, factors)


def combine(group: Group, rows: Sequence[Sequence[Point]], scalars: Sequence[int]) -> list[Point]:
    """Return ``sum_i scalars[i] * rows[i][j]`` for every column j, by buckets laid out once for all columns.

    Scalars are small (they are weights of a random combination); any sign.
    """
    m, bits = len(rows), max(k.bit_length() for k in scalars)
    _, width = min((_windows(bits, w) * (m + 2**w), w) for w in range(2, 9))
    columns = zip(*rows, *([group.neg(p) for p in row] for row in rows), strict=True)
    signed = [(buckets(np.abs(ds)), (np.arange(m) + m * (ds < 0)).tolist()) for ds in _signed(scalars, width).T[::-1]]
    windows = [[[where[i] for i in bucket] for bucket in window] for window, where in signed]
    return [bucketed(group, column, windows, width) for column in columns]


def buckets(digits: npt.NDArray[np.integer[Any]]) -> list[list[int]]:
    """Return which of these digits have each value, from the largest value down to 1."""
    order, ends = np.argsort(digits).tolist(), np.cumsum(np.bincount(digits, minlength=1)).tolist()
    return [order[ends[v - 1] : ends[v]] for v in range(len(ends) - 1, 0, -1)]


def bucketed(group: Group, points: Sequence[Point], windows: Iterable[Sequence[Sequence[int]]], width: int) -> Point:
    """Return a sum of multiples from the buckets of each digit, the highest digit first (Pippenger's method).

    Parameters
    ----------
    group : Group
    points : sequence of Point
    windows : iterable of sequences, see :func:`buckets`
        For every digit which points are taken how often.
    width : int
        Bits of a digit.
    """
    add = group.add
    result: Point = None  # adding to the identity is slow
    for window in windows:
        for _ in range(width if result is not None else 0):
            result = add(result, result)
        running: Point = None
        for bucket in window:  # from the largest value down: each running sum counts once more
            if bucket:
                more = [points[i] for i in bucket]
                running = functools.reduce(add, more if running is None else [running, *more])
            if running is not None:
                result = running if result is None else add(result, running)
    return group.identity if result is None else result


def multiples(group: Group, base: Point, scalars: Sequence[int]) -> list[Point]:
    """Return ``k * base`` for every scalar k, by a table of windows where that pays (kept for the generator)."""
    if not scalars:
        return []
    scalars = [_centred(group, k) for k in scalars]
    bits = max(k.bit_length() for k in scalars)
    if base is group.generator and _windows(bits, 8) * 2 < group.mul_cost:
        return _generator_windows(group).multiply(scalars)
    cost, width = min((_windows(bits, w) * (2 ** (w - 1) + len(scalars)), w) for w in range(2, 9))
    if cost >= len(scalars) * group.mul_cost:
        return [group.mul(base, k) for k in scalars]
    return _Windows(group, base, width).multiply(scalars)


def encode(group: Group, points: Sequence[Point]) -> bytes:
    """Return ``group.point_size`` bytes per point. Raises ValueError for the identity."""
    half = group.point_size // 2
    pairs = group.coordinates(points)
    if (0, 0) in pairs:
        raise ArgumentValueError(f"expected points with coordinates, got the identity (point {pairs.index((0, 0))})")
    return b"".join([x.to_bytes(half, "big") + y.to_bytes(half, "big") for x, y in pairs])


def decode(group: Group, data: bytes, *, subgroup: bool = True) -> list[Point]:
    """Return the points from bytes, the inverse of ``encode``: exactly what ``encode`` can give is accepted.

    Without ``subgroup`` points of the whole curve are accepted too. That is sound where nothing is done with them but
    testing a linear combination for equality: it then holds in the prime-order part as well, and what lies outside can
    only make it fail.

    Raises
    ------
    ValueError
        Wrong length, or a point that is not in the group, or is its identity.
    """
    data, size, p, a, b = bytes(data), group.point_size, group.prime, group.a, group.b
    if len(data) % size:
        raise ArgumentValueError(f"expected points of {size} bytes, got {len(data)} bytes")
    points = []
    for start in range(0, len(data), size):
        raw = data[start : start + size]
        x, y = int.from_bytes(raw[: size // 2], "big"), int.from_bytes(raw[size // 2 :], "big")
        if x >= p or y >= p or (y * y - (x * x + a) * x - b) % p:  # b != 0: the identity's zeros fail too
            raise ArgumentValueError(
                f"expected a point of {group.curve}, got {raw[:8].hex()}... (point {start // size})"
            )
        points.append(group.load(raw))
    if subgroup and not group.in_subgroup(points):
        raise ArgumentValueError(f"expected points of {group.curve}'s prime-order subgroup, got one outside")
    return points


def _centred(group: Group, scalar: int) -> int:
    """Return the representative mod order nearest to 0."""
    scalar %= group.order
    return scalar - group.order if scalar > group.order // 2 else scalar


def _digits(scalars: Sequence[int], width: int, count: int) -> npt.NDArray[np.int64]:
    """Return base-2^width digits, (len(scalars), count), lowest first, of integers in [0, 2^(width * count))."""
    size = -(-width * count // 8)
    raw = np.frombuffer(b"".join([k.to_bytes(size, "little") for k in scalars]), np.uint8).reshape(len(scalars), size)
    bits = np.unpackbits(raw, axis=1, bitorder="little", count=width * count)
    return bits.reshape(len(scalars), count, width) @ (1 << np.arange(width))


def _signed(scalars: Sequence[int], width: int) -> npt.NDArray[np.int64]:
    """Return the digits, from -2^(width - 1) to 2^(width - 1) - 1, lowest first, of integers of either sign."""
    half, count = 1 << (width - 1), _windows(max(k.bit_length() for k in scalars), width)
    shift = sum(half << (width * i) for i in range(count))  # makes signed digits plain ones
    return _digits([k + shift for k in scalars], width, count) - half


def _windows(bits: int, width: int) -> int:
    """Return signed digits of that width; two bits are spare, so that every sum of digits stays in range."""
    return -(-(bits + 2) // width)


class _Windows:
    """Multiples of one base by windows: entry j of window i is (j - 2^(w-1)) 2^(wi) base."""

    def __init__(self, group: Group, base: Point, width: int) -> None:
        self.group, self.base, self.width = group, base, width
        self.table: list[Point] = []
        self._lock = threading.Lock()

    def multiply(self, scalars: Sequence[int]) -> list[Point]:
        """Return ``k base`` for every k; small ones use, and build, only the low windows."""
        width, table, add = self.width, self.table, self.group.add
        half, digits = 1 << (width - 1), _signed(scalars, width)
        _, count = digits.shape
        with self._lock:
            while len(table) < count << width:
                run = list(accumulate(repeat(self.base, half), add))
                table += [self.group.neg(p) for p in reversed(run)] + [self.group.identity] + run[:-1]
                self.base = add(run[-1], run[-1])
        rows = digits + half + (np.arange(count) << width)
        return [functools.reduce(add, [table[j] for j in row]) for row in rows.tolist()]


@functools.cache
def _generator_windows(group: Group) -> _Windows:
    return _Windows(group, group.generator, 8)


def _pippenger(group: Group, points: Sequence[Point], scalars: Sequence[int]) -> Point:
    """Sum multiples by the bucket method, for positive scalars, in Python over the back end's additions."""
    bits = max(scalars).bit_length()
    cost, width = min((-(-bits // w) * (len(points) + 2 ** (w + 1)) + bits, w) for w in range(1, 17))
    if cost >= len(points) * group.mul_cost:
        return total(group, [group.mul(p, k) for p, k in zip(points, scalars, strict=True)])
    digits = _digits(scalars, width, -(-bits // width))
    return bucketed(group, points, map(buckets, digits.T[::-1]), width)
