"""Nearest-neighbour mixing before a rule (Allouah et al., AISTATS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.lab.baselines.rules import Vector, cut, mean_between, squared_distances
from flwr_faa.replies.updates import Batch


def nnm_trimmed_mean(batch: Batch, rows: Sequence[int], *, share: float) -> Vector:
    """Return the coordinate-wise trimmed mean, not of the updates but of means of neighbours.

        y_i = 1/(n - f) sum of the n - f updates nearest to g_i, itself among them;   trimmed_mean(y_1 .. y_n)

    Honest updates that differ much become alike by mixing (their Algorithm 2), so the trimmed mean loses less of them.
    ``f = round(share * n)``, the true share; b = f values are cut on either side, as by ``trimmed_mean`` here. Ties
    between neighbours go by the order of the rows. Weights are ignored. O(n^2 d).
    """
    n, squared = len(rows), squared_distances(batch, rows)
    np.fill_diagonal(squared, -1.0)  # a clone is as near as oneself, but not before
    nearest = np.argsort(squared, axis=1, kind="stable")[:, : max(1, n - round(share * n))]
    mix = np.zeros((n, n))
    np.put_along_axis(mix, nearest, 1 / nearest.shape[1], axis=1)
    low = cut(n, share)
    return mean_between(batch, rows, low, n - low, mix)
