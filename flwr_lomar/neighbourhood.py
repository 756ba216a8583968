"""Who is near whom, and how far: the neighbourhoods of LoMar's phase I (Sec. 3.2, before Eq. 4), label by label.

Distances come from `flwr_faa.detection.geometry` and have its precision. The squared distance of whole updates is the
sum over the labels and over the columns of no label. Updates that are closer than rounding count as equal; the distance
of rows that are equal is exactly 0.

Cost: that of the geometry, and O(n^2 R) more. Memory beside the updates: n x n numbers for each label. If that is more
than the geometry keeps (``KEEP``), each label is measured again when its turn comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.blocks import Block
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.units import Unit
from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies import kernels

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The k nearest others of each of n updates: ``U_i`` of Sec. 3.2.

    Attributes
    ----------
    index : ndarray of int, shape (n, k)
        Their rows, in any order.
    member : ndarray, shape (n, n)
        The same as 1 and 0.
    """

    index: Indices
    member: Doubles


@dataclass(frozen=True, eq=False)
class Seen:
    """Updates, block by block, and the order in which answers about them are wanted.

    Parameters
    ----------
    cloud : Cloud
    rows : ndarray of int, shape (n,)
        Which of them, as places of the canonical order, ascending. Blocks have their rows in this order.
    place : ndarray of int, shape (n,)
        For each answer, the place among ``rows`` of its update, or of the first update that equals it.
    number : ndarray of int, shape (n,)
        For each of ``rows``, the number of the answer about it.
    """

    cloud: Cloud
    rows: Indices
    place: Indices
    number: Indices

    @classmethod
    def of_all(cls, cloud: Cloud) -> Seen:
        """Take all updates; answers come in the order of the cloud's rows."""
        return cls(cloud, np.arange(len(cloud)), cloud.place, np.array(cloud.order, np.intp))

    @classmethod
    def of_some(cls, cloud: Cloud, rows: Indices) -> Seen:
        """Take some updates; answers come in the order of ``rows``."""
        place = np.searchsorted(rows, cloud.place[np.array(cloud.order, np.intp)[rows]])
        return cls(cloud, rows, place, np.arange(len(rows)))

    @property
    def statistics(self) -> Floats:
        """Columns of running statistics, in the order of the answers."""
        order = np.array(self.cloud.order, np.intp)[self.rows]
        return self.cloud.statistics[order[np.argsort(self.number)]]

    @property
    def several(self) -> bool:
        """Whether there is more than one label."""
        return len(self.cloud.label_blocks) > 1

    def labels(self) -> Iterator[Block]:
        """Yield the columns of each label, or all columns where there are no labels."""
        return map(self._among, self.cloud.each_label() if self.cloud.label_blocks else (self.cloud.whole,))

    @property
    def blocks(self) -> dict[str, Block]:
        """The whole updates; and, where there are both, the columns of the labels and those of none."""
        parts = {"update": self.cloud.whole, "classifier": self.cloud.classifier, "backbone": self.cloud.backbone}
        return {name: self._among(block) for name, block in parts.items() if block is not None}

    def _among(self, block: Block) -> Block:
        return block if len(self.rows) == len(self.cloud) else block.among(self.rows)


def split_columns(label_blocks: Sequence[npt.ArrayLike] | None, d: int | None) -> tuple[list[Indices], Indices]:
    """Return the columns of each block, sorted, and those in none.

    Without blocks, all columns are one block. ``d`` is the number of columns, None if it is not known yet.
    """
    if not (label_blocks is None or isinstance(label_blocks, (Sequence, np.ndarray))):
        raise ArgumentValueError(
            f"expected label_blocks to be a sequence of columns, got {type(label_blocks).__name__}"
        )
    if label_blocks is None or len(label_blocks) == 0:
        return [np.arange(d or 0)], np.empty(0, np.intp)
    blocks = [_columns(block) for block in label_blocks]
    if d is None:
        d = 1 + max((int(block[-1]) for block in blocks if len(block)), default=-1)
    for block in blocks:
        if len(block) and (block[0] < 0 or block[-1] >= d):
            raise ArgumentValueError(
                f"expected columns from 0 to {d - 1} in label_blocks, got {block[0]} to {block[-1]}"
            )
    times = np.bincount(np.concatenate(blocks), minlength=d)
    if (times > 1).any():
        raise ArgumentValueError(f"expected disjoint label_blocks, got column {times.argmax()} {times.max()} times")
    return blocks, np.flatnonzero(times == 0)


def cloud_of(
    updates: Floats, label_blocks: Sequence[npt.ArrayLike] | None = None, statistics: int = 0, free: bool = False
) -> Cloud:
    """Return the rows of a matrix as a cloud of points.

    Parameters
    ----------
    updates : ndarray, shape (n, d)
        float32 or float64, one update a row, n >= 1, d >= 1.
    label_blocks : sequence of array-like of int, optional
        Columns of each label, disjoint.
    statistics : int (default: 0)
        So many of the last columns are in no distance.
    free : bool (default: False)
        The unit of the updates does not matter, so it may be changed if they are huge or tiny.

    Raises
    ------
    ValueError
        If a value is not finite, or too large for its square to be, or ``label_blocks`` are not disjoint columns.
    """
    n, d = updates.shape[0], updates.shape[1] - statistics
    blocks, _ = split_columns(label_blocks, d)
    updates = np.ascontiguousarray(updates)
    largest = kernels.PLAIN.largest(updates[:, :d]).astype(np.float64)
    unit = Unit.of(largest) if free else None
    limit = math.sqrt(float(np.finfo(updates.dtype).max) / d) / 3 if n > 1 and unit is None else np.inf
    if not largest.max() < limit:  # true for NaN too
        raise ArgumentValueError("expected finite updates with finite squares, got NaN, infinity or too large a number")
    return Cloud.of_matrix(updates, blocks if label_blocks is not None and len(label_blocks) else (), d, unit)


def _columns(block: npt.ArrayLike) -> Indices:
    columns = np.asarray(block)
    if columns.ndim != 1 or (len(columns) and columns.dtype.kind not in "iu"):
        raise ArgumentValueError(f"expected a list of column numbers in label_blocks, got {block!r:.60}")
    return np.sort(columns.astype(np.intp))


def neighbours(squared: Doubles, k: int) -> Neighbourhoods:
    """Return the k nearest others of each of n updates, 1 <= k < n, from squared distances, shape (n, n). O(n^2)."""
    n, distance = len(squared), squared.copy()
    np.fill_diagonal(distance, np.inf)
    mask = mark_nearest(distance, k)
    index = (np.flatnonzero(mask) % n).reshape(n, k)
    distance[...] = mask  # its memory is there, and mapping as much again costs more than filling it
    return Neighbourhoods(index, distance)


def mark_nearest(distance: Doubles, k: int) -> npt.NDArray[np.bool_]:
    """Return where the k smallest of each row are; ties go to the first."""
    limit = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    mask: npt.NDArray[np.bool_] = distance <= limit
    surplus = np.count_nonzero(mask, axis=1) - k
    for i in np.flatnonzero(surplus):
        mask[i, np.flatnonzero(distance[i] == limit[i])[-surplus[i] :]] = False
    return mask
