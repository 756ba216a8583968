r"""Points of which nobody knows a discrete logarithm to any other: the bases of commitments (``pedersen.py``).

A multiple of the group's generator by a hash would not do: everybody would know its logarithm, and could open a
commitment to any value. So the x coordinate itself is hashed. Derivation, version 1, for a curve over F_p with
``p = 3 mod 4``, and an index i (0 is the base of the randomness, 1 .. n are those of the values)::

    x = SHA-512("flwr-anomaly/generator/1\n" | curve | "\n" | i | "\n" | counter) mod p,  counter = 0, 1, ...
    y = (x^3 + ax + b)^((p + 1) / 4), the even one of the two roots; the next counter if y^2 is not x^3 + ax + b
    G_i = h (x, y),  h = 1 for P-256 and 0xd201000000010001 for BLS12-381 (RFC 9380, 8.8.1)

Numbers are in decimal, the digest is big-endian. 512 bits over 381 leave x uniform up to 2^-131. The loop takes a
different time for each index, which tells nothing: all of this is public. ``tests/crypto/vectors`` holds points of both
curves, made by a script that shares no code with this module.

The bases are computed once a process. A table of their multiples ``2^(wi) G_j`` is not kept: for 784 values it saved 6
of 25 ms a product with Charm, where building it takes .4 s and 20,000 points, and nothing with arkworks.
"""

from __future__ import annotations

import functools
import hashlib

from flwr_faa.crypto.group import Group, Point

_DOMAIN = "flwr-anomaly/generator/1"


@functools.lru_cache(maxsize=8)
def generators(group: Group, count: int) -> tuple[Point, ...]:
    """Return the bases ``G_0 .. G_count``, computed once a process.

    Parameters
    ----------
    group : Group
    count : int
        Length of the vectors that are committed to.

    Returns
    -------
    tuple of Point, length count + 1
        ``G_0`` is the base of the randomness.

    Examples
    --------
    >>> from flwr_faa.crypto.backends import open_group
    >>> len(generators(open_group("arkworks"), 3))
    4
    """
    return tuple(_generator(group, i) for i in range(count + 1))


def _generator(group: Group, index: int) -> Point:
    p = group.prime
    half = group.point_size // 2
    counter = 0
    while True:
        name = f"{_DOMAIN}\n{group.curve}\n{index}\n{counter}".encode()
        x = int.from_bytes(hashlib.sha512(name).digest(), "big") % p
        square = (x * x * x + group.a * x + group.b) % p
        y = pow(square, (p + 1) // 4, p)
        if y * y % p == square:
            y = y if y % 2 == 0 else p - y
            point = group.load(x.to_bytes(half, "big") + y.to_bytes(half, "big"))
            return group.clear_cofactor(point)
        counter += 1
