"""What the spot check does with a client's claims besides testing them in the exponent: weights, and a bound."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.authority.check import CheckKey, Stated, weights
from flwr_faa.crypto import ipfe
from flwr_faa.verification.spotcheck.first_layer import Integers
from flwr_faa.verification.spotcheck.messages import VECTOR_MAX
from flwr_faa.verification.spotcheck.recompute import Contradiction

#: Bits of the server's weights sigma. With the authority's rho, of 24, false claims pass with probability at most
#: 2^-23 + 2^-24, in an attempt that costs the node its membership. With Charm sigma decides what a check costs: 23 bits
#: are five windows of ``groups.combine``.
SIGMA_BITS = 23
#: Hoeffding: an in-range vector exceeds its bound on \|<x, s>\| with probability 2 exp(-DEVIATIONS^2 / 2) = 3e-14.
DEVIATIONS = 8.0


@dataclass(frozen=True, eq=False)
class Ask:
    """One step's claims, as the authority is asked for a key that tests them.

    Attributes
    ----------
    stated : Stated
        The functions, and the rows of the step's batch.
    values : integers, shape (b, k)
        Their values as claimed, by row.
    sigma : list of int
        The server's weight of each row.
    seed : bytes
        The server's part in the weights of the functions.
    """

    stated: Stated
    values: npt.NDArray[Any]
    sigma: list[int]
    seed: bytes

    @classmethod
    def about(cls, stated: Stated, values: npt.NDArray[Any]) -> Ask:
        """With weights and seed drawn now, when the claims are in."""
        return cls(stated, values, positive(len(values), SIGMA_BITS).tolist(), secrets.token_bytes(32))

    def claim(self, ciphertexts: Mapping[int, ipfe.Ciphertext], key: CheckKey) -> ipfe.Claim:
        """What the key is to test: the values, combined as it is, of the rows' weighted sum."""
        combined = zip(
            self.sigma, combine_values(weights(key.seed, len(self.stated.functions)), self.values), strict=True
        )
        rows = [ciphertexts[row] for row in self.stated.rows]
        return ipfe.Claim(rows, self.sigma, key.key, sum(s * v for s, v in combined))


def combine_values(rho: Sequence[int], values: npt.NDArray[Any]) -> list[int]:
    """``values @ rho``, exactly."""
    return [sum(r * v for r, v in zip(rho, row, strict=True)) for row in values.tolist()]


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
    likely = DEVIATIONS * VECTOR_MAX * max_value * math.sqrt(s.shape[1])
    top = np.minimum(max_value * np.where(s > 0, s, 0).sum(1), likely)
    bottom = np.maximum(max_value * np.where(s < 0, s, 0).sum(1), -likely)
    flat = projections.reshape(len(projections), len(vectors), -1)
    if (flat.max(axis=(0, 2)) > top).any() or (flat.min(axis=(0, 2)) < bottom).any():
        raise Contradiction(f"the enrolled data are not from 0 to {max_value}")
