"""LoMar, phase II: the threshold on the malicious factor (Sec. 3.3, Theorem 1 and Algorithm 2).

    P(F > eps_m) <= exp(-4 pi (eps_m - 1)^2 (k + 1)^2 h / (k (2k + eps_m + 1)^2 V^2))             (Eq. 10)
    eps = min{1, eps_m}, and an update is malicious if F < eps                                    (Algorithm 2)

Solved for the eps_m at which the bound is alpha:

    eps_m = (1 + s (2k + 1)) / (1 - s),   s = sqrt(ln(1 / alpha) k / (4 pi h)) V / (k + 1)

The proof takes eps_m > 1 (below Eq. 22), and the closed form gives nothing else. s is positive, and s >= 1 has no
solution, because the bound never falls below ``exp(-4 pi (k + 1)^2 h / (k V^2))``. So ``min{1, eps_m}`` is always 1.
And the theorem bounds how often a clean update has a *large* F, while Algorithm 2 rejects a small one. So what this
module computes is a diagnostic, and no threshold follows from it.

The proof in Appendix C ends in Eq. 23, which has ``2 (2 pi)^R h^{2R}`` for R labels in the place of ``4 pi h``. For
R = 1 that is Eq. 10 with ``h^2``. Eq. 17 gives one expression for both V and 1 / V, so the caller has to choose V.

The robust preset has a threshold of its own, `flwr_faa.detection.threshold.largest_z`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flwr_faa.errors import ArgumentValueError

#: Algorithm 2's threshold, whatever Eq. 10 says.
EPS = 1.0


@dataclass(frozen=True)
class Theorem1:
    """Theorem 1 for one neighbourhood.

    Parameters
    ----------
    k : int
        Size of the neighbourhood, at least 1.
    h : float
        Mean bandwidth, in the units of the updates.
    volume : float
        V, the "neighbourhood kernel density distribution volume".
    labels : int or None (default: None)
        None is Eq. 10 as printed. A number R is Eq. 23, where its proof ends, for R labels.

    Raises
    ------
    ValueError
        Unless all are positive.
    """

    k: int
    h: float
    volume: float
    labels: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ArgumentValueError(f"expected a positive {name}, got {value!r}")

    @property
    def _strength(self) -> float:
        """The exponent of Eq. 10 or 23 without its part in eps_m."""
        bandwidths = 4 * math.pi * self.h if self.labels is None else 2 * (2 * math.pi * self.h**2) ** self.labels
        return bandwidths * (self.k + 1) ** 2 / (self.k * self.volume**2)

    @property
    def least_alpha(self) -> float:
        """What the bound tends to for a large eps_m. Every eps_m has a larger bound."""
        return math.exp(-self._strength)

    def bound(self, eps_m: float) -> float:
        """Return the right-hand side of Eq. 10. ``ValueError`` unless ``eps_m > 1``, where it is proven."""
        if not eps_m > 1:
            raise ArgumentValueError(f"expected eps_m > 1, as Theorem 1's proof does, got {eps_m!r}")
        return math.exp(-self._strength * ((eps_m - 1) / (2 * self.k + eps_m + 1)) ** 2)

    def eps_m(self, alpha: float) -> float:
        """Return the eps_m whose bound is `alpha`, above 1; infinite where there is none (``alpha <= least_alpha``)."""
        if not 0 < alpha < 1:
            raise ArgumentValueError(f"expected alpha between 0 and 1, got {alpha!r}")
        s = math.sqrt(-math.log(alpha) / self._strength)
        return (1 + s * (2 * self.k + 1)) / (1 - s) if s < 1 else math.inf

    def eps(self, alpha: float) -> float:
        """Return ``min{1, eps_m}``, line 2 of Algorithm 2. It is 1."""
        return min(EPS, self.eps_m(alpha))
