"""LoMar, phase I: how dense is it around an update, compared with around its neighbours?

Paper: Li et al., "LoMar: A Local Defense Against Poisoning Attack on Federated Learning", Sec. 3.2, Eqs. 4-9.

    U_i   = the k nearest other updates, by the squared Euclidean distance of the whole update        (before Eq. 4)
    q_i^r = 1/k sum_{j in U_i} K((u_i^r - u_j^r) / h_r)                                                 (Eqs. 5, 6)
    F_i^r = sum_{j in U_i} q_j^r / (k q_i^r)                                                                (Eq. 7)
    F_i   = prod_r F_i^r                                                                                    (Eq. 9)

F > 1 in sparse places, F < 1 in places denser than their surroundings. Everything is kept as logarithms: a product over
labels of ratios of exponentials leaves float64 quickly.

Departures and choices, where the paper is silent or says two things:

* A neighbour's density ``q_j`` uses the neighbour's OWN neighbourhood ``U_j`` (the paper could be read as ``U_i``).
* Eq. 9 says that a mean of products is the product of means. It is not; the product of the F_i^r is what is computed.
* The kernel's factor ``1 / (sqrt(2 pi) h)`` cancels in Eq. 7 and is left out of ``log_density`` too.

Precision: float64 updates are scored in float64; float32 updates have a float32 Gram matrix for each chunk of columns,
centred (without it, the error is of the size of the distances), chunks and labels added up in float64. Distances are
then good to about 1e-6 of the squared distance from the centre; nothing closer than that is told from equal, except
equal rows, which are at distance 0 exactly.

Cost: one symmetric product ``n^2 d / 2`` and O(n^2 R) beside it. Memory beside the updates: five n x n arrays and
``CHUNK`` numbers, and at most ``KEEP`` bytes of distances by label; where ``n^2 R`` needs more, those are computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Kernel = Literal["printed", "appendix", "gaussian"]

#: Numbers in one chunk of updates (4 MB of float32): large enough for BLAS, small enough for the cache.
CHUNK = 2**20
#: Bytes of distances by label that are kept while the neighbourhoods are not known yet.
KEEP = 2**28
#: A mean of neighbours' densities below this, on a scale where the largest density is 1, is computed again by itself.
TINY = 1e-200
NOT_FINITE = "Expected finite updates with finite squares, got NaN, infinity or too large a number"


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
        Rows of ``U_i``, in no particular order.
    """

    log_factor: Doubles
    log_factor_by_label: Doubles
    log_density: Doubles
    bandwidth: Doubles
    neighbours: Indices


class Products(NamedTuple):
    """Inner products (m, n) of centred rows, the squared lengths of both sides, and what a distance of 0 may look like."""

    inner: Floats
    rows: Floats
    columns: Floats
    noise: float


def neighbourhood_size(k: float, n: int) -> int:
    """``k`` as a number of neighbours: a float is a share of the ``n`` updates (rounded down), an int is a number.

    At least 1 and at most ``n - 1``, so 0 for a single update.
    """
    if isinstance(k, bool) or not k > 0 or (isinstance(k, float) and k > 1):
        raise ValueError(f"Expected k to be a share in (0, 1] (float) or a positive number (int), got {k!r}")
    wanted = math.floor(k * n + 1e-9) if isinstance(k, float) else int(k)
    return min(max(wanted, 1), n - 1)


