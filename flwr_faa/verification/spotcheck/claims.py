"""What the spot check does with a client's claims besides testing whether they are true: a bound on what may be."""

from __future__ import annotations

import math

import numpy as np

from flwr_faa.crypto.exact import Integers
from flwr_faa.verification.spotcheck.messages import VECTOR_MAX
from flwr_faa.verification.spotcheck.recompute import Contradiction

#: Hoeffding: an in-range vector exceeds its bound on \|<x, s>\| with probability 2 exp(-DEVIATIONS^2 / 2) = 3e-14.
DEVIATIONS = 8.0


def check_values(samples: Integers, max_value: int) -> None:
    """Refuse samples that are not from 0 to ``max_value``. Raises Contradiction."""
    if samples.size and not 0 <= samples.min() <= samples.max() <= max_value:
        raise Contradiction(f"the enrolled data are not from 0 to {max_value}")


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
    top = np.minimum(max_value * np.maximum(s, 0).sum(1), likely)
    bottom = np.maximum(max_value * np.minimum(s, 0).sum(1), -likely)
    flat = projections.reshape(len(projections), len(vectors), -1)
    if (flat.max(axis=(0, 2)) > top).any() or (flat.min(axis=(0, 2)) < bottom).any():
        raise Contradiction(f"the enrolled data are not from 0 to {max_value}")
