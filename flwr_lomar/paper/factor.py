"""LoMar, phase I: how dense the updates lie around an update, compared with around its neighbours.

Paper: Li et al., "LoMar: A Local Defense Against Poisoning Attack on Federated Learning", Sec. 3.2, Eqs. 4-9.

    U_i   = the k nearest other updates, by the squared Euclidean distance of whole updates      (before Eq. 4)
    q_i^r = 1/k sum_{j in U_i} K((u_i^r - u_j^r) / h_r)                                          (Eqs. 5, 6)
    F_i^r = sum_{j in U_i} q_j^r / (k q_i^r)                                                     (Eq. 7)
    F_i   = prod_r F_i^r                                                                         (Eq. 9)

F is above 1 where an update lies in a sparse place, and below 1 where it lies in a denser place than its neighbours.
Everything is computed in logarithms, because a product over labels of ratios of exponentials soon leaves float64.

Where the paper is silent, or says two things, we chose:

* A neighbour's density ``q_j`` uses the neighbour's OWN neighbourhood. (The paper can be read to mean ``U_i``.)
* Eq. 9 sets a mean of products equal to a product of means. They differ. We compute the product of the F_i^r.
* The kernel's factor ``1 / (sqrt(2 pi) h)`` cancels in Eq. 7, so ``log_density`` leaves it out.
* The mean distances of Eq. 4 enter only the proof of Theorem 2 (Eq. 11), so they are not computed.

Precision, cost and memory are those of ``neighbourhood``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError
from flwr_lomar.neighbourhood import (
    Doubles,
    Floats,
    Indices,
    Seen,
    cloud_of,
    neighbours,
)

Kernel = Literal["printed", "appendix", "gaussian"]
KERNELS = get_args(Kernel)

#: Where the largest density of all is 1, a mean of neighbours' densities below this is computed again by itself.
TINY = 1e-200


@dataclass(frozen=True, eq=False)
class Factor:
    """The malicious factor of every update, and what it comes from.

    Attributes
    ----------
    log_factor : ndarray, shape (n,)
        ``log F_i``, Eq. 9. All logarithms are natural.
    log_factor_by_label : ndarray, shape (n, R)
        ``log F_i^r``, Eq. 7.
    log_density : ndarray, shape (n, R)
        ``log q_i^r``, Eq. 5, without the kernel's constant factor.
    bandwidth : ndarray, shape (R,)
        ``h_r``, in the units of the updates. It is 0 where a label's parameters do not differ; that label has F = 1.
    neighbours : ndarray of int, shape (n, k)
        Rows of ``U_i``, in any order.
    place : ndarray of int, shape (n,)
        Place in canonical order of each update, or of the first update that equals it.
    """

    log_factor: Doubles
    log_factor_by_label: Doubles
    log_density: Doubles
    bandwidth: Doubles
    neighbours: npt.NDArray[np.signedinteger[Any]]
    place: Indices


def neighbourhood_size(k: float, n: int) -> int:
    """Return ``k`` as a number of neighbours: a float is a share of the ``n`` updates, rounded down; an int a number.

    The result is at least 1 and at most ``n - 1``, so 0 for a single update. NumPy's scalars are numbers too.
    """
    whole = isinstance(k, Integral)
    if isinstance(k, bool) or not isinstance(k, Real) or not k > 0 or not (whole or k <= 1):
        raise ArgumentValueError(f"expected k to be a share in (0, 1] (float) or a positive number (int), got {k!r}")
    wanted = int(k) if whole else math.floor(float(k) * n + 1e-6)  # np.float32(.4) is .4 to seven digits
    return min(max(wanted, 1), n - 1)


def checked_bandwidth(bandwidth: float) -> None:
    """Refuse what is no bandwidth."""
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, Real) or not 1e-100 < bandwidth < 1e100:
        raise ArgumentValueError(f"expected a positive bandwidth, got {bandwidth!r}")


def malicious_factor(
    updates: Floats,
    label_blocks: Sequence[npt.ArrayLike] | None = None,
    *,
    k: float = 0.4,
    kernel: Kernel = "gaussian",
    bandwidth: float = 1.0,
    relative: bool = True,
    least: float = 0.0,
) -> Factor:
    """Compute Eqs. 5-9 for all updates of a round.

    Rows in another order get the same answers, bit for bit. BLAS rounds differently from row to row, so rows are first
    sorted by their bytes. Ties between neighbours go by that order, and equal rows get equal answers. (Another number
    of BLAS threads may still change the last bits.)

    log F is 0 for a single update, for two, and for updates that are all equal. A label with no columns, or with
    columns that do not differ, adds 0. ``k`` beyond ``n - 1`` means ``n - 1``.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
        float32 or float64, one update a row, n >= 1, d >= 1, in any unit.
    label_blocks : sequence of array-like of int, optional
        Columns of each of R labels, disjoint (``Layout.label_blocks``). Columns in no block count for the
        neighbourhoods alone. By default all columns are one block.
    k : float or int (default: 0.4)
        See `neighbourhood_size`. The paper has .4N, its bound on the attackers.
    kernel : {"gaussian", "printed", "appendix"}
        ``exp(-|d|^2 / 2h^2)``; ``exp(-|d| / 2h)``, Eq. 6 as printed; ``exp(-|d|^2 / 2h)``, Eq. 16 of Appendix C.
    bandwidth : float (default: 1.0)
        ``h`` for all labels, or ``c`` if `relative`.
    relative : bool (default: True)
        ``h_r = c * median_i sqrt(mean_{j in U_i} |u_i^r - u_j^r|^2)``; for the appendix's kernel without the root, so
        that no kernel depends on units. Where more than half of the updates coincide with all their neighbours, the
        mean over i stands in for the median. False is the paper's constant.
    least : float (default: 0.0)
        A relative bandwidth is at least this part of the median length of the updates in its label's columns.

    Returns
    -------
    Factor

    Raises
    ------
    ValueError
        If a value is not finite, or too large for its square to be, or an argument is out of range.
    """
    updates = np.asarray(updates)
    if updates.ndim != 2 or updates.size == 0 or updates.dtype not in (np.float32, np.float64):
        raise ArgumentValueError(
            f"expected a matrix of float32 or float64, got {updates.dtype} of shape {updates.shape}"
        )
    seen = Seen.of_all(cloud_of(updates, label_blocks))
    return factor_in(seen, k=k, kernel=kernel, bandwidth=bandwidth, relative=relative, least=least)


def factor_in(seen: Seen, *, k: float, kernel: Kernel, bandwidth: float, relative: bool, least: float) -> Factor:
    """Compute Eqs. 4-9 for updates that are seen block by block: O(n^2 R).

    The arguments are those of `malicious_factor`.
    """
    if kernel not in KERNELS:
        raise ArgumentValueError(f"expected kernel printed, appendix or gaussian, got {kernel!r}")
    checked_bandwidth(bandwidth)
    n, r = len(seen.rows), max(1, len(seen.cloud.label_blocks))
    if n == 1:
        none = np.zeros((1, r))
        return Factor(np.zeros(1), none, none, np.zeros(r), np.empty((1, 0), np.intp), np.zeros(1, np.intp))

    labels = seen.labels()  # first: then they are found in the walk that measures everything
    near = neighbours(seen.blocks["update"].squared, neighbourhood_size(k, n))
    pairs = near.index + n * np.arange(n)[:, None]
    scales, density = np.zeros(r), np.zeros((n, r))
    for label, block in enumerate(labels):
        squared = np.take(block.squared, pairs)
        if relative:
            each = squared.mean(axis=1, dtype=np.float64)
            scales[label] = relative_bandwidth(each, block.noise, kernel, bandwidth, least * block.length)
        else:
            scales[label] = bandwidth
        density[:, label] = log_density(squared, kernel, scales[label])
    by_label = log_ratio(near.index, near.member, density, density)
    place, neighbourhood = seen.place, seen.number[near.index]
    total = by_label.sum(axis=1)
    return Factor(total[place], by_label[place], density[place], scales, neighbourhood[place], place)


def relative_bandwidth(each: Doubles, noise: float, kernel: Kernel, c: float, least: float) -> float:
    """Return ``h_r`` from each update's mean squared distance to its neighbours, of which ``noise`` may be rounding.

    It is at least ``least``, but 0 where no distance is more than rounding.
    """
    for typical in (float(np.median(each)), float(np.mean(each))):
        if typical > noise:
            typical = max(typical, least**2)
            return c * (typical if kernel == "appendix" else math.sqrt(typical))
    return 0.0


def log_density(squared: Floats, kernel: Kernel, h: float) -> Doubles:
    """Return ``log(1/k sum_j K)``, Eq. 5 with Eq. 6, of squared distances to k neighbours, shape (m,); 0 if h is 0."""
    if h == 0:
        return np.zeros(len(squared))
    distance = np.sqrt(squared) if kernel == "printed" else squared
    width = 2 * h * h if kernel == "gaussian" else 2 * h
    closest = distance.min(axis=1, keepdims=True)
    terms = np.subtract(closest, distance)  # so the largest is exp(0), and the sum cannot underflow
    terms /= max(width, float(np.finfo(terms.dtype).tiny))
    np.exp(terms, out=terms)
    mean = terms.sum(axis=1, dtype=np.float64) / squared.shape[1]
    return np.asarray(np.log(mean) - closest[:, 0].astype(np.float64) / width)


def log_ratio(index: Indices, member: Floats, theirs: Doubles, own: Doubles) -> Doubles:
    """Return ``log(1/k sum_{j in U_i} q_j) - log q_i``, Eq. 7, shape (m, R).

    Parameters
    ----------
    index : ndarray of int, shape (m, k)
        ``U_i`` of m updates.
    member : ndarray, shape (m, n)
        The same as 1 and 0.
    theirs : ndarray, shape (n, R)
        ``log q_j``.
    own : ndarray, shape (m, R)
        ``log q_i``.
    """
    top = theirs.max(axis=0)
    mean = member @ np.exp(theirs - top) / index.shape[1]  # and no array of m x k x R
    ratio: Doubles = np.log(np.maximum(mean, TINY)) + top - own
    for label in np.flatnonzero((mean < TINY).any(axis=0)):  # their neighbours lie far sparser than the densest place
        rows = np.flatnonzero(mean[:, label] < TINY)
        density = theirs[index[rows], label]
        densest = density.max(axis=1)
        ratio[rows, label] = np.log(np.exp(density - densest[:, None]).mean(axis=1)) + densest - own[rows, label]
    return ratio
