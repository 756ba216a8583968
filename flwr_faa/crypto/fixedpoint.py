"""Real vectors as integers: x is sent as X = rint(x 2^f).

Errors, proved. Let X = rint(x 2^f) and Y = rint(y 2^g), entry by entry.

1. |X 2^-f - x| <= 2^-(f+1). Float32 is exact in float64, and so is multiplying by a power of two (no overflow: it
   would be refused; an underflow changes x 2^f by less than 2^-1074 where rint gives 0 anyway). rint moves by at most
   1/2. An integer x is exact already with f = 0.
2. |<X, Y> 2^-(f+g) - <x, y>| <= 2^-(f+1) ||y||_1 + 2^-(g+1) ||x||_1 + n 2^-(f+g+2). With X 2^-f = x + a and
   Y 2^-g = y + b, the difference is <a, y> + <x, b> + <a, b>; now (1) on every entry of a and of b.
3. If n max|X| max|Y| < 2^63, <X, Y> is exact in int64 in whatever order it is summed: every partial sum is at most
   that in size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def encode(x: Floats, fraction_bits: int) -> npt.NDArray[np.int64]:
    """``rint(x * 2**fraction_bits)``, ties to even; any shape.

    Raises
    ------
    ValueError
        NaN, infinity, or a value that leaves int64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(np.ldexp(np.asarray(x, np.float64), fraction_bits))
    if not np.isfinite(x).all():
        raise ValueError("expected finite values, got NaN or infinity")
    if scaled.size and not np.abs(scaled).max() < 2.0**63:
        raise ValueError(f"expected |x| < 2^{63 - fraction_bits} with {fraction_bits} fractional bits, got larger")
    return scaled.astype(np.int64)


def decode(values: npt.ArrayLike, fraction_bits: int) -> npt.NDArray[np.float64]:
    """``values * 2**-fraction_bits``: exact up to 2^53 in size, else within a relative 2^-53."""
    return np.ldexp(np.asarray(values).astype(np.float64), -fraction_bits)


def inner_product_error(x: Floats, y: Floats, x_bits: int, y_bits: int) -> float:
    """The bound (2) for vectors encoded with these fractional bits (itself computed in float64)."""
    norms = float(np.abs(y).sum(dtype=np.float64)), float(np.abs(x).sum(dtype=np.float64))
    return norms[0] * 2.0 ** -(x_bits + 1) + norms[1] * 2.0 ** -(y_bits + 1) + x.size * 2.0 ** -(x_bits + y_bits + 2)


def inner_product_bound(n: int, x_max: int, y_max: int) -> int:
    """``n * x_max * y_max``, what no inner product exceeds, if int64 holds it (3); else ValueError."""
    bound = n * int(x_max) * int(y_max)
    if bound >= 2**63:
        raise ValueError(f"expected n |x| |y| < 2^63, got {n} * {x_max} * {y_max}")
    return bound
