"""FoolsGold without memory, alone and with Krum (Fung, Yoon and Beschastnikh, RAID 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apps.lab.baselines.krum import krum_scores
from apps.lab.baselines.rules import Vector, combination
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.replies.updates import Batch

#: What the most different client's 1 becomes before the logit, as in the authors' code.
TOP = 0.99


@dataclass(frozen=True)
class FoolsGold(Detector):
    """Gives little weight to updates that point the same way: honest clients differ, sybils do not.

        c_ij = cos(g_i, g_j), c_ii = 0;   v_i = max_j c_ij
        pardon: c_ij <- c_ij v_i / v_j   where v_i < v_j
        a_i = clip(1 - max_j c_ij, 0, 1);   a_i <- a_i / max_j a_j
        a_i <- clip(kappa (ln(a_i / (1 - a_i)) + .5), 0, 1)   with .99 for 1

    and the update is ``sum a_i g_i / sum a_i``. The authors add ``sum a_i g_i``, made for single gradients; with n
    local models that is a step n times too long. The cosines are taken over the classifier's columns, their "indicative
    features", or over all where a model has no classifier. No memory: LoMar's comparison forbids it (it needs to know
    who is who over rounds). O(n^2 d).

    As a detector it suspects whom it gives no weight, as a rule it averages the rest. If everybody has a twin, nobody
    is left and the global model stays; the authors' code divides by zero.

    Parameters
    ----------
    kappa : float (default: 1.0)
        Confidence.
    krum : float (default: 0.0)
        FG+Krum: that share of the clients, those with the highest Krum scores, get no weight either.
    """

    kappa: float = 1.0
    krum: float = 0.0

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Score = 1 - a_i, before the weights are normalised."""
        scores = 1.0 - self.weights(batch)
        suspects = tuple(row for row in ranked(batch, scores) if scores[row] >= 1.0)
        reasons = tuple(f"FoolsGold's weight {1 - s:.3g}" for s in scores)
        return Detection(scores, float(np.nextafter(1.0, 0.0)), suspects, reasons)

    def __call__(self, batch: Batch, rows: Sequence[int]) -> Vector:
        """Return the weighted mean of the rows."""
        weights = self.weights(batch)[list(rows)]
        return combination(batch, rows, weights / max(weights.sum(), np.finfo(np.float64).tiny))

    def weights(self, batch: Batch) -> Vector:
        """Return a_i of every row."""
        weights = foolsgold(cosines(batch), self.kappa)
        if drop := round(self.krum * len(batch)):
            weights[ranked(batch, krum_scores(batch, self.krum))[:drop]] = 0.0
        return weights


def cosines(batch: Batch) -> Vector:
    """Return the cosines between all rows; 0 where one of them is zero."""
    cloud = Cloud.of(batch)
    block = cloud.classifier or cloud.whole
    lengths = np.multiply.outer(block.norms, block.norms)
    products = (np.add.outer(block.norms**2, block.norms**2) - block.squared) / 2
    by_place = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(by_place[cloud.place[:, None], cloud.place])


def foolsgold(cosine: Vector, kappa: float = 1.0) -> Vector:
    """Return the weights that follow from the cosines."""
    n = len(cosine)
    if n == 1:
        return np.ones(1)
    c = np.where(np.eye(n, dtype=bool), 0.0, cosine)
    v = c.max(axis=1)
    lower = v[:, None] < v[None, :]
    c = c * np.divide(v[:, None], v[None, :], out=np.ones((n, n)), where=lower & (v[None, :] != 0))
    a = np.clip(1.0 - c.max(axis=1), 0.0, 1.0)
    if a.max() < 1e-9:  # a twin's cosine is 1 to rounding
        return np.zeros(n)
    a = a / a.max()
    a[a == 1.0] = TOP
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(kappa * (np.log(a / (1.0 - a)) + 0.5), 0.0, 1.0))
