"""What a key is issued for: a random combination of what a client has stated, drawn by the authority.

A server that could choose what a key opens would pack several values of a sample into one. So it names functions whose
values were stated, of which rows, and a seed of its own; the weights of the combination are a hash of all that under a
secret of the authority. The server cannot steer them, the client cannot foresee them, and the same request has the same
key, so that it may be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from flwr_faa.authority.information import RHO_BITS
from flwr_faa.crypto import ipfe

_DOMAIN = b"flwr-anomaly/authority/rho/1\n"
_BYTES = 8  # of the hash for one weight: biased by 2^-40


@dataclass(frozen=True, eq=False)
class Stated:
    """Functions whose values a client has stated of some of its samples.

    Attributes
    ----------
    root : bytes
        The registered set.
    rows : sequence of int
        These samples.
    functions : sequence of integer vectors
    units : int
        So many of them are units of a layer whose gradient, summed over the rows, is shown too.
    whole : bool
        Everything is known of the rows by what was stated: the outputs of a convolution.
    """

    root: bytes
    rows: Sequence[int]
    functions: Sequence[Sequence[int]]
    units: int = 0
    whole: bool = False


@dataclass(frozen=True)
class CheckKey:
    """The key for ``combine(weights(seed, len(functions)), functions)``. ``secret`` is not shown by ``repr``."""

    seed: bytes
    key: ipfe.FunctionalKey


def weights(seed: bytes, count: int) -> list[int]:
    """The weights rho, from 1 to below ``2^RHO_BITS``. Not zero: that would overlook a single wrong claim."""
    raw = hashlib.shake_256(_DOMAIN + seed).digest(_BYTES * count)
    draws = (int.from_bytes(raw[i : i + _BYTES], "big") for i in range(0, len(raw), _BYTES))
    return [draw % (2**RHO_BITS - 1) + 1 for draw in draws]


def combine(rho: Sequence[int], functions: Sequence[Sequence[int]]) -> list[int]:
    """The function ``y = sum_k rho_k f_k``, exactly."""
    total = [0] * len(functions[0])
    for factor, function in zip(rho, functions, strict=True):
        total = [t + factor * int(v) for t, v in zip(total, function, strict=True)]
    return total
