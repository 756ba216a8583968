"""Real vectors as integers: x is sent as X = rint(x 2^f), so |X 2^-f - x| <= 2^-(f+1).

Float32 is exact in float64, and so is multiplying by a power of two (no overflow: it would be refused; an underflow
changes x 2^f by less than 2^-1074 where rint gives 0 anyway). rint moves by at most 1/2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError

Floats = npt.NDArray[np.floating[Any]]


def encode(x: Floats, fraction_bits: int) -> npt.NDArray[np.int64]:
    """Return ``rint(x * 2**fraction_bits)``, ties to even; any shape.

    Raises
    ------
    ValueError
        NaN, infinity, or a value that leaves int64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(np.ldexp(np.asarray(x, np.float64), fraction_bits))
    if not np.isfinite(x).all():
        raise ArgumentValueError("expected finite values, got NaN or infinity")
    if scaled.size and not np.abs(scaled).max() < 2.0**63:
        raise ArgumentValueError(
            f"expected |x| < 2^{63 - fraction_bits} with {fraction_bits} fractional bits, got larger"
        )
    return scaled.astype(np.int64)
