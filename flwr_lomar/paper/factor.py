"""LoMar, phase I: how dense it is around an update, compared with around its neighbours.

Paper: Li et al., "LoMar: A Local Defense Against Poisoning Attack on Federated Learning", Sec. 3.2, Eqs. 4-9.

    U_i   = the k nearest other updates, by the squared Euclidean distance of whole updates      (before Eq. 4)
    q_i^r = 1/k sum_{j in U_i} K((u_i^r - u_j^r) / h_r)                                          (Eqs. 5, 6)
    F_i^r = sum_{j in U_i} q_j^r / (k q_i^r)                                                     (Eq. 7)
    F_i   = prod_r F_i^r                                                                         (Eq. 9)

F > 1 in sparse places, F < 1 in places denser than their surroundings. Everything stays in logarithms: a product over
labels of ratios of exponentials leaves float64 quickly.

Departures and choices, where the paper is silent or says two things:

* A neighbour's density ``q_j`` uses the neighbour's OWN neighbourhood (``U_i`` could be read into the paper).
* Eq. 9 has a mean of products equal to a product of means. It is not; the product of the F_i^r is what is computed.
* The kernel's factor ``1 / (sqrt(2 pi) h)`` cancels in Eq. 7 and is left out of ``log_density`` too.
* Eq. 4's mean distances enter no other equation, and are not computed.

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

#: A mean of neighbours' densities below this, on a scale where the largest density is 1, is computed again by itself.
TINY = 1e-200


@dataclass(frozen=True, eq=False)
class Factor:
    """The malicious factor of every update, and what led to it.

    Attributes
    ----------
    log_factor : ndarray, shape (n,)
        ``log F_i``, Eq. 9. Natural logarithm, as all of them.
    log_factor_by_label : ndarray, shape (n, R)
        ``log F_i^r``, Eq. 7.
    log_density : ndarray, shape (n, R)
        ``log q_i^r``, Eq. 5, without the kernel's constant factor.
    bandwidth : ndarray, shape (R,)
        ``h_r``, in the units of the updates. 0 where a label's parameters do not differ: such a label has F = 1.
    neighbours : ndarray of int, shape (n, k)
        Rows of ``U_i``, the nearest not necessarily first.
    place : ndarray of int, shape (n,)
        Where each update, or the first that equals it, stands in canonical order.
    """

    log_factor: Doubles
    log_factor_by_label: Doubles
    log_density: Doubles
    bandwidth: Doubles
    neighbours: npt.NDArray[np.signedinteger[Any]]
    place: Indices


def neighbourhood_size(k: float, n: int) -> int:
    """``k`` as a number of neighbours: a float is a share of the ``n`` updates (rounded down), an int is a number.

    NumPy's scalars are numbers too. At least 1 and at most ``n - 1``, so 0 for a single update.
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
    """Compute Eqs. 4-9 for all updates of a round.

    Permuting the rows permutes the answer bit for bit: the rows are worked on in the order of their bytes, whatever
    order they came in (BLAS rounds differently from row to row), ties between neighbours go by that order, and equal
    rows get equal answers. (Two threads of BLAS or four may still differ in the last bits.)

    A single update, and updates that are all equal, have log F = 0. So has a label with no columns, or with columns
    that do not differ. ``k`` beyond ``n - 1`` means ``n - 1``. Two updates are each other's neighbour: log F = 0.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
        float32 or float64, one update a row, n >= 1, d >= 1. Units are free.
    label_blocks : sequence of array-like of int, optional
        Columns of each label, disjoint, R of them (``Layout.label_blocks``). Columns in no block count for the
        neighbourhoods alone. By default all columns are one block.
    k : float or int (default: 0.4)
        See `neighbourhood_size`. The paper has .4N, its bound on the attackers.
    kernel : {"gaussian", "printed", "appendix"}
        ``exp(-|d|^2 / 2h^2)``; Eq. 6 as printed, ``exp(-|d| / 2h)``; appendix C, ``exp(-|d|^2 / 2h)``.
    bandwidth : float (default: 1.0)
        ``h`` for all labels, or ``c`` if `relative`.
    relative : bool (default: True)
        ``h_r = c * median_i sqrt(mean_{j in U_i} |u_i^r - u_j^r|^2)`` (the appendix's kernel: its square, so that every
        kernel is free of units); where more than half of the updates coincide with all their neighbours, the mean over
        i. False is the paper's constant.
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
    """``h_r`` from each update's mean squared distance to its neighbours, of which up to ``noise`` may be rounding.

    It is taken to be ``least`` at least, and 0 where no distance is more than rounding.
    """
    for typical in (float(np.median(each)), float(np.mean(each))):
        if typical > noise:
            typical = max(typical, least**2)
            return c * (typical if kernel == "appendix" else math.sqrt(typical))
    return 0.0


def log_density(squared: Floats, kernel: Kernel, h: float) -> Doubles:
    """Eq. 5 with Eq. 6: ``log(1/k sum_j K)`` from squared distances to k neighbours, shape (m,); 0 where h is 0."""
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
    """Eq. 7: ``log(1/k sum_{j in U_i} q_j) - log q_i``, shape (m, R).

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
    for label in np.flatnonzero((mean < TINY).any(axis=0)):  # neighbours far sparser than the densest place of all
        rows = np.flatnonzero(mean[:, label] < TINY)
        density = theirs[index[rows], label]
        densest = density.max(axis=1)
        ratio[rows, label] = np.log(np.exp(density - densest[:, None]).mean(axis=1)) + densest - own[rows, label]
    return ratio
