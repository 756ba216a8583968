"""Rules that combine all updates instead of choosing among them. None of them knows or needs who is malicious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.geometry import Cloud
from flwr_faa.replies import kernels
from flwr_faa.replies.rows import WIDTH, runs, width_of
from flwr_faa.replies.updates import Batch

Vector = npt.NDArray[np.float64]


def median(batch: Batch, rows: Sequence[int]) -> Vector:
    """Return the coordinate-wise median (Yin et al., ICML 2018): ``g[c] = median_i g_i[c]``.

    The mean of the middle two if n is even, in float64. Weights are ignored, as in Flower's. O(n d log^2 n).
    """
    n = len(rows)
    return mean_between(batch, rows, (n - 1) // 2, n // 2 + 1)


def trimmed_mean(batch: Batch, rows: Sequence[int], *, share: float) -> Vector:
    """Return the coordinate-wise mean without the b lowest and the b highest values (Yin et al., ICML 2018).

    ``b = round(share * n)``, less if nothing were left; Flower cuts ``int(beta * n)``, which for beta = .29 and n = 100
    is 28. Weights are ignored, as there. O(n d log^2 n).
    """
    cut = _cut(len(rows), share)
    return mean_between(batch, rows, cut, len(rows) - cut)


def mean_between(batch: Batch, rows: Sequence[int], low: int, high: int) -> Vector:
    """Return for each column the mean of its values of the ranks ``low`` to ``high - 1``, read piece by piece."""
    found, width = np.empty(batch.layout.size), width_of(len(rows), WIDTH)
    fast, memory = kernels.fastest(len(rows) * batch.layout.size), np.empty(len(rows) * width, batch.rows.dtype)
    for columns in runs(0, batch.layout.size, width):
        wide = columns.stop - columns.start
        x = memory[: len(rows) * wide].reshape(len(rows), wide)
        batch.rows.read(rows, columns, x)
        fast.between(x, low, high, found[columns])
    return found


def geometric_median(batch: Batch, rows: Sequence[int], *, tolerance: float = 1e-12, steps: int = 1000) -> Vector:
    """Return ``argmin_z sum_i a_i ||g_i - z||``, by smoothed Weiszfeld (RFA; Pillutla et al. 2022).

        z <- sum_i b_i g_i / sum_i b_i,   b_i = a_i / max(nu, ||g_i - z||)

    until the objective falls by less than ``tolerance`` of itself. ``a_i`` are the pipeline's weights; nu is 1e-7 of
    the largest distance, which is what a float64 Gram matrix resolves. z stays in the convex hull, so all that moves
    are n coefficients: ``||g_i - z||^2 = (D b)_i - b'Db / 2`` with the squared distances D and coefficients b that sum
    to one. One pass over the updates, then O(n^2) a step, whatever d.
    """
    cloud, rows = Cloud.of(batch), list(rows)
    place = cloud.place[rows]
    true = replace(cloud, unit=None)  # the cloud's own are shrunk if huge
    squared = true.whole.squared[place[:, None], place]
    weights = batch.weights[rows] / batch.weights[rows].sum()
    floor = 1e-7 * float(np.sqrt(squared.max()))
    beta, before = weights, np.inf
    for _ in range(steps if floor > 0 else 0):
        product = squared @ beta
        distance = np.sqrt(np.maximum(product - beta @ product / 2, floor**2))
        objective = float(weights @ distance)
        if before - objective <= tolerance * objective:
            break
        before, beta = objective, weights / distance
        beta = beta / beta.sum()
    total = np.zeros(batch.layout.size)
    for row, coefficient in zip(rows, beta, strict=True):
        total += coefficient * batch.updates[row]
    return total


def trimmed(vectors: npt.NDArray[np.float64], share: float) -> Vector:
    """Return the :func:`trimmed_mean` of vectors that need not be anybody's updates, shape (n, d)."""
    cut, found = _cut(len(vectors), share), np.empty(vectors.shape[1])
    kernels.fastest(vectors.size).between(vectors, cut, len(vectors) - cut, found)
    return found


def _cut(n: int, share: float) -> int:
    return min(round(share * n), (n - 1) // 2)
