"""Small discrete logarithms: baby-step giant-step over one table for each group.

The table holds the low 64 bits of the x coordinate of u g for 0 <= u <= T, so one look-up covers both signs. A point
v g beyond it is moved by multiples of 2T + 1. Both the table and the giant steps need x(C - O) and x(C + O) for one
centre C and many known O; in affine coordinates these share one inversion (Montgomery's trick), about a microsecond
a point in plain Python where a native addition and its conversion to affine take six. Every hit is checked in the
group, so neither a false hit nor a corrupt table can give a wrong value.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto.group import Group, Point
from flwr_faa.crypto.groups import multiples
from flwr_faa.errors import ArgumentValueError, FlwrAnomalyError

#: Largest bound: 4,096 giant steps over the largest table, some 20 ms for a value that is not there.
MAX_BOUND = 2**33
_SPAN = 256  # the table grows in blocks of 2 * _SPAN + 1 values around a centre
_BLOCK = 2 * _SPAN + 1
_CHUNK = 128  # giant steps at a time: early ones are likelier
_MASK = 2**64 - 1
_MAGIC = b"flwr-faa dlog 1\n"

logger = logging.getLogger(__name__)


class OutOfRange(FlwrAnomalyError, ValueError):  # noqa: N818 - what happened, not what kind of error
    """A value is not within its bound."""


@dataclass(frozen=True, eq=False)
class _Table:
    """``keys`` sorted; ``values[i]`` is the u with fingerprint ``keys[i]``; u runs over 0 .. size - 1."""

    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.uint32]

    def find(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the u of every key, -1 where there is none."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.values[at].astype(np.int64), -1)


class DiscreteLog:
    """Solver for one group. Tables are built when first needed, and kept on disk.

    Parameters
    ----------
    group : Group
    cache : Path or None
        Where tables are kept; by default ``flwr-anomaly`` in ``XDG_CACHE_HOME`` or ``~/.cache``. A directory that
        cannot be used costs only the time to build the table again.
    """

    def __init__(self, group: Group, cache: Path | None = None) -> None:
        self.group, self.cache = group, cache
        self._lock = threading.Lock()
        self._table: _Table | None = None
        self._steps: list[tuple[int, int]] = []  # affine (k * stride) g, k = 1, 2, ..
        self._last: Point = group.identity

    def solve(self, points: Sequence[Point], bound: int) -> npt.NDArray[np.int64]:
        """Return the v with ``points[i] = v[i] * generator`` and \\|v\\| <= bound.

        Raises
        ------
        OutOfRange
            Some point has no such v.
        ValueError
            The bound is negative or above ``MAX_BOUND``.
        """
        if not 0 <= bound <= MAX_BOUND:
            raise ArgumentValueError(f"expected a bound from 0 to {MAX_BOUND}, got {bound}")
        with self._lock:
            return self._solve(points, bound)

    def _solve(self, points: Sequence[Point], bound: int) -> npt.NDArray[np.int64]:
        result = np.zeros(len(points), np.int64)
        if not points:
            return result
        near = self._grow(bound).find(self.group.fingerprints(points))
        seen = near >= 0
        hits = np.flatnonzero(seen)
        result[hits], sure = self._settle([points[i] for i in hits.tolist()], near[hits])
        for i in np.flatnonzero(~seen).tolist() + hits[~sure].tolist():
            result[i] = value = self._far(points[i], bound)
            if value > bound:
                break
        wrong = np.flatnonzero(np.abs(result) > bound)
        if len(wrong):
            raise OutOfRange(f"expected |value| <= {bound}, got none such at position {wrong[0]} of {len(points)}")
        return result

    def _settle(
        self, points: Sequence[Point], sizes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Find the signs of absolute values, and check that each point is that value at all."""
        distinct, which = np.unique(sizes, return_inverse=True)
        known = multiples(self.group, self.group.generator, distinct.tolist())
        signs = np.zeros(len(points), np.int64)
        for i, (p, j) in enumerate(zip(points, which.tolist(), strict=True)):
            signs[i] = 1 if p == known[j] else -1 if p == self.group.neg(known[j]) else 0
        return signs * sizes, signs != 0

    def _far(self, point: Point, bound: int) -> int:
        """Search for the value by giant steps; return bound + 1 if there is none."""
        table = self._grow(bound)
        stride = 2 * len(table.keys) - 1
        count = -(-(bound - len(table.keys) + 1) // stride)
        (centre,) = self.group.coordinates([point])
        for start in range(0, count, _CHUNK):
            steps = self._giant_steps(min(start + _CHUNK, count), stride)[start:]
            near = table.find(_neighbours(self.group.prime, centre, steps))
            for j in np.flatnonzero(near >= 0).tolist():
                # point -+ k stride g = +-u g
                base = (start + 1 + j) * stride if j < len(steps) else -(start + 1 + j - len(steps)) * stride
                values = [base + int(near[j]), base - int(near[j])]
                for value, p in zip(values, multiples(self.group, self.group.generator, values), strict=True):
                    if p == point:
                        return value
        return bound + 1

    def _giant_steps(self, count: int, stride: int) -> list[tuple[int, int]]:
        if len(self._steps) < count:
            (step,) = multiples(self.group, self.group.generator, [stride])
            more = list(accumulate(repeat(step, count - len(self._steps)), self.group.add, initial=self._last))[1:]
            self._steps += self.group.coordinates(more)
            self._last = more[-1]
        return self._steps[:count]

    def _grow(self, bound: int) -> _Table:
        blocks = _blocks(bound)
        if self._table is None or len(self._table.keys) < _size(blocks):
            name = f"dlog-{self.group.curve}-{blocks}.bin"
            self._table = self._read(name, _size(blocks)) or self._write(name, _build(self.group, blocks))
            self._steps, self._last = [], self.group.identity
        return self._table

    def _read(self, name: str, size: int) -> _Table | None:
        try:
            data = (self.cache or _cache()).joinpath(name).read_bytes()
        except (OSError, RuntimeError):
            return None
        head = len(_MAGIC) + 32
        body = memoryview(data)[head:]
        if len(body) != 12 * size or data[:head] != _MAGIC + hashlib.sha256(body).digest():
            logger.warning("%s is corrupt; building it again", name)
            return None
        return _Table(np.frombuffer(body, "<u8", size), np.frombuffer(body, "<u4", size, 8 * size))

    def _write(self, name: str, table: _Table) -> _Table:
        body = table.keys.astype("<u8").tobytes() + table.values.astype("<u4").tobytes()
        try:
            directory = self.cache or _cache()
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=directory, prefix=name, delete=False) as file:
                file.write(_MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(file.name, directory / name)  # atomic: a reader sees the old file or the whole new one
        except (OSError, RuntimeError) as error:
            logger.debug("%s not kept: %s", name, error)
        return table


@functools.cache
def solver(group: Group) -> DiscreteLog:
    """Return the process's solver for a group, with the user's cache."""
    return DiscreteLog(group)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "flwr-anomaly"


def _blocks(bound: int) -> int:
    """Return the blocks of the table for a bound: all of it up to 2^16, then twice as many for 3 bits more, to 2^20."""
    bits = max(bound - 1, 1).bit_length()
    return 1 << max(0, (bits if bits <= 16 else min(20, 16 + -(-(bits - 16) // 3))) - 9)


def _size(blocks: int) -> int:
    return 1 + _SPAN + blocks * _BLOCK


def _build(group: Group, blocks: int) -> _Table:
    offsets = list(accumulate(repeat(group.generator, _SPAN), group.add))
    pairs = group.coordinates(offsets)
    (step,) = multiples(group, group.generator, [_BLOCK])
    centre, small = step, np.arange(_SPAN + 1)
    keys, values = [np.array([0] + [x & _MASK for x, _ in pairs], np.uint64)], [small]
    near = small[1:]
    for block in range(1, blocks + 1):
        ((x, y),) = group.coordinates([centre])
        keys += [np.array([x & _MASK], np.uint64), _neighbours(group.prime, (x, y), pairs)]
        values.append(block * _BLOCK + np.concatenate([[0], -near, near]))
        centre = group.add(centre, step)
    flat = np.concatenate(keys)
    order = np.argsort(flat)
    return _Table(flat[order], np.concatenate(values).astype(np.uint32)[order])


def _neighbours(prime: int, centre: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint64]:
    """Return the fingerprints of centre - o for every o, then of centre + o; all 0 where o is plus or minus the centre.

    One of the two is then the identity, whose fingerprint is 0, so nothing is missed.
    """
    x, y = centre
    gaps = [ox - x or 1 for ox, _ in offsets]
    products = list(accumulate(gaps, lambda u, v: u * v % prime, initial=1))
    inverse = pow(products[-1], -1, prime)
    minus, plus = [0] * len(gaps), [0] * len(gaps)
    for i in range(len(gaps) - 1, -1, -1):
        ox, oy = offsets[i]
        if ox != x:
            slope = inverse * products[i] % prime
            inverse = inverse * gaps[i] % prime
            minus[i] = (pow((oy + y) * slope, 2, prime) - x - ox) % prime & _MASK
            plus[i] = (pow((oy - y) * slope, 2, prime) - x - ox) % prime & _MASK
    return np.array(minus + plus, np.uint64)
