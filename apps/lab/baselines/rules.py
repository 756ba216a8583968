"""Rules that combine all updates instead of choosing among them. None of them knows or needs who is malicious."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

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
    low = cut(len(rows), share)
    return mean_between(batch, rows, low, len(rows) - low)


def mean_between(batch: Batch, rows: Sequence[int], low: int, high: int, mix: Vector | None = None) -> Vector:
    """Return for each column the mean of its values of the ranks ``low`` to ``high - 1``.

    ``mix``, shape (n, n), makes of the updates the vectors of which this is taken, if it is given.
    """
    found, fast = np.empty(batch.layout.size), kernels.fastest(len(rows) * batch.layout.size)
    for columns, x in pieces(batch, rows):
        fast.between(x if mix is None else mix @ x, low, high, found[columns])
    return found


def combination(batch: Batch, rows: Sequence[int], shares: Sequence[float] | Vector) -> Vector:
    """Return ``sum_i share_i g_i`` over some rows, in float64."""
    total, fast = np.zeros(batch.layout.size), kernels.fastest(len(rows) * batch.layout.size)
    for columns, x in pieces(batch, rows):
        fast.add(total[columns], list(x), list(shares))
    return total


def lengths(batch: Batch, rows: Sequence[int], centre: Vector | None = None) -> Vector:
    """Return ``||g_i - centre||`` of some rows. Only parameters count: running statistics have other units."""
    found, width = np.zeros(len(rows)), batch.layout.parameters.stop
    for columns, x in pieces(batch, rows):
        off = x[:, : max(0, width - columns.start)].astype(np.float64)
        if centre is not None:
            off -= centre[columns][: off.shape[1]]
        found += np.einsum("ij,ij->i", off, off)
    return np.sqrt(found)


def pieces(batch: Batch, rows: Sequence[int]) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield all columns of some rows, so many at a time that they stay in the cache; in the same memory each time."""
    width = width_of(len(rows), WIDTH)
    memory = np.empty(len(rows) * width, batch.rows.dtype)
    for columns in runs(0, batch.layout.size, width):
        x = memory[: len(rows) * (columns.stop - columns.start)].reshape(len(rows), -1)
        batch.rows.read(rows, columns, x)
        yield columns, x


def squared_distances(batch: Batch, rows: Sequence[int]) -> Vector:
    """Return those between some rows as they are, shape (n, n); a cloud's own are of what is shrunk if it is huge."""
    cloud = Cloud.of(batch)
    place = cloud.place[list(rows)]
    squared = (cloud if cloud.unit is None else replace(cloud, unit=None)).whole.squared
    return np.asarray(squared[place[:, None], place], np.float64)


def distances_to(squared: Vector, shares: Vector) -> Vector:
    """Return how far points are from ``sum_i share_i p_i``, from their squared distances D; shares sum to one.

    ||p_i - z||^2 = (D b)_i - b'Db / 2
    """
    product = squared @ shares
    return np.sqrt(np.maximum(product - shares @ product / 2, 0.0))


def geometric_median(batch: Batch, rows: Sequence[int], *, tolerance: float = 1e-12, steps: int = 1000) -> Vector:
    """Return ``argmin_z sum_i a_i ||g_i - z||``, by smoothed Weiszfeld (RFA; Pillutla et al. 2022).

        z <- sum_i b_i g_i / sum_i b_i,   b_i = a_i / max(nu, ||g_i - z||)

    until the objective falls by less than ``tolerance`` of itself. ``a_i`` are the pipeline's weights; nu is 1e-7 of
    the largest distance, which is what a float64 Gram matrix resolves. z stays in the convex hull, so all that moves
    are n coefficients that sum to one (:func:`distances_to`). Two passes over the updates, and O(n^2) a step.
    """
    squared, weights = squared_distances(batch, rows), batch.weights[list(rows)] / batch.weights[list(rows)].sum()
    floor = 1e-7 * float(np.sqrt(squared.max()))
    beta, before = weights, np.inf
    for _ in range(steps if floor > 0 else 0):
        distance = np.maximum(distances_to(squared, beta), floor)
        objective = float(weights @ distance)
        if before - objective <= tolerance * objective:
            break
        before, beta = objective, weights / distance
        beta = beta / beta.sum()
    return combination(batch, rows, beta)


def cut(n: int, share: float) -> int:
    """Return how many of n values a trimmed mean cuts on either side."""
    return min(round(share * n), (n - 1) // 2)
