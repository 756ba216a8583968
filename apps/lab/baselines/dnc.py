"""Divide and Conquer (Shejwalkar and Houmansadr, NDSS 2021, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.lab.baselines.rules import pieces
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.replies.updates import Batch


@dataclass(frozen=True)
class DnC(Detector):
    """Suspects the updates that stretch the batch most along its principal direction.

        g' = g on b columns drawn at random;   c_i = g'_i - mean_j g'_j;   v = top right singular vector of c
        s_i = <c_i, v>^2;   the f updates with the largest s_i are removed

    ``f = round(share * n)``, the true share, as with Krum; the paper's c, a multiple of f, is 1. The paper repeats this
    for several draws of columns and keeps who is never removed; here there is one draw, which for models of up to b
    parameters is all columns, where repeating changes nothing. The n numbers ``<c_i, v>`` come from the n x n Gram
    matrix, whose top eigenvector holds them. O(n^2 b).

    Parameters
    ----------
    share : float
        Of attackers.
    columns : int (default: 10000)
        b.
    """

    share: float
    columns: int = 10_000

    def detect(self, batch: Batch, seed: int) -> Detection:
        """Score = s_i; ties go by content, then by node id. The threshold is the highest score that is kept."""
        n, d, cloud = len(batch), batch.layout.parameters.stop, Cloud.of(batch)
        drawn = np.arange(d)
        if d > self.columns:  # sorted, because a matrix is faster read in order
            drawn = np.sort(np.random.default_rng(seed % 2**63).choice(d, self.columns, replace=False))
        c, done = np.empty((n, len(drawn))), 0
        for columns, x in pieces(batch, batch.canonical):
            these = drawn[done : np.searchsorted(drawn, columns.stop)] - columns.start
            c[:, done : done + len(these)] = x[:, these]
            done += len(these)
        c -= c.mean(axis=0)
        values, vectors = np.linalg.eigh(c @ c.T)
        scores = np.asarray(cloud.by_row(max(float(values[-1]), 0.0) * vectors[:, -1] ** 2))
        order, removed = ranked(batch, scores), min(round(self.share * n), n - 1)
        reasons = tuple(f"DnC's score {s:.4g}" for s in scores)
        return Detection(scores, float(scores[order[removed]]), tuple(order[:removed]), reasons)
