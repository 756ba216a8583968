"""What the spot check does with a client's claims besides testing them in the exponent: weights, and a bound."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np

from flwr_faa.verification.spotcheck.first_layer import Integers
from flwr_faa.verification.spotcheck.messages import VECTOR_BITS
from flwr_faa.verification.spotcheck.recompute import Contradiction

#: Bits of the server's weights. False claims pass with probability at most 2^-23 + 2^-32, in an attempt that costs the
#: node its membership. With Charm sigma decides what a check costs: 23 bits are five windows of ``groups.combine``.
SIGMA_BITS, RHO_BITS = 23, 32
#: Hoeffding: an in-range vector exceeds its bound on \|<x, s>\| with probability 2 exp(-DEVIATIONS^2 / 2) = 3e-14.
DEVIATIONS = 8.0


@dataclass(frozen=True, eq=False)
class Ask:
    """One step's claims: the function whose key tests them, and what stating them has disclosed of which rows.

    Attributes
    ----------
    root, rows
        The registered data set, and the rows of the step's batch.
    disclosed : list of list of int
        The functions whose values were stated of each of these rows.
    units : int
        How many of them are units of the layer, of which the gradient was shown.
    y : list of int
        The function whose key tests the claims.
    sigma, combined
        Weight of each row, and the claimed value of y of their weighted sum.
    """

    root: bytes
    rows: list[int]
    disclosed: list[list[int]]
    units: int
    y: list[int]
    sigma: list[int]
    combined: int


def positive(count: int, bits: int) -> Integers:
    """Random integers in [1, 2^bits), from the operating system. Not zero: that would overlook a single wrong entry."""
    draw = np.frombuffer(secrets.token_bytes(8 * count), "<u8") % (2**bits - 1)
    return np.asarray(draw.astype(np.int64) + 1)


def check_range(projections: Integers, vectors: Integers, max_value: int) -> None:
    """Refuse projections that no samples from 0 to ``max_value`` have, or only with the probability stated above.

    Parameters
    ----------
    projections : int64, shape (b, k, *spatial)
        Claimed ``<x, s>``.
    vectors : int64, shape (k, *kernel)
        The s, which were unknown when x was encrypted.
    max_value : int

    Raises
    ------
    Contradiction
    """
    s = vectors.reshape(len(vectors), -1).astype(np.float64)
    likely = DEVIATIONS * 2.0 ** (VECTOR_BITS - 1) * max_value * math.sqrt(s.shape[1])
    top = np.minimum(max_value * np.where(s > 0, s, 0).sum(1), likely)
    bottom = np.maximum(max_value * np.where(s < 0, s, 0).sum(1), -likely)
    flat = projections.reshape(len(projections), len(vectors), -1)
    if (flat.max(axis=(0, 2)) > top).any() or (flat.min(axis=(0, 2)) < bottom).any():
        raise Contradiction(f"the enrolled data are not from 0 to {max_value}")
