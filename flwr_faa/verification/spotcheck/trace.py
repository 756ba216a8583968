r"""What every step of a run changed, committed to so that no step that stays closed can have changed much.

A step that is not opened could end anywhere. What limits it is that everything a step can change is measured, that the
step which by these measures changed most is opened, and that the measures cannot be lied about cheaply:

* **Parameters** ``w``: the length of ``w_{t+1} - w_t``.
* **Momentum** ``m`` by what it will do. Without further gradients the parameters would coast to
  ``v_t = w_t - lr mu / (1 - mu) m_t``. One honest step moves v by exactly ``-lr / (1 - mu)`` times its gradient, and a
  kick to the buffer moves it by all that the kick will ever do. If the last step is honest, what one step adds to the
  final parameters is, to first order, at most the larger of what it adds to w and to v.
* **Buffers** (running statistics, counters), each number by itself: what share a step has in all that the run moved it.

Lengths are taken of random projections (``SKETCH`` signs a coordinate, Johnson and Lindenstrauss), which are drawn from
the root over all checkpoints: who commits to a run does not know them before. The projections of all checkpoints and
all the buffers are bound by a hash that goes with the update, and shown when the node is challenged. Then every opened
checkpoint must be what was projected. So a step longer than the longest that was opened honestly can only be hidden by
lies about several checkpoints in a row, one for each longest step that it is worth, and any of them that is opened
convicts.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.verification.spotcheck.state import StateLayout

#: Random projections of a checkpoint. A length is off by 12% (standard deviation); with 2^27 tries at another root an
#: attacker has one of its changes look .4 times as long as it is.
SKETCH = 32
#: A buffer that hardly moves is measured against this share of its size: what moves it is rounding alone.
FLOOR = 1e-3
#: By which two machines' projections may differ, relative to their length.
ROUNDING = 1e-3
_COLUMNS = 2**14  # coordinates projected at a time: 2 MB of signs
_TAG = b"faa/trace/v1\0"
#: The eight signs that a byte says.
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * np.float32(2) - np.float32(
    1
)

Encoded = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Trace:
    """Of a run of S steps.

    Attributes
    ----------
    positions : float32, shape (S + 1, k, SKETCH)
        Projections of ``w_t - w_0`` and, where there is momentum (k = 2), of ``v_t - v_0``.
    buffers : float64, shape (S + 1, n)
        All buffers that may change.
    """

    positions: npt.NDArray[np.float32]
    buffers: npt.NDArray[np.float64]

    @classmethod
    def of(cls, layout: StateLayout, states: Encoded, root: bytes) -> Trace:
        """Return the trace of encoded checkpoints, shape (m, bytes); the first is the run's start."""
        total = np.zeros((1 + bool(layout.coast), len(states), SKETCH))
        number = 0
        for w_at, m_at, size, dtype in layout.spans():
            for start in range(0, size, _COLUMNS):
                count = min(_COLUMNS, size - start)
                moved = _moved(states, w_at + start * dtype.itemsize, count, dtype)
                signs = _signs(root, number, count)
                total[0, 1:] += _product(moved, signs)
                if layout.coast:
                    kept = _moved(states, m_at + start * dtype.itemsize, count, dtype)
                    total[1, 1:] += _product(moved - layout.coast * kept, signs)
                number += 1
        columns = [_column(states, at, size, dtype).astype(np.float64) for at, size, dtype in layout.buffer_spans()]
        buffers = np.concatenate(columns, axis=1) if columns else np.zeros((len(states), 0))
        with np.errstate(over="ignore"):
            positions = (total / math.sqrt(SKETCH)).transpose(1, 0, 2).astype(np.float32)
        return cls(np.ascontiguousarray(positions), buffers)

    def to_bytes(self) -> bytes:
        """Both, little-endian; how long each is follows from plan and steps."""
        return self.positions.astype("<f4").tobytes() + self.buffers.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, layout: StateLayout, data: bytes) -> Trace:
        """The inverse of ``to_bytes``, for bytes of the right length."""
        count, k, n = len(data) // trace_size(layout), 1 + bool(layout.coast), layout.buffer_count
        cut = count * k * SKETCH * 4
        positions = np.frombuffer(data[:cut], "<f4").reshape(count, k, SKETCH).astype(np.float32)
        return cls(positions, np.frombuffer(data[cut:], "<f8").reshape(count, n).astype(np.float64))

    @property
    def digest(self) -> bytes:
        """What is committed to."""
        return hashlib.sha256(_TAG + self.to_bytes()).digest()

    def moves(self) -> npt.NDArray[np.float32]:
        """What every step changed, one column a measure, shape (S, k) or (S, k + 1)."""
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(np.diff(self.positions.astype(np.float64), axis=0), axis=2)
            measures = [*lengths.T]
            if self.buffers.shape[1]:
                changes = np.abs(np.diff(self.buffers, axis=0))
                whole = changes.sum(0) + FLOOR * (np.abs(self.buffers[0]) + np.abs(self.buffers[-1]))
                measures.append((changes / np.where(whole > 0, whole, 1.0)).max(axis=1))
            return np.asarray(np.stack(measures, axis=1).astype(np.float32))

    def differs(self, own: Trace) -> int | None:
        """The first row that differs from what the reader has computed of the same checkpoints; None if none does."""
        off = np.linalg.norm(self.positions.astype(np.float64) - own.positions, axis=2)
        size = np.linalg.norm(own.positions.astype(np.float64), axis=2)
        wrong = ~(off <= ROUNDING * size + 1e-30).all(axis=1) | (self.buffers != own.buffers).any(axis=1)
        return int(np.argmax(wrong)) if wrong.any() else None


