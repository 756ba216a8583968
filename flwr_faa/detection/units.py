"""What updates are multiplied by before they are measured, so that no client's can break another's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.blocks import Vector
from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies import kernels
from flwr_faa.replies.updates import Floats

#: Updates are measured as they are if their largest entries are usually between these two. Squares of numbers far
#: outside leave float32.
SMALL, LARGE = 1e-8, 1e8
#: An update whose largest entry is this many times the usual one is measured as if it were this many times as large.
#: It stands out anyway, and beside a larger one the differences of all others would drown in rounding.
FAR = 1e4


@dataclass(frozen=True, eq=False)
class Unit:
    """What updates are multiplied by, so that their squares neither overflow nor vanish.

    A power of two, so scaling rounds nothing. An update that is more than ``FAR`` times as large as the usual one is
    shrunk to that: nothing that a client sends may make another's distances infinite, or zero.

    Attributes
    ----------
    factors : ndarray, shape (n,)
        1 but for the shrunk.
    exponent : int
    """

    factors: Vector
    exponent: int

    @classmethod
    def of(cls, largest: Vector) -> Unit | None:
        """The unit of updates whose largest entries have these sizes; None if they can be measured as they are.

        Raises
        ------
        ValueError
            If one is not finite.
        """
        if not np.isfinite(largest).all():
            raise ArgumentValueError("expected finite updates, got NaN or infinity")
        if not largest.any():
            return None
        usual = float(np.median(largest[largest > 0]))
        fits, far = SMALL <= usual <= LARGE, largest / FAR > usual
        if fits and not far.any():
            return None
        factors = np.ones(len(largest))
        factors[far] = 1 / largest[far] * (FAR * usual)
        return cls(factors, 0 if fits else -int(np.frexp(usual)[1]))

    def apply(self, x: Floats, rows: Sequence[int] | npt.NDArray[np.intp]) -> None:
        """Multiply some columns of these rows, in place."""
        for i, factor in enumerate(self.factors[np.asarray(rows, np.intp)]):
            x[i] = np.ldexp(x[i] * factor, self.exponent)


def measurable(updates: Floats) -> Floats:
    """Return updates in their :class:`Unit`: as they are, if they can be measured so.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
        float32 or float64.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    unit = Unit.of(kernels.PLAIN.largest(updates).astype(np.float64))
    if unit is None:
        return updates
    scaled = updates.copy()
    unit.apply(scaled, range(len(scaled)))
    return scaled
