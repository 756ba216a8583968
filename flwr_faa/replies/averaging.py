"""How accepted updates become the new global model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies import kernels
from flwr_faa.replies.layout import Arrays, Layout, Role
from flwr_faa.replies.rows import bunches, flat, runs
from flwr_faa.replies.threads import shared_out
from flwr_faa.replies.updates import Batch

#: Entries that are averaged at a time: in float64 they stay in a processor's cache.
PIECE = 2**14


def average(
    batch: Batch, rows: Sequence[int], model: Arrays, *, renormalise: bool = True, bookkeeping_only: bool = False
) -> list[npt.NDArray[Any]]:
    """Return ``w + sum_i alpha_i (w_i - w)`` over some rows (FAA-DL, Eq. 4), each array in its own dtype.

    Computed as ``sum_i alpha_i w_i + (1 - sum_i alpha_i) w``, which does not lose a small weight in a large
    difference; an entry that no row changes stays bit for bit. Floats are added up in float64. Bookkeeping is added up
    as differences from the first row, in extended floats, which hold those of 64-bit integers: what all rows agree on
    comes out to its last bit, whatever their number. It is rounded to the nearest, halves to even.

    Parameters
    ----------
    batch : Batch
    rows : sequence of int
        At least one, in the order in which they are added up.
    model : sequence of ndarray
        The w that was broadcast.
    renormalise : bool
        Let the alpha of these rows sum to one. False is LoMar's Eq. 3 as printed: the rows that are left out count as
        if they had sent w.
    bookkeeping_only : bool
        Leave parameters and statistics as they are in ``model``.
    """
    alpha = batch.weights / sum(batch.weights[i] for i in (rows if renormalise else batch.canonical))
    # Not below zero by a rounding: a mask of -inf would become NaN.
    rest = 0.0 if renormalise else max(0.0, 1.0 - float(sum(alpha[i] for i in rows)))
    shares = [*(float(alpha[i]) for i in rows), rest]
    fast, new = kernels.fastest(len(rows) * batch.layout.size), []
    with shared_out(len(rows) * batch.layout.size) as each:
        for i, w in enumerate(model):
            bookkeeping = batch.layout.roles[i] is Role.BOOKKEEPING
            if bookkeeping_only and not bookkeeping:
                new.append(np.array(w))
                continue
            mean = np.empty_like(w, order="C")
            new.append(mean)
            add = partial(_add, flat(w), mean.reshape(-1), [flat(batch.models[row][i]) for row in rows], shares)
            for _ in each(partial(add, bookkeeping, fast), bunches(runs(0, w.size, PIECE))):
                pass
    return new


def _add(
    here: Any,
    into: npt.NDArray[Any],
    arrays: Sequence[Any],
    shares: Sequence[float],
    bookkeeping: bool,
    fast: kernels.Kernels,
    parts: Sequence[slice],
) -> None:
    """Write the average of some parts of one array: of the rows' arrays, and of what was ``here`` by the last share."""
    rest, sums = shares[-1], np.empty(PIECE)
    for part in parts:
        pieces = [array[part] for array in arrays]
        if bookkeeping:
            origin = pieces[0].astype(np.longdouble)
            total = origin + rest * (here[part].astype(np.longdouble) - origin)
            for share, piece in zip(shares[1:], pieces[1:], strict=False):
                total = total + share * (piece.astype(np.longdouble) - origin)
        else:
            total = sums[: part.stop - part.start]
            total[:] = -0.0  # to which anything can be added, -0 too
            more = [here[part]] if rest else []
            fast.add(total, pieces + more, shares[: len(pieces + more)])
        # Shorter floats absorb the rounding of float64: what nobody changes comes back bit for bit by itself.
        if bookkeeping or into.dtype.itemsize >= 8:
            changed = np.logical_or.reduce([piece != here[part] for piece in pieces])
            into[part] = _into(total, changed, here[part])
        else:
            into[part] = total


def apply_update(model: Arrays, update: npt.NDArray[np.float64], layout: Layout) -> list[npt.NDArray[Any]]:
    """Return ``w + update``, each array in its own dtype; bookkeeping stays, since it has no columns."""
    new = []
    for part, w, role in zip(layout.layers, model, layout.roles, strict=True):
        if role is Role.BOOKKEEPING:
            new.append(np.array(w))
            continue
        step = update[part].reshape(w.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            new.append(_into(w.astype(np.float64) + step, step != 0, w))
    return new


def into_dtype(found: npt.NDArray[Any], w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in the dtype of ``w``, integers rounded; what equals w stays w bit for bit.

    Raises
    ------
    ValueError
        If it has no real numbers, or they are not finite where those of w are.
    """
    if found.dtype.kind not in "fiub":
        raise ArgumentValueError(f"expected an array of {w.dtype}, got {found.dtype}")
    if found.dtype == w.dtype:
        return found
    new = _into(found, found != w, w)
    if w.dtype.kind == "f" and bool((np.isfinite(w) & ~np.isfinite(new)).any()):
        raise ArgumentValueError(f"expected values that {w.dtype} holds, got {found.dtype} with others")
    return new


def _into(total: npt.NDArray[Any], changed: npt.NDArray[np.bool_], w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``total`` in the dtype of w where it changed, and w elsewhere."""
    if w.dtype.kind in "iu":  # a mean of the largest integers may round to one more
        info = np.iinfo(w.dtype)
        total = np.clip(np.rint(total), np.longdouble(info.min), np.longdouble(info.max))
    elif w.dtype.kind == "b":
        total = np.rint(total)
    new = np.array(w)
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(new, np.asarray(total).astype(w.dtype), where=changed)
    return new
