"""Nearest-neighbour mixing before a rule (Allouah et al., AISTATS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.lab.baselines.rules import Vector, trimmed
from flwr_faa.detection.geometry import Cloud
from flwr_faa.replies.updates import Batch


def nnm_trimmed_mean(batch: Batch, rows: Sequence[int], *, share: float) -> Vector:
    """Return the coordinate-wise trimmed mean, not of the updates but of means of neighbours.

        y_i = 1/(n - f) sum of the n - f updates nearest to g_i, itself among them;   trimmed_mean(y_1 .. y_n)

    Honest updates that differ much become alike by mixing (their Algorithm 2), so the trimmed mean loses less of them.
    ``f = round(share * n)``, the true share; b = f values are cut on either side, as by ``trimmed_mean`` here. Ties
    between neighbours go by the order of the rows. Weights are ignored. O(n^2 d).
    """
    n, rows = len(rows), list(rows)
    cloud = Cloud.of(batch)
    place = cloud.place[rows]
    squared = cloud.whole.squared[place[:, None], place]
    np.fill_diagonal(squared, -1.0)  # a clone is as near as oneself, but not before
    nearest = np.argsort(squared, axis=1, kind="stable")[:, : max(1, n - round(share * n))]
    updates = batch.updates[rows].astype(np.float64)
    return trimmed(np.stack([updates[near].mean(axis=0) for near in nearest]), share)
