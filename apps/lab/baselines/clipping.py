"""Rules that shorten updates: an attacker that is not recognised shall at least not pull far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apps.lab.baselines.rules import Vector, combination, distances_to, lengths, squared_distances
from flwr_faa.replies.updates import Batch


def norm_bounded(batch: Batch, rows: Sequence[int], *, bound: float = 1.0) -> Vector:
    """Average updates of bounded length (Sun, Kairouz, Suresh and McMahan 2019, "norm thresholding").

        sum_i a_i g_i min(1, M / ||g_i||)

    with the pipeline's weights a_i. The paper's M is a constant, found by looking at honest updates, whose length
    changes with model and round; here it is ``bound`` times the median length of the round. O(n d).
    """
    shares = batch.weights[list(rows)] / batch.weights[list(rows)].sum() * _clip(lengths(batch, rows), bound)
    return combination(batch, rows, shares)


@dataclass
class CentredClipping:
    """Centred clipping (Karimireddy, He and Jaggi, ICML 2021, Algorithm 2): the mean of what is near the centre.

        v_l+1 = v_l + 1/n sum_i (g_i - v_l) min(1, tau / ||g_i - v_l||),   l = 0 .. steps - 1

    v_0 is what the last round ended with, 0 in the first: this rule remembers, so it serves one run. Departures: tau is
    ``radius`` times the median distance to v_l instead of a constant, for the same reason as above. The paper's
    workers send momentum, which is half of its proof; ours send local updates, as the training plan says. Weights
    are ignored. O(n^2 d), and O(n^2) a step.

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
        n, centre = len(rows), np.zeros(batch.layout.size) if self._centre is None else self._centre
        # The centre stays among the updates and what it was: all that moves are n + 1 coefficients.
        squared = np.zeros((n + 1, n + 1))
        squared[:n, :n] = squared_distances(batch, rows)
        squared[n, :n] = squared[:n, n] = lengths(batch, rows, centre) ** 2
        shares = np.append(np.zeros(n), 1.0)
        for _ in range(self.steps):
            step = np.append(_clip(distances_to(squared, shares)[:n], self.radius), 0.0) / n
            shares = shares * (1 - step.sum()) + step
        self._centre = combination(batch, rows, shares[:n]) + shares[n] * centre
        return self._centre


def _clip(far: Vector, radius: float) -> Vector:
    """Return ``min(1, tau / length)``, where tau is the radius times the median length."""
    tau = radius * float(np.median(far))
    return np.minimum(1.0, np.divide(tau, far, out=np.ones_like(far), where=far > 0))
