"""The interface of a prime-order group. The paper builds on Charm (Section VI-C); see ``backends.py``.

Written additively. A point is whatever object its back end makes; only the back end looks inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

#: A point of some back end, opaque to everything but its group.
Point = Any


class Group(Protocol):
    """A group of prime order on the curve y^2 = x^3 + ax + b over F_p, and what a back end can do in it."""

    name: str
    #: For messages and cache files.
    curve: str
    #: The back end's byte on the wire.
    code: int
    order: int
    prime: int
    a: int
    b: int
    #: Bytes of an encoded point.
    point_size: int
    #: What one multiplication costs, in additions: decides where a table pays.
    mul_cost: int
    generator: Point
    identity: Point

    def __hash__(self) -> int: ...
    def add(self, p: Point, q: Point, /) -> Point: ...
    def neg(self, p: Point, /) -> Point: ...
    def mul(self, p: Point, scalar: int) -> Point: ...
    @property
    def multiexp(self) -> Callable[[Sequence[Point], Sequence[int]], Point] | None:
        """Sum of ``scalars[i] * points[i]``, all scalars in [1, order), if the back end has its own.

        Then one large product beats many small ones. ``msm`` is the one for callers.
        """
        ...

    def coordinates(self, points: Sequence[Point]) -> list[tuple[int, int]]:
        """Return the affine (x, y); (0, 0), which lies on neither curve, is the identity."""
        ...

    def fingerprints(self, points: Sequence[Point]) -> npt.NDArray[np.uint64]:
        """Return the low 64 bits of x: the same for p and -p, and 0 for the identity."""
        ...

    def load(self, raw: bytes) -> Point:
        """Return a point from bytes already known to lie on the curve; perhaps outside the subgroup."""
        ...

    def in_subgroup(self, points: Sequence[Point]) -> bool:
        """Return whether all points, on the curve, are in the group."""
        ...

    def clear_cofactor(self, p: Point) -> Point:
        """Return a fixed multiple of a point on the curve that lies in the group."""
        ...
