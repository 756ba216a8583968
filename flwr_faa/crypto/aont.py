"""The paper's linear all-or-nothing transform, U = M X with M of Eq. (29), over the integers.

    u_i = x_i + x_n  for i < n,        u_n = x_1 + .. + x_(n-1) + lambda x_n

so only the last row is encrypted (Algorithm 1, line 8). The inverse needs no matrix: u_n - (u_1 + .. + u_(n-1)) is
(lambda - n + 1) x_n, and x_i = u_i - x_n. Non-negative values grow at most (n - 1 + lambda)-fold.

IT GIVES NO PRIVACY. The rows sent in the clear are x_i + x_n; an image has a zero pixel in nearly every column, so
guessing x_n = min_i u_i gives the image back: all pixels of all of 5,000 MNIST images, without any key. Linear
transforms are all-or-nothing only for uniform x (Stinson, "Something about all or nothing (transforms)", Designs,
Codes and Cryptography 22, 2001, shows it for unconditional security over uniform inputs). This module is here to
reproduce the paper; where privacy matters encrypt every coordinate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError

#: lambda in the paper.
LAMBDA = 2

Integers = npt.NDArray[np.integer[Any]]


def transform(x: Integers, lam: int = LAMBDA) -> npt.NDArray[np.int64]:
    """Return M X for every sample.

    Parameters
    ----------
    x : ndarray of integers, shape (..., n, w)
        n rows of width w a sample. With n = 1, M is (lambda): all of the sample is in the encrypted row, times lambda.
    lam : int, default 2

    Returns
    -------
    ndarray of int64, shape (..., n, w)

    Raises
    ------
    ValueError
        Not integers, fewer than two axes, M singular (lambda = n - 1), or values that could leave int64: the largest
        size times ``2 n + |lambda|`` is 2^63 or more.
    """
    _check(x, lam)
    u = x.astype(np.int64)
    last = u[..., -1, :].copy()
    u[..., -1, :] = u[..., :-1, :].sum(axis=-2) + lam * last
    u[..., :-1, :] += last[..., None, :]
    return u


def inverse(u: Integers, lam: int = LAMBDA) -> npt.NDArray[np.int64]:
    """Return the X of ``transform``, exactly, in O(n w).

    Raises
    ------
    ValueError
        As for ``transform``; or no integer X gives this U, which proves that it was tampered with.
    """
    divisor = _check(u, lam)
    x = u.astype(np.int64)
    last, rest = np.divmod(x[..., -1, :] - x[..., :-1, :].sum(axis=-2), divisor)
    if rest.any():
        raise ArgumentValueError(
            f"expected the transform of integers, got {np.count_nonzero(rest)} columns that are not"
        )
    x[..., -1, :] = last
    x[..., :-1, :] -= last[..., None, :]
    return x


def _check(values: Integers, lam: int) -> int:
    """Return the divisor lambda - n + 1, after checking that nothing can go wrong in int64."""
    if not np.issubdtype(values.dtype, np.integer) or values.ndim < 2:
        raise ArgumentValueError(f"expected integers of shape (..., n, w), got {values.dtype} of shape {values.shape}")
    n = int(values.shape[-2])
    if n < 1 or lam == n - 1:
        raise ArgumentValueError(f"expected at least one row, and not lambda + 1 = {lam + 1} (M is singular), got {n}")
    size = max(int(values.max()), -int(values.min())) if values.size else 0
    if size * (2 * n + abs(lam)) >= 2**63:
        raise ArgumentValueError(f"expected values whose transform fits int64, got {size}")
    return lam - n + 1
