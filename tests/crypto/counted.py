"""A group whose additions can be counted: integers modulo a prime. Products are cheap, so any size can be tried."""

from __future__ import annotations

import numpy as np


class Counted:
    """The integers modulo 2^255 - 19, written additively, and what was done with them in additions.

    A point is its own logarithm, so every result can be checked.
    """

    name, curve, code, point_size, mul_cost = "counted", "none", 0, 64, 44
    order = prime = 2**255 - 19
    generator, identity, multiexp = 1, 0, None

    def __init__(self) -> None:
        self.cost = 0

    def add(self, p: int, q: int) -> int:
        self.cost += 1
        return (p + q) % self.order

    def neg(self, p: int) -> int:
        return -p % self.order

    def mul(self, p: int, scalar: int) -> int:
        self.cost += self.mul_cost
        return p * scalar % self.order


def scalars(count: int, bits: int, seed: int = 0) -> list[int]:
    """Random integers of that many bits, the largest one included, every second one negative."""
    draw = np.random.default_rng(seed)
    found = [int.from_bytes(draw.bytes(bits // 8 + 1), "little") % 2**bits for _ in range(count - 1)]
    return [k if i % 2 else -k for i, k in enumerate([2**bits - 1, *found])]


def windows(bits: int, width: int) -> int:
    """How many digits of a width a number has; two bits are spare for the sign."""
    return -(-(bits + 2) // width)
