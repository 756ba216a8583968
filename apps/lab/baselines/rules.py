"""Rules that combine all updates instead of choosing among them. None of them knows or needs who is malicious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg

from flwr_faa.detection.geometry import Cloud
from flwr_faa.replies.updates import Batch, Floats

Vector = npt.NDArray[np.float64]


def median(batch: Batch, rows: Sequence[int]) -> Vector:
    """Return the coordinate-wise median (Yin et al., ICML 2018): ``g[c] = median_i g_i[c]``.

    The mean of the middle two if n is even. Flower's own function, on updates. Weights are ignored, as there.
    """
    return np.asarray(aggregate_median(_results([batch.updates[row] for row in rows]))[0], np.float64)


def trimmed_mean(batch: Batch, rows: Sequence[int], *, share: float) -> Vector:
    """Return the coordinate-wise mean without the b lowest and the b highest values (Yin et al., ICML 2018).

    ``b = round(share * n)``, less if nothing were left. Flower's own function, on updates; it cuts ``int(beta * n)``,
    which for beta = .29 and n = 100 is 28, so it gets a beta that means b. Weights are ignored.
    """
    return trimmed([batch.updates[row] for row in rows], share)


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


def trimmed(vectors: Sequence[Floats], share: float) -> Vector:
    """Return the :func:`trimmed_mean` of vectors that need not be anybody's updates."""
    n = len(vectors)
    cut = min(round(share * n), (n - 1) // 2)
    return np.asarray(aggregate_trimmed_avg(_results(vectors), (cut + 0.25) / n)[0], np.float64)


def _results(vectors: Sequence[Floats]) -> list[tuple[list[Vector], int]]:
    return [([vector.astype(np.float64)], 1) for vector in vectors]
