"""What clients send in another dtype than the model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError


def converted(array: npt.NDArray[Any], w: npt.NDArray[Any], called: str) -> npt.NDArray[Any]:
    """Return the array in the dtype of the broadcast ``w``.

    Parameters
    ----------
    array, w : ndarray
        Of the same shape.
    called : str
        What to call the array in a message.

    Raises
    ------
    ValueError
        If that dtype cannot hold every value, or the array has no real numbers.
    """
    dtype = w.dtype
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "fiub":
        raise ArgumentValueError(f"{called}: expected dtype {dtype}, got {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    if dtype.kind == "f":
        fits = bool((np.isfinite(cast) | ~np.isfinite(array)).all())
        if array.dtype.kind == "f" and array.dtype.itemsize < dtype.itemsize and not np.isfinite(array).all():
            # A mask of -1e9 is infinite in float16: sent back as it came, it is unchanged.
            with np.errstate(over="ignore"):
                same = np.isinf(array) & (array == w.astype(array.dtype))
            cast[same] = w[same]
    else:
        # A cast to integers wraps around silently: compare whole values and the range instead.
        least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        whole = array.dtype.kind != "f" or bool((np.isfinite(array) & (np.rint(array) == array)).all())
        fits = whole and (not array.size or least <= int(array.min()) <= int(array.max()) <= most)
    if not fits:
        raise ArgumentValueError(f"{called}: expected values that {dtype} holds, got {array.dtype} with others")
    return cast