def malicious_factor(
    updates: Floats,
    label_blocks: Sequence[npt.ArrayLike] | None = None,
    *,
    k: float = 0.4,
    kernel: Kernel = "gaussian",
    bandwidth: float = 1.0,
    relative: bool = True,
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
        ``h_r`` is ``c`` times the median distance in label r between an update and its neighbours; where that is zero,
        times the mean. With the appendix's kernel the result still depends on the units.

    Returns
    -------
    Factor

    Raises
    ------
    ValueError
        If a value is not finite, or too large for its square to be, or an argument is out of range.
    """
    if kernel not in ("printed", "appendix", "gaussian"):
        raise ValueError(f"Expected kernel printed, appendix or gaussian, got {kernel!r}")
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"Expected a positive bandwidth, got {bandwidth!r}")
    updates = np.ascontiguousarray(updates)
    blocks, rest = _split_columns(label_blocks, updates.shape[1])
    n, r = len(updates), len(blocks)
    k = neighbourhood_size(k, n)
    if n == 1:
        if not np.isfinite(updates).all():
            raise ValueError(NOT_FINITE)
        nothing = np.zeros((1, r))
        return Factor(np.zeros(1), nothing, nothing, np.zeros(r), np.empty((1, 0), np.intp))

    order, first = _canonical_order(updates)
    products = partial(_products, updates, order, first, np.empty(n * _width(n), updates.dtype))
    neighbours, member, near = _neighbourhoods(products, blocks, rest, k, True)
    scales, density = np.zeros(r), np.zeros((n, r))
    for label, (squared, noise) in enumerate(near):
        scales[label] = _bandwidth(squared, noise, kernel, bandwidth) if relative else bandwidth
        density[:, label] = _log_density(squared, kernel, scales[label])
    by_label = _log_ratio(neighbours, member, density, density)

    back = np.empty_like(order)
    back[order] = first  # original row -> where its contents stand in canonical order
    return Factor(by_label.sum(axis=1)[back], by_label[back], density[back], scales, order[neighbours][back])


def factor_of_new(
    new: Floats,
    updates: Floats,
    fitted: Factor,
    label_blocks: Sequence[npt.ArrayLike] | None = None,
    *,
    kernel: Kernel = "gaussian",
) -> tuple[Doubles, Doubles]:
    """Compute Eqs. 5-9 for updates that were not there when the others were scored, each by itself.

    Neighbours are taken from `updates`, so a row that is among them is its own nearest neighbour, and its factor is
    another than the fitted one. A label with bandwidth 0 has F = 1. Not bit for bit independent of the rows' order.

    Parameters
    ----------
    new : ndarray, shape (m, d)
        In the dtype of `updates`.
    updates : ndarray, shape (n, d)
        What was fitted.
    fitted : Factor
        From `malicious_factor` on `updates`, with the same `label_blocks` and `kernel`.
    label_blocks, kernel
        As in `malicious_factor`.

    Returns
    -------
    log_factor : ndarray, shape (m,)
    log_factor_by_label : ndarray, shape (m, R)
    """
    blocks, rest = _split_columns(label_blocks, updates.shape[1])
    (n, k), r = fitted.neighbours.shape, len(blocks)
    by_label = np.zeros((len(new), r))
    step = max(1, KEEP // (8 * n * (r + 4)))
    for start in range(0, len(new) if k else 0, step):
        rows = np.ascontiguousarray(new[start : start + step])
        neighbours, member, near = _neighbourhoods(partial(_cross_products, rows, updates), blocks, rest, k, False)
        own = [_log_density(d, kernel, h) for (d, _), h in zip(near, fitted.bandwidth, strict=True)]
        by_label[start : start + step] = _log_ratio(neighbours, member, fitted.log_density, np.stack(own, axis=1))
    return by_label.sum(axis=1), by_label


def _split_columns(label_blocks: Sequence[npt.ArrayLike] | None, d: int) -> tuple[list[Indices], Indices]:
    """The columns of each block, sorted, and those in none."""
    if label_blocks is None:
        return [np.arange(d)], np.empty(0, np.intp)
    blocks = [np.unique(np.asarray(block, np.intp)) for block in label_blocks]
    taken = np.zeros(d, np.intp)
    for block in blocks:
        if len(block) and (block[0] < 0 or block[-1] >= d):
            raise ValueError(f"Expected columns from 0 to {d - 1} in label_blocks, got {block[0]} to {block[-1]}")
        taken[block] += 1
    if not blocks or (taken > 1).any():
        raise ValueError("Expected at least one block in label_blocks and no column in two of them")
    return blocks, np.flatnonzero(taken == 0)


def _canonical_order(updates: Floats) -> tuple[Indices, Indices]:
    """Rows sorted by their bytes, and for each place in that order the first place with equal contents."""
    rows = updates.view(f"V{updates.shape[1] * updates.itemsize}").ravel()
    order = rows.argsort(kind="stable")  # memcmp: stops at the first byte that differs, unlike a hash
    same = [False] + [bool((rows[a : a + 1] == rows[b : b + 1])[0]) for a, b in pairwise(order)]
    return order, np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))


def _width(n: int) -> int:
    return max(256, CHUNK // n)


def _chunks(columns: Indices, width: int) -> Iterator[Indices]:
    return (columns[a : a + width] for a in range(0, len(columns), width))


def _take(updates: Floats, rows: Indices, columns: Indices, memory: Floats) -> Floats:
    """``updates[rows][:, columns]`` in `memory`: mapping new pages for each chunk would take longer than the copy."""
    chunk = memory[: len(rows) * len(columns)].reshape(len(rows), len(columns))
    cuts = np.flatnonzero(np.diff(columns) > 1) + 1
    if len(cuts) > 8:
        chunk[...] = np.take(updates, columns, axis=1)[rows]
    else:  # a few runs of (sorted) columns, as a label's are, are copied much faster
        for start, run in zip([0, *cuts], np.split(columns, cuts), strict=True):
            chunk[:, start : start + len(run)] = updates[rows, run[0] : run[-1] + 1]
    return chunk


def _centre(chunk: Floats) -> Floats:
    """The mean of that half of the rows that is nearest to 0.

    Distances do not hang on it, but their precision does: the mean of all rows could be dragged away by one attacker
    with an enormous update, and the distances between honest updates would drown in rounding.
    """
    half = (len(chunk) + 1) // 2
    nearest = np.argpartition(np.einsum("ij,ij->i", chunk, chunk), half - 1)[:half]
    centre: Floats = chunk[nearest].mean(axis=0)
    return centre


def _products(updates: Floats, order: Indices, first: Indices, memory: Floats, columns: Indices) -> Products:
    """Of all pairs, in canonical order."""
    n, width = len(order), _width(len(order))
    inner: Floats = np.zeros((n, n), updates.dtype) if len(columns) == 0 else np.empty(0)
    for i, part in enumerate(_chunks(columns, width)):
        chunk = _take(updates, order, part, memory)
        chunk -= _centre(chunk)
        gram = chunk @ chunk.T  # NumPy sees that this is symmetric: half the work
        if i == 0:
            inner = gram if len(part) == len(columns) else gram.astype(np.float64)
        else:
            inner += gram
    if (first != np.arange(n)).any():
        inner = inner[np.ix_(first, first)]  # equal rows: equal distances, and 0 between them
    sizes = inner.diagonal().copy()
    noise = (
        2 * float(np.median(sizes)) * float(np.finfo(updates.dtype).eps) * math.sqrt(min(width, max(len(columns), 1)))
    )
    return Products(inner, sizes, sizes, noise)


def _cross_products(rows: Floats, updates: Floats, columns: Indices) -> Products:
    """Of `rows` (m) with `updates` (n). Nobody asks for the noise here."""
    inner, ours, theirs = np.zeros((len(rows), len(updates))), np.zeros(len(rows)), np.zeros(len(updates))
    for part in _chunks(columns, _width(len(rows) + len(updates))):
        a, b = (_take(x, np.arange(len(x)), part, np.empty(len(x) * len(part), x.dtype)) for x in (rows, updates))
        centre = _centre(b)
        a -= centre
        b -= centre
        inner += a @ b.T
        ours += np.einsum("ij,ij->i", a, a)
        theirs += np.einsum("ij,ij->i", b, b)
    return Products(inner, ours, theirs, 0.0)


def _neighbourhoods(
    products: Callable[[Indices], Products], blocks: list[Indices], rest: Indices, k: int, itself: bool
) -> tuple[Indices, Doubles, Iterator[tuple[Floats, float]]]:
    """Find the neighbours by whole updates, and the distances to them by label.

    The products of whole updates are the sum of the blocks', so each pair of rows is multiplied once, as long as the
    blocks' products may be kept.

    Returns
    -------
    neighbours : ndarray of int, shape (m, k)
    member : ndarray, shape (m, n)
        1 for a neighbour, 0 for others.
    near : iterator of (ndarray of shape (m, k), float)
        For each block in turn the squared distances to the neighbours, and how much of one may be rounding.
    """
    inner, sizes = np.empty(0), np.empty(0)
    kept: dict[int, Products] = {}
    for label, columns in enumerate([*blocks, rest] if len(rest) else blocks):
        block = products(columns)
        for size in (block.rows, block.columns):
            if not size.max() < np.finfo(size.dtype).max / 8:  # false for NaN too
                raise ValueError(NOT_FINITE)
        if label == 0:
            inner, sizes = block.inner.astype(np.float64), block.columns.astype(np.float64)
        else:
            inner += block.inner
            sizes += block.columns
        if label < len(blocks) and (len(kept) + 1) * block.inner.nbytes <= KEEP:
            kept[label] = block
    distance = np.subtract(sizes / 2, inner, out=inner)  # half the square, but for the row's own size: same order
    if itself:
        np.fill_diagonal(distance, np.inf)
    mask = _nearest(distance, k)
    at = np.flatnonzero(mask)
    neighbours = at % len(sizes)

    def near() -> Iterator[tuple[Floats, float]]:
        for label, columns in enumerate(blocks):
            block = kept.pop(label) if label in kept else products(columns)
            squared = np.take(block.columns, neighbours).reshape(-1, k)
            squared += block.rows[:, None]
            twice = np.take(block.inner, at).reshape(-1, k)
            twice *= 2
            squared -= twice
            yield np.maximum(squared, 0, out=squared), block.noise

    distance[...] = mask  # its memory is there, and mapping as much again costs more than filling it
    return neighbours.reshape(-1, k), distance, near()


def _nearest(distance: Doubles, k: int) -> npt.NDArray[np.bool_]:
    """The k smallest of each row, ties to the first."""
    limit = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    mask: npt.NDArray[np.bool_] = distance <= limit
    surplus = np.count_nonzero(mask, axis=1) - k
    for i in np.flatnonzero(surplus):
        mask[i, np.flatnonzero(distance[i] == limit[i])[-surplus[i] :]] = False
    return mask


def _bandwidth(squared: Floats, noise: float, kernel: Kernel, c: float) -> float:
    """``c`` times the median over updates of the root mean square distance to the neighbours; see `malicious_factor`."""
    each = squared.mean(axis=1, dtype=np.float64)
    for typical in (float(np.median(each)), float(np.mean(each))):
        if typical > noise:
            return c * (typical if kernel == "appendix" else math.sqrt(typical))
    return 0.0


def _log_density(squared: Floats, kernel: Kernel, h: float) -> Doubles:
    """Eq. 5 with Eq. 6: ``log(1/k sum_j K)``, shape (m,). 0 where the bandwidth is."""
    if h == 0:
        return np.zeros(len(squared))
    distance = np.sqrt(squared) if kernel == "printed" else squared
    width = 2 * h * h if kernel == "gaussian" else 2 * h
    closest = distance.min(axis=1, keepdims=True)  # the largest term is exp(0): the sum cannot underflow
    terms = np.subtract(closest, distance)
    terms /= max(width, float(np.finfo(terms.dtype).tiny))
    np.exp(terms, out=terms)
    density: Doubles = np.log(terms.sum(axis=1) / squared.shape[1]) - closest[:, 0].astype(np.float64) / width
    return density


def _log_ratio(neighbours: Indices, member: Doubles, theirs: Doubles, own: Doubles) -> Doubles:
    """Eq. 7: ``log(1/k sum_{j in U_i} q_j) - log q_i``, shape (m, R)."""
    top = theirs.max(axis=0)
    mean = member @ np.exp(theirs - top) / neighbours.shape[1]  # no array of m x k x R
    ratio: Doubles = np.log(np.maximum(mean, TINY)) + top - own
    for label in np.flatnonzero((mean < TINY).any(axis=0)):  # neighbours far sparser than the densest place of all
        rows = np.flatnonzero(mean[:, label] < TINY)
        near = theirs[neighbours[rows], label]
        top_near = near.max(axis=1)
        ratio[rows, label] = np.log(np.exp(near - top_near[:, None]).mean(axis=1)) + top_near - own[rows, label]
    return ratio
