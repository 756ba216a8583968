"""A trace by its definition: projections by an oracle of their own, measures by hand, and which steps they open."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace, largest, trace_size
from flwr_faa.verification.training import Checkpoint

ROOT = bytes(range(32))


def normed(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, units), nn.BatchNorm1d(units))


def layout(momentum: float = 0.0, units: int = 2) -> StateLayout:
    return StateLayout.of(TrainingPlan(lambda: normed(units), lr=0.1, momentum=momentum))


#: One length or two, and a share where there are buffers.
LAYOUTS = {
    "plain": StateLayout.of(TrainingPlan(lambda: nn.Linear(3, 2), lr=0.1)),
    "momentum": StateLayout.of(TrainingPlan(lambda: nn.Linear(3, 2), lr=0.1, momentum=0.5)),
    "buffers": layout(),
    "both": layout(0.5),
    "many buffers": layout(units=9),
}


def run(at: StateLayout, count: int = 4, size: float = 1.0) -> list[Checkpoint]:
    """Checkpoints of random numbers; the second is the first again."""
    rng = np.random.default_rng(3)
    every = [
        [(size * rng.standard_normal(s)).astype(d) for s, d in zip(at.shapes, at.dtypes, strict=True)]
        for _ in range(count)
    ]
    every[1] = every[0]
    return [Checkpoint(tuple(a[: at.arrays]), tuple(a[at.arrays :])) for a in every]


def encoded(at: StateLayout, states: list[Checkpoint]) -> np.ndarray:
    return np.stack([np.frombuffer(at.encode(state), np.uint8) for state in states])


def signs(root: bytes, block: int, count: int) -> np.ndarray:
    """32 signs a coordinate, each a bit of a hash, the first bit of a byte first."""
    raw = hashlib.shake_256(b"faa/trace/v1\0" + root + block.to_bytes(8, "big")).digest(count * 4)
    return np.array([[1 if byte >> (7 - bit) & 1 else -1 for byte in raw[4 * i : 4 * i + 4] for bit in range(8)]
                     for i in range(count)], float)  # fmt: skip


def projected(at: StateLayout, states: list[Checkpoint]) -> np.ndarray:
    """Positions as the docstring defines them: blocks of 2^14 coordinates of each parameter, numbered on."""
    rows = []
    for state in states:
        w = [state.arrays[i].ravel() - states[0].arrays[i].astype(float).ravel() for i in at.parameters]
        m = [a.ravel() - b.astype(float).ravel() for a, b in zip(state.momentum, states[0].momentum, strict=True)]
        seen = [w, [a - at.coast * b for a, b in zip(w, m, strict=True)]] if at.coast else [w]
        row = []
        for moved in seen:
            block, total = 0, np.zeros(32)
            for flat in moved:
                for start in range(0, len(flat), 2**14):
                    part = flat[start : start + 2**14]
                    total += part @ signs(ROOT, block, len(part))
                    block += 1
            row.append(total / math.sqrt(32))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("name", LAYOUTS)
def test_positions_are_projections_by_signs_that_the_root_gives(name: str, size: float) -> None:
    at = LAYOUTS[name]
    states = run(at, size=1.0 if at.buffers else size)
    trace = Trace.of(at, encoded(at, states), ROOT)
    wanted = projected(at, states)
    assert trace.positions.dtype == np.float32 and trace.positions.shape == wanted.shape
    assert (trace.positions[:2] == 0).all()  # what has not moved is exactly where it was
    assert np.allclose(trace.positions, wanted, rtol=1e-4, atol=1e-5 * size)
    kept = [np.concatenate([s.arrays[i].ravel() for i in at.buffers] or [np.zeros(0)]) for s in states]
    assert trace.buffers.dtype == np.float64 and np.array_equal(trace.buffers, np.array(kept))


def test_large_parameters_are_projected_in_blocks_that_all_sides_number_alike() -> None:
    at = StateLayout.of(TrainingPlan(lambda: nn.Linear(2**14 + 3, 1), lr=0.1))
    states = run(at, 3)
    trace = Trace.of(at, encoded(at, states), ROOT)
    assert np.allclose(trace.positions, projected(at, states), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "row"), [("plain", 128), ("momentum", 256), ("buffers", 168), ("both", 296), ("many buffers", 280)]
)
def test_a_trace_is_read_as_it_was_written(name: str, row: int) -> None:
    """A checkpoint's row: 32 floats of 4 bytes a length, and 8 bytes for each of five or 19 numbers in buffers."""
    at = LAYOUTS[name]
    assert trace_size(at) == row
    trace = Trace.of(at, encoded(at, run(at, 5)), ROOT)
    data = trace.to_bytes()
    assert len(data) == 5 * row
    read = Trace.from_bytes(at, data)
    for mine, got in ((trace.positions, read.positions), (trace.buffers, read.buffers)):
        assert mine.dtype == got.dtype and np.array_equal(mine, got)
    assert data == trace.positions.astype("<f4").tobytes() + trace.buffers.astype("<f8").tobytes()
    assert read.digest == trace.digest == hashlib.sha256(b"faa/trace/v1\0" + data).digest()


# What every step changed


