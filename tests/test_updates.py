"""Validation of replies: what is rejected and why, and that the rest becomes the right updates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.updates import CAP, Layout, Reply, apply_update, read_replies

MODEL = [np.ones((3, 2), np.float32), np.zeros(3, np.float32), np.array(5, np.int64)]


def reply(node_id: int, shift: float = 1.0, examples: object = 10) -> Reply:
    return Reply(node_id, [(a + shift).astype(a.dtype) for a in MODEL], examples)


def test_rows_are_sorted_by_node_id_and_the_model_is_subtracted() -> None:
    batch = read_replies([reply(9, 1.0), reply(2, 2.0)], MODEL)
    assert batch.node_ids == (2, 9)
    np.testing.assert_array_equal(batch.updates, [[2.0] * 10, [1.0] * 10])
    assert not batch.rejected


def with_array(index: int, array: np.ndarray) -> list[np.ndarray]:
    arrays = [a.copy() for a in MODEL]
    arrays[index] = array
    return arrays


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (with_array(0, np.full((3, 2), np.nan, np.float32)), "finite values"),
        (with_array(0, np.full((3, 2), -np.inf, np.float32)), "finite values"),
        (with_array(1, np.full(3, 1e30, np.float32)), "finite values"),
        (with_array(1, np.zeros(4, np.float32)), "expected shape (3,), got (4,)"),
        (with_array(1, np.zeros((1, 3), np.float32)), "expected shape (3,), got (1, 3)"),
        (with_array(1, np.zeros(3, np.float64)), "expected dtype float32, got float64"),
        (with_array(1, np.array(["a"] * 3)), "expected dtype float32"),
        (with_array(1, np.zeros(3, np.complex64)), "expected dtype float32"),
        (MODEL[:2], "expected 3 arrays, got 2"),
        (MODEL * 10, "expected 3 arrays, got 30"),
        ([], "expected 3 arrays, got 0"),
    ],
)
def test_bad_arrays_are_rejected_with_a_reason(arrays: list[np.ndarray], says: str) -> None:
    batch = read_replies([reply(1), Reply(2, arrays, 10)], MODEL)
    assert batch.node_ids == (1,)
    assert says in batch.rejected[2]
    assert "node 2" in batch.rejected[2]


@pytest.mark.parametrize(
    "examples", [0, -850, 10**18, float("nan"), float("inf"), None, "10", [10], True, np.float64("nan")]
)
def test_bad_example_counts_are_rejected(examples: object) -> None:
    batch = read_replies([reply(1), reply(2, examples=examples)], MODEL)
    assert batch.node_ids == (1,)
    assert "num-examples" in batch.rejected[2]


def test_a_node_that_answers_twice_is_rejected() -> None:
    batch = read_replies([reply(1), reply(2), reply(1, 3.0)], MODEL)
    assert batch.node_ids == (2,)
    assert "got two" in batch.rejected[1]


def test_weights() -> None:
    replies = [reply(1, examples=10), reply(2, examples=20), reply(3, examples=10**9)]
    assert list(read_replies(replies, MODEL, "uniform").weights) == [1, 1, 1]
    assert list(read_replies(replies, MODEL, "reported").weights) == [10, 20, 10**9]
    assert list(read_replies(replies, MODEL, "capped").weights) == [10, 20, CAP * 20]


def test_no_replies() -> None:
    batch = read_replies([], MODEL)
    assert len(batch) == 0
    assert batch.updates.shape == (0, 10)


def test_label_blocks_are_rows_of_the_classifier_with_their_bias() -> None:
    layout = Layout.of([np.zeros((4, 5)), np.zeros(4), np.zeros((3, 4)), np.zeros(3)])
    blocks = layout.label_blocks
    assert len(blocks) == 3
    np.testing.assert_array_equal(blocks[1], [28, 29, 30, 31, 24 + 12 + 1])
    assert Layout.of([np.zeros((2, 2))]).label_blocks == ()
    squeezenet = Layout.of([np.zeros((10, 8, 1, 1)), np.zeros(10)])
    assert len(squeezenet.label_blocks) == 10


@settings(max_examples=50)
@given(st.permutations(range(6)), st.integers(0, 2**62))
def test_tickets_hang_on_contents_alone(order: list[int], seed: int) -> None:
    shifts = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    plain = read_replies([reply(i, s) for i, s in enumerate(shifts)], MODEL)
    renamed = read_replies([reply(100 + i, shifts[j]) for i, j in enumerate(order)], MODEL)
    np.testing.assert_array_equal(plain.tickets(seed)[order], renamed.tickets(seed))
    assert [plain.updates[i, 0] for i in plain.canonical] == [renamed.updates[i, 0] for i in renamed.canonical]


def test_a_row_is_drawn_first_as_often_as_its_chance_says() -> None:
    batch = read_replies([reply(i, 0.5 + i) for i in range(4)], MODEL)
    leaning = replace(batch, chances=np.array([1.0, 0.25, 0.5, 0.25]))
    first = np.bincount([int(np.argmin(leaning.tickets(seed))) for seed in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(first, [0.5, 0.125, 0.25, 0.125], atol=0.03)  # four standard deviations
    even = replace(batch, chances=np.ones(4))
    assert (even.tickets(7) == batch.tickets(7)).all()


def test_an_update_goes_back_into_the_model_in_its_own_dtypes() -> None:
    new = apply_update(MODEL, np.full(10, 0.6))
    assert [a.dtype for a in new] == [a.dtype for a in MODEL]
    np.testing.assert_allclose(new[0], 1.6)
    assert new[2] == 6
    assert new[2].shape == ()
    assert all(isinstance(a, np.ndarray) for a in new)
