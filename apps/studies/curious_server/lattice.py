r"""Samples of small integers from few exact values, by lattice reduction.

The values ``L x = z`` are integers, and so is x. The points ``(x R, c L x)`` of all integer x are a lattice, R being
the inverse root of a prior's covariance and c large. The sample is the lattice point nearest to ``(mu R, c z)``, unless
another one fits the values and is likelier. LLL (Lenstra, Lenstra, Lovasz 1982) makes the lattice's basis nearly
orthogonal, and Babai's nearest plane (1986) rounds in it. One reduction serves all samples with the same functions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Weight of an exact value against a standard deviation of the prior: none may be off by one.
EXACT = 1e3
#: Lovasz' condition.
DELTA = 0.99


def reduce(metric: Floats, exact: Integers, sweeps: int = 20_000) -> tuple[Floats, Integers]:
    """Return an LLL-reduced basis of the lattice of the rows ``(metric, EXACT exact)``, and U with ``reduced = U @
    basis``.

    Pairs of neighbours that fail Lovasz' condition are swapped all at once, the even and the odd ones in turn. The
    basis is made from the integers U again in every sweep, so that no rounding adds up.
    """
    u = np.eye(len(metric), dtype=np.int64)
    b = _rows(u, metric, exact)
    for sweep in range(sweeps):
        _, r = np.linalg.qr(b.T)
        for j in range(len(b) - 1, -1, -1):  # size reduction, columns of r from the last
            factors = np.rint(r[j, j + 1 :] / r[j, j])
            rows = np.flatnonzero(factors) + j + 1
            if len(rows):
                whole = factors[rows - j - 1]
                r[: j + 1, rows] -= np.outer(r[: j + 1, j], whole)
                u[rows] -= np.outer(whole.astype(np.int64), u[j])
        d = np.abs(np.diagonal(r)) ** 2
        over = np.diagonal(r, 1) ** 2
        bad = np.flatnonzero(DELTA * d[:-1] > d[1:] + over)
        if not len(bad):
            break
        half = bad[bad % 2 == sweep % 2]
        for i in half if len(half) else bad[:1]:
            u[[i, i + 1]] = u[[i + 1, i]]
        b = _rows(u, metric, exact)
    return _rows(u, metric, exact), u


def _rows(u: Integers, metric: Floats, exact: Integers) -> Floats:
    return np.hstack([u @ metric, (u @ exact) * EXACT])


def nearest(reduced: Floats, target: Floats) -> Integers:
    """Return the coefficients of a lattice point near each row of ``target``, by Babai's nearest plane."""
    q, r = np.linalg.qr(reduced.T)
    left = target @ q
    found = np.zeros((len(target), len(reduced)), np.int64)
    for j in range(len(reduced) - 1, -1, -1):
        found[:, j] = np.rint(left[:, j] / r[j, j]).astype(np.int64)
        left -= np.outer(found[:, j], r[:, j])
    return found


def solve(functions: Integers, values: Integers, means: Floats, inverse: Floats) -> Integers:
    """Return integer samples with these values, near to what is expected of each.

    Parameters
    ----------
    functions : int64, shape (k, n)
    values : int64, shape (m, k)
    means : float64, shape (m, n)
        What is expected of each sample.
    inverse : float64, shape (n, n)
        The inverse root of the prior's covariance.
    """
    reduced, u = reduce(inverse, functions.T)
    return nearest(reduced, np.hstack([means @ inverse, values.astype(np.float64) * EXACT])) @ u