def traced(lengths: list[list[float]], buffers: list[list[float]] | None = None) -> Trace:
    """A trace whose w and v are so far from the start, all along one axis."""
    positions = np.zeros((len(lengths[0]), len(lengths), 32), np.float32)
    for k, along in enumerate(lengths):
        positions[:, k, 5] = along
    return Trace(positions, np.array(buffers if buffers is not None else [[]] * len(lengths[0]), float))


def test_a_step_is_as_long_as_its_positions_are_apart() -> None:
    positions = np.zeros((3, 2, 32), np.float32)
    positions[1, 0, :2], positions[2, 0, :2] = (3, 4), (3, 0)
    positions[1, 1, 7], positions[2, 1, 7] = -2, -2
    moves = Trace(positions, np.zeros((3, 0))).moves()
    assert moves.dtype == np.float32 and moves.tolist() == [[5, 2], [4, 0]]


def test_a_buffers_step_is_its_share_of_all_that_the_run_moved_it() -> None:
    """Of each number 1/1000 of its first and last size is added to what it moved; the largest share counts."""
    moves = traced([[0, 1, 3]], [[10, 0, -4], [14, 0, -4], [12, 0, -4]]).moves()
    whole = 4 + 2 + 1e-3 * (10 + 12)
    assert moves[:, 0].tolist() == [1, 2]
    assert moves[:, 1] == pytest.approx([4 / whole, 2 / whole])
    # Another number may have the larger share; one that stays has none, whatever its size, nor has one that is zero.
    moves = traced([[0, 1, 3]], [[10, 1], [14, 1], [12, 2]]).moves()
    assert moves[:, 1] == pytest.approx([4 / whole, 1 / (1 + 1e-3 * 3)])
    assert traced([[0, 1, 3]], [[0, 7], [0, 7], [0, 7]]).moves()[:, 1].tolist() == [0, 0]
    # There and back again: its ends hide nothing.
    assert traced([[0, 1, 3]], [[0], [-5], [0]]).moves()[:, 1].tolist() == [0.5, 0.5]


def test_without_buffers_there_are_lengths_alone() -> None:
    assert traced([[0, 1, 3]]).moves().tolist() == [[1], [2]]
    assert traced([[0, 1, 3], [0, -1, 0]]).moves().tolist() == [[1, 1], [2, 1]]


# Two computations of one trace


def test_projections_may_differ_by_a_thousandth_of_their_length() -> None:
    own = traced([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]], [[1.0], [2.0], [3.0]])
    assert own.differs(own) is None
    for row, k in ((0, 0), (1, 0), (2, 0), (2, 1)):
        size = float(own.positions[row, k, 5])
        for share, found in ((0.9e-3, None), (-0.9e-3, None), (1.1e-3, row), (-1.1e-3, row)):
            positions = own.positions.copy()
            positions[row, k, 6] = share * size  # across, so that the distance is just this
            assert replace(own, positions=positions).differs(own) == found
    # What is at the start by the reader's count is there by the other's.
    positions = own.positions.copy()
    positions[1, 1, 6] = 1e-20
    assert replace(own, positions=positions).differs(own) == 1
    positions[1, 1, 6] = np.nan
    assert replace(own, positions=positions).differs(own) == 1


@pytest.mark.parametrize("by", [1e-12, -1e-12])
def test_buffers_may_not_differ_at_all_and_the_first_row_is_named(by: float) -> None:
    own = traced([[1.0, 2.0, 4.0]], [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    for rows, first in (([0], 0), ([2], 2), ([1, 2], 1)):
        buffers = own.buffers.copy()
        buffers[rows, 1] += by
        assert replace(own, buffers=buffers).differs(own) == first


# Which steps are always opened


def moves(*columns: list[float]) -> np.ndarray:
    return np.array(columns, np.float32).T


def test_the_first_the_longest_and_the_one_that_grew_most_are_opened() -> None:
    assert largest(moves([1]), 1) == {0}
    assert largest(moves([1, 1]), 1) == {0, 1}  # of equal growth the first
    assert largest(moves([1, 3, 2]), 1) == {0, 1}
    # Step 2 is 10 times the longest before it, step 4 longest of all; step 3 is no growth over step 2.
    assert largest(moves([1, 0.5, 10, 9, 11]), 1) == {0, 2, 4}
    # Growth is over the longest of all steps before, not over the last one.
    assert largest(moves([8, 0.1, 8, 10]), 1) == {0, 3}
    # From nothing everything is growth.
    assert largest(moves([0, 0, 1e-30, 5]), 1) == {0, 2, 3}


def test_each_measure_opens_its_longest_step_and_the_longer_length_grows() -> None:
    w, v, share = [1, 1, 1, 2, 1], [1, 3, 1, 1, 1], [0.1, 0.1, 0.9, 0.1, 0.1]
    assert largest(moves(w, v), 2) == {0, 1, 3}
    assert largest(moves(w, v, share), 2) == {0, 1, 2, 3}
    # A share is no length: it does not count for growth.
    assert largest(moves([1, 1.5, 1, 2], [0, 0, 1, 0]), 1) == {0, 1, 2, 3}
    assert largest(moves([1, 1.5, 1, 2], [0, 0, 9, 0]), 2) == {0, 2, 3}
