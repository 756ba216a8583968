"""The nearest neighbours of many updates, found approximately by an index, without looking at everybody.

First the updates are projected to ``DIMENSIONS`` random directions. That keeps distances to a tenth or so (Johnson and
Lindenstrauss 1984), and clones stay together. Then faiss takes the cells of an inverted file (IVF) that are nearest to
each update and looks for candidates there. The distances to the candidates are measured without projection. A neighbour
that is no candidate is missed, so a distance may be too large and is never too small.

An update is compared with about ``PROBES / CELLS`` times sqrt(n) others, and all updates with about n^1.5.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import MissingExtraError
from flwr_lomar.neighbourhood import Doubles, Floats

#: Directions that updates are projected to, and candidates for each update.
DIMENSIONS, CANDIDATES = 64, 12
#: Cells of the index, as a multiple of sqrt(n); cells that are searched; rounds of k-means, and updates a cell for it.
CELLS, PROBES, ROUNDS, TRAINED = 4, 16, 5, 64
#: How many numbers are gathered at a time to measure the candidates.
GATHERED = 2**24


def require_faiss() -> None:
    """Raise an error that says what to install, if faiss is not."""
    if find_spec("faiss") is None:
        raise MissingExtraError("faiss", "large", "LoMarDetector(approximate=True)")


def nearest_by_index(x: Floats, seed: int) -> tuple[Doubles, Doubles]:
    """Return the mean distances to the 1 and the 3 nearest others, as far as they are found, each of shape (n,).

    Parameters
    ----------
    x : ndarray, shape (n, d)
    seed : int
        Of the projection.
    """
    import faiss

    n, d = x.shape
    if d == 0:
        return np.zeros(n), np.zeros(n)
    low = projected(x, seed)
    cells = min(CELLS * math.isqrt(n), n // TRAINED)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(low.shape[1]), low.shape[1], max(1, cells))
    index.cp.niter, index.cp.max_points_per_centroid, index.nprobe = ROUNDS, TRAINED, PROBES
    index.train(low)
    index.add(low)
    _, found = index.search(low, CANDIDATES + 1)  # each finds itself, unless it has very many clones
    return nearest_of(x, found)


def projected(x: Floats, seed: int) -> npt.NDArray[np.float32]:
    """Return points on ``DIMENSIONS`` random directions, or as they are if they have no more columns."""
    d = x.shape[1]
    if d > DIMENSIONS:
        directions = np.random.default_rng(seed).standard_normal((d, DIMENSIONS), np.float32)
        x = x @ directions.astype(x.dtype)
    return np.ascontiguousarray(x, np.float32)


def nearest_of(x: Floats, found: npt.NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Return the mean distances of n points to the 1 and the 3 nearest of their candidates.

    Parameters
    ----------
    x : ndarray, shape (n, d), d >= 1
    found : ndarray of int, shape (n, at least 3)
        The candidates of each, by row. A point itself and negative numbers are none, and infinitely far.
    """
    n, d = x.shape
    nearest = np.empty((n, 3))
    height = max(1, GATHERED // (found.shape[1] * d))
    for start in range(0, n, height):
        rows = slice(start, min(start + height, n))
        others = found[rows]
        away = x[others] - x[rows, None]
        squared = np.einsum("ijk,ijk->ij", away, away)
        squared[(others == np.arange(rows.start, rows.stop)[:, None]) | (others < 0)] = np.inf
        nearest[rows] = np.sqrt(np.sort(squared, axis=1)[:, :3])
    return nearest[:, 0], nearest.mean(axis=1)
