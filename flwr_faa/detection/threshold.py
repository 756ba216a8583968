"""How odd an honest update may be: the threshold of a largest z over many views, by the number of updates and views."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

#: With fewer updates a median and a MAD have no tail to speak of. Only what is grossly far from the others is known.
FEWEST = 6
#: Degrees of freedom of what honest updates look like in a view: tails a little heavier than normal ones.
TAILS = 16
#: What median and MAD of n values take from them: they are as uncertain as a variance with n / 1.7 degrees of freedom.
MAD = 1.7


@cache
def largest_z(n: int, views: int, rate: float = 0.01) -> float:
    """Return the largest robust |z| over the views that an honest update exceeds at a given rate.

    The null hypothesis: in every view, independent of the others, the n honest updates are drawn from Student's t with
    ``TAILS`` degrees of freedom. z by median and MAD of n draws is then close to Student's t with
    ``1 / (1 / TAILS + MAD / n)``. ``python -m apps.studies.lomar_threshold`` draws it and prints how close. Real views
    are not independent, which makes the rate smaller, and not all of that shape, which makes it larger: measured rates
    are in ``docs/results/false-alarms.md`` and ``docs/explanation/lomar.md``.

    Parameters
    ----------
    n, views : int
        At least 1.
    rate : float
        False alarms an update, in (0, 1).
    """
    each = -math.expm1(math.log1p(-rate) / views)
    freedom = 1 / (1 / TAILS + MAD / n)
    scale = student_isf(0.25, TAILS) / 0.67449  # 1.4826 MAD is the standard deviation of a normal distribution only
    return student_isf(each / 2, freedom) / scale


def student_isf(p: float, freedom: float) -> float:
    """Return what Student's t exceeds with probability p < 1/2, to five digits; SciPy's, which devices do without.

    With t = sqrt(freedom) / tan(angle), the tail is the integral of sin(angle) ** (freedom - 1) from 0.
    """
    angle = np.geomspace(1e-15, math.pi / 2, 50_001)
    height = np.sin(angle) ** (freedom - 1) * angle  # d angle = angle d log(angle)
    tail = np.cumsum(height[1:] + height[:-1])
    found = np.interp(math.log(2 * p * tail[-1]), np.log(tail), np.log(angle[1:]))
    return math.sqrt(freedom) / math.tan(math.exp(found))
