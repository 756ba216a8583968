r"""Pedersen commitments to vectors of integers: one point for a whole sample.

Pedersen, "Non-interactive and information-theoretic secure verifiable secret sharing", CRYPTO 1991, generalised to
vectors and written additively, with the bases of ``generators.py``::

    C = r G_0 + x_1 G_1 + ... + x_n G_n        r uniform modulo the order

**Hiding** is perfect: every vector has one r for every C. **Binding** is computational: who opens one C to two vectors
has found a discrete logarithm between the bases. Commitments are linear, ``Com(x; r) + Com(y; s) = Com(x + y; r + s)``,
which is what the proofs of ``linear.py`` use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group, Point
from flwr_faa.crypto.groups import bucketed, buckets, multiples
from flwr_faa.errors import ArgumentValueError

#: Values above this are not samples (``authority.registration.MAX_TOP``).
MAX_VALUE = 2**31 - 1


def commit_rows(group: Group, rows: npt.NDArray[np.integer], blindings: Sequence[int]) -> list[Point]:
    """Commit to every row of a matrix of small non-negative integers.

    About two additions for every value that is not zero, 30 for each of their base-16 digits, and one fixed-base
    multiplication.

    Parameters
    ----------
    group : Group
    rows : integers from 0 to ``MAX_VALUE``, shape (m, n)
    blindings : sequence of int, length m
        The r of each row: uniform modulo the order, secret, never used for another row.

    Returns
    -------
    list of Point, length m

    Raises
    ------
    ValueError
        If the rows are not such integers, or there is not one blinding for each.
    """
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ArgumentValueError(f"expected integers of shape (m, n), got {rows.dtype} of shape {rows.shape}")
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) <= MAX_VALUE:
        raise ArgumentValueError(f"expected values from 0 to {MAX_VALUE}, got {rows.min()} to {rows.max()}")
    if len(blindings) != len(rows):
        raise ArgumentValueError(f"expected {len(rows)} blindings, got {len(blindings)}")
    first, *bases = generators(group, rows.shape[1])
    masks = multiples(group, first, list(blindings))
    return [group.add(mask, _weighted(group, bases, row)) for mask, row in zip(masks, rows, strict=True)]


def _weighted(group: Group, bases: Sequence[Point], values: npt.NDArray[np.integer]) -> Point:
    """``sum values[j] * bases[j]``, base-16 digit by digit from the highest."""
    shifts = range(0, int(values.max(initial=0)).bit_length(), 4)
    return bucketed(group, bases, (buckets((values >> shift) & 15) for shift in reversed(shifts)), 4)