def trace_size(layout: StateLayout) -> int:
    """Return the bytes of one checkpoint's row in a trace."""
    return layout.lengths * SKETCH * 4 + layout.buffer_count * 8


def largest(moves: npt.NDArray[np.float32], lengths: int) -> set[int]:
    """The steps that are opened always, besides the last, by what every step changed.

    The first, the ones that changed most by each measure, and the one that is longest relative to all *before* it. A
    kick may make the honest steps after it longer than itself, but not those before it: no step that stays closed is
    longer than the longest before it, times the largest such growth, which was honest.

    Parameters
    ----------
    moves : float32, shape (S, measures)
    lengths : int
        How many of the measures are lengths.
    """
    length = moves[:, :lengths].astype(np.float64).max(axis=1)
    before = np.maximum.accumulate(length)[:-1]
    growth = length[1:] / np.maximum(before, np.finfo(np.float64).tiny)
    found = {0, *moves.argmax(axis=0).tolist()}
    return found | {int(growth.argmax()) + 1} if len(growth) else found


def _column(states: Encoded, at: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """So many numbers from that byte on, of every state, shape (m, count)."""
    return np.ascontiguousarray(states[:, at : at + count * dtype.itemsize]).view(dtype)


def _moved(states: Encoded, at: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[np.float64]:
    """By how much these numbers have moved since the first state, in every other."""
    values = _column(states, at, count, dtype).astype(np.float64)
    return np.asarray(values[1:] - values[0])


def _product(moved: npt.NDArray[np.float64], signs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """``moved @ signs`` in single precision, whatever the size of the numbers."""
    scale = np.abs(moved).max(axis=1, keepdims=True)
    unit = moved / np.where(scale > 0, scale, 1.0)
    return np.asarray((unit.astype(np.float32) @ signs) * scale)


def _signs(root: bytes, number: int, count: int) -> npt.NDArray[np.float32]:
    """Random signs, shape (count, SKETCH): the same for all who know the root."""
    raw = hashlib.shake_256(_TAG + root + number.to_bytes(8, "big")).digest(count * SKETCH // 8)
    return np.take(_SIGNS, np.frombuffer(raw, np.uint8), axis=0).reshape(count, SKETCH)
