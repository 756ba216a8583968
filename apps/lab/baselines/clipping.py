"""Rules that shorten updates: an attacker that is not recognised shall at least not pull far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flwr_faa.replies.updates import Batch

Vector = npt.NDArray[np.float64]


def norm_bounded(batch: Batch, rows: Sequence[int], *, bound: float = 1.0) -> Vector:
    """Average updates of bounded length (Sun, Kairouz, Suresh and McMahan 2019, "norm thresholding").

        sum_i a_i g_i min(1, M / ||g_i||)

    with the pipeline's weights a_i. The paper's M is a constant, found by looking at honest updates, whose length
    changes with model and round; here it is ``bound`` times the median length of the round. O(n d).
    """
    lengths = np.array([_length(batch, batch.updates[row]) for row in rows])
    shares = batch.weights[list(rows)] / batch.weights[list(rows)].sum() * _clip(lengths, bound)
    total = np.zeros(batch.layout.size)
    for row, share in zip(rows, shares, strict=True):
        total += share * batch.updates[row]
    return total


@dataclass
class CentredClipping:
    """Centred clipping (Karimireddy, He and Jaggi, ICML 2021, Algorithm 2): the mean of what is near the centre.

        v_l+1 = v_l + 1/n sum_i (g_i - v_l) min(1, tau / ||g_i - v_l||),   l = 0 .. steps - 1

    v_0 is what the last round ended with, 0 in the first: this rule remembers, so it serves one run. Departures: tau is
    ``radius`` times the median distance to v_l instead of a constant, for the same reason as above. The paper's
    workers send momentum, which is half of its proof; ours send local updates, as the training plan says. Weights
    are ignored. O(n d) a step.

    Parameters
    ----------
    radius : float (default: 1.0)
    steps : int (default: 3)
    """

    radius: float = 1.0
    steps: int = 3
    _centre: Vector | None = field(default=None, repr=False)

    def __call__(self, batch: Batch, rows: Sequence[int]) -> Vector:
        """Return the new centre."""
        centre = np.zeros(batch.layout.size) if self._centre is None else self._centre
        for _ in range(self.steps):
            keep = _clip(np.array([_length(batch, batch.updates[row] - centre) for row in rows]), self.radius)
            step = np.zeros_like(centre)
            for row, share in zip(rows, keep, strict=True):
                step += share * (batch.updates[row] - centre)
            centre = centre + step / len(rows)
        self._centre = centre
        return centre


def _clip(lengths: Vector, radius: float) -> Vector:
    """Return ``min(1, tau / length)``, where tau is the radius times the median length."""
    tau = radius * float(np.median(lengths))
    return np.minimum(1.0, np.divide(tau, lengths, out=np.ones_like(lengths), where=lengths > 0))


def _length(batch: Batch, vector: npt.NDArray[np.floating]) -> float:
    """Return the length of the parameters; running statistics have other units."""
    return float(np.linalg.norm(vector[batch.layout.parameters].astype(np.float64)))
