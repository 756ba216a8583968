"""Validation of replies: what is rejected and why, and that the rest becomes the right updates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.replies.averaging import apply_update, average
from flwr_faa.replies.updates import CAP, Batch, Layout, Reply, Role, blank, read_replies

MODEL = [np.ones((3, 2), np.float32), np.zeros(3, np.float32), np.array(5, np.int64)]


def reply(node_id: int, shift: float = 1.0, examples: object = 10) -> Reply:
    return Reply(node_id, [(a + shift).astype(a.dtype) for a in MODEL], examples)


def test_rows_are_sorted_by_node_id_and_the_model_is_subtracted() -> None:
    batch = read_replies([reply(9, 1.0), reply(2, 2.0)], MODEL)
    assert batch.node_ids == (2, 9)
    np.testing.assert_array_equal(batch.updates, [[2.0] * 9, [1.0] * 9])  # the counter has no column
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
        (with_array(1, np.full(3, 1e30, np.float32)), "expected changes up to 1e+06"),
        (with_array(1, np.full(3, 1e300)), "expected values that float32 holds"),
        (with_array(2, np.array(-(2**63))), "expected changes up to"),
        (with_array(2, np.array(2**64 - 1, np.uint64)), "expected values that int64 holds"),
        (with_array(2, np.array(2.0**63)), "expected values that int64 holds"),
        (with_array(2, np.array(5.5)), "expected values that int64 holds"),
        (with_array(2, np.array(np.nan)), "expected values that int64 holds"),
        (with_array(1, np.zeros(4, np.float32)), "expected shape (3,), got (4,)"),
        (with_array(1, np.zeros((1, 3), np.float32)), "expected shape (3,), got (1, 3)"),
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
    assert batch.updates.shape == (0, 9)


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
    new = apply_update(MODEL, np.full(9, 0.6), Layout.of(MODEL))
    assert [a.dtype for a in new] == [a.dtype for a in MODEL]
    np.testing.assert_allclose(new[0], 1.6)
    assert new[2] == 5  # an update has no column for it
    assert new[2].shape == ()
    assert all(isinstance(a, np.ndarray) for a in new)


BATCH_NORM = {
    "0.weight": np.ones((2, 2), np.float32),
    "1.weight": np.ones(2, np.float32),
    "1.bias": np.zeros(2, np.float32),
    "1.running_mean": np.zeros(2, np.float32),
    "1.running_var": np.ones(2, np.float32),
    "1.num_batches_tracked": np.array(0, np.int64),
    "mask": np.tril(np.ones((2, 2), bool)),
    "head.weight": np.ones((3, 2), np.float32),
    "head.bias": np.zeros(3, np.float32),
}
_P, _S, _B = Role.PARAMETER, Role.STATISTIC, Role.BOOKKEEPING


@pytest.mark.parametrize("names", [tuple(BATCH_NORM), (), tuple("012345678")])
def test_roles_by_name_or_by_structure(names: tuple[str, ...]) -> None:
    layout = Layout.of(list(BATCH_NORM.values()), names)
    assert layout.roles == (_P, _P, _P, _S, _S, _B, _B, _P, _P)
    assert (layout.parameters, layout.statistics, layout.size) == (slice(0, 17), slice(17, 21), 21)
    assert [layout.layers[i] for i in (0, 3, 4, 5, 7)] == [
        slice(0, 4), slice(17, 19), slice(19, 21), slice(0, 0), slice(8, 14)
    ]  # fmt: skip
    assert layout.label_blocks[0].tolist() == [8, 9, 14]
    assert layout.variances == {4} and layout.counters == {5}


def test_a_layer_norm_before_a_counter_of_steps_is_no_statistic_where_arrays_have_names() -> None:
    arrays = [np.ones(3, np.float32), np.zeros(3, np.float32), np.array(0)]
    assert Layout.of(arrays, ("norm.weight", "norm.bias", "step")).roles == (_P, _P, _B)


@pytest.mark.parametrize("dtype", [np.complex64, object, "U3", "V2", "M8[s]"])
def test_a_model_of_other_things_than_real_numbers_is_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match="expected a model of real numbers, got"):
        read_replies([], [np.zeros(3, np.float32), np.zeros(3, dtype)])


def decided(model: list[np.ndarray], *replies: list[np.ndarray]) -> tuple[Batch, list[np.ndarray]]:
    batch = read_replies([Reply(i, r, 10) for i, r in enumerate(replies)], model)
    return batch, average(batch, batch.canonical, model)


WIDE = [
    np.array([2**63 - 1, -(2**63), 2**53 + 1], np.int64),
    np.array([2**64 - 1, 1], np.uint64),
    np.array([-np.inf, np.nan, -1e9, 4e12], np.float32),
    np.array([True, False]),
    np.array([65504.0, np.inf], np.float16),
    np.zeros((0, 3), np.float32),
]


def test_what_nobody_changes_stays_bit_for_bit() -> None:
    batch, new = decided(WIDE, WIDE, WIDE, WIDE)
    assert not batch.rejected
    assert not batch.updates.any()
    assert [a.tobytes() for a in new] == [a.tobytes() for a in WIDE]
    assert [a.dtype for a in new] == [a.dtype for a in WIDE]


def test_a_small_weight_is_not_lost_in_a_large_difference() -> None:
    model, sent = [np.array([3.3e7, 0.1], np.float32)], [np.array([1.0, 0.1], np.float32)]
    _, (new,) = decided(model, sent, sent)
    np.testing.assert_array_equal(new, sent[0])


def test_integers_are_averaged_to_their_last_bit() -> None:
    model = [np.array([2**62, 7], np.int64), np.array([2**63], np.uint64)]
    sent = [np.array([2**62 + 3, 9], np.int64), np.array([2**63 + 1], np.uint64)]
    batch, new = decided(model, sent, sent)
    assert not batch.rejected
    assert [a.tolist() for a in new] == [a.tolist() for a in sent]


def test_a_counter_from_one_of_ten_costs_that_one_at_most() -> None:
    model = list(BATCH_NORM.values())

    def trained(steps: int) -> list[np.ndarray]:
        return [a + np.array(steps).astype(a.dtype) if i == 5 else a for i, a in enumerate(model)]

    for lie in (-(2**63), 2**63 - 1, -1):
        batch, new = decided(model, *[trained(4) for _ in range(9)], trained(lie))
        assert batch.rejected.keys() == {9}
        assert new[5] == 4


@pytest.mark.parametrize("value", [-7e6, 7e6, -0.1, np.nan, np.inf])
def test_a_variance_is_not_negative_and_no_million(value: float) -> None:
    model = list(BATCH_NORM.values())
    bad = [np.full_like(a, value) if i == 4 else a for i, a in enumerate(model)]
    batch, _ = decided(model, model, model, bad)
    assert batch.rejected.keys() == {2}


@pytest.mark.parametrize("wire", [np.float64, np.float16, ">f4", np.int32, bool])
def test_what_converts_safely_is_accepted_in_the_models_dtype(wire: object) -> None:
    model = [np.zeros(3, np.float32)]
    batch, (new,) = decided(model, [np.ones(3, wire)], [np.ones(3, np.float32)])
    assert not batch.rejected
    assert new.dtype == np.float32
    np.testing.assert_array_equal(new, 1)


def test_float16_is_averaged_in_a_wider_type_and_kept() -> None:
    sent = [[np.array([1.0 + i / 1024], np.float16)] for i in range(4)]
    _, (new,) = decided([np.ones(1, np.float16)], *sent)
    assert new.dtype == np.float16
    assert new == np.float16(np.mean([1.0 + i / 1024 for i in range(4)]))


def test_arrays_that_most_leave_out_stay_and_other_sets_are_rejected() -> None:
    part = [MODEL[0] + 1, None, None]
    replies = [Reply(1, part, 10), Reply(2, part, 10), Reply(3, MODEL, 10), Reply(4, [None, MODEL[1], None], 10)]
    batch = read_replies(replies, MODEL)
    assert batch.node_ids == (1, 2)
    assert "that most replies hold" in batch.rejected[3]
    new = average(batch, batch.canonical, MODEL)
    np.testing.assert_array_equal(new[0], 2)
    assert new[1].tobytes() == MODEL[1].tobytes()


def test_fractional_examples_are_weights() -> None:
    replies = [Reply(1, [np.zeros(1, np.float32)], 0.8), Reply(2, [np.ones(1, np.float32)], 0.2)]
    model = [np.zeros(1, np.float32)]
    batch = read_replies(replies, model)
    np.testing.assert_allclose(average(batch, batch.canonical, model)[0], 0.2, rtol=1e-6)


def test_one_outlier_of_two_cannot_vouch_for_itself() -> None:
    model = [np.zeros(3, np.float32)]
    batch, _ = decided(model, [np.full(3, 1e-2, np.float32)], [np.full(3, 1e30, np.float32)])
    assert batch.rejected.keys() == {1}


def test_the_form_that_most_have_stands_in_for_a_model() -> None:
    a, b = {"w": np.ones(3, np.float32)}, {"w": np.ones(4, np.float32)}
    assert blank([a, b, a])["w"].tolist() == [0, 0, 0]
    assert blank([]) == {}


@pytest.mark.parametrize("n", [3, 7, 10])
@pytest.mark.parametrize("value", [2**53 + 1, 2**62, 2**63 - 5, -(2**63)])
def test_what_all_agree_on_keeps_its_last_bit_whatever_their_number(n: int, value: int) -> None:
    for start in (value, 0):
        batch, new = decided([np.array([start])], *[[np.array([value + 3])]] * n)
        assert not batch.rejected
        assert new[0].tolist() == [value + 3]


N = ("bn.weight", "bn.num_batches_tracked")


def test_a_counter_that_a_client_keeps_for_itself_may_be_below_the_average() -> None:
    model = [np.ones(2, np.float32), np.array(27)]
    batch = read_replies([Reply(i, [model[0], np.array(c)], 10) for i, c in enumerate((30, 3, 30, -1))], model, names=N)
    assert batch.node_ids == (0, 1, 2)
    assert "expected a counter of at least 0, got -1" in batch.rejected[3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e30])
def test_a_counter_that_became_a_float_is_a_counter(bad: float) -> None:
    model = [np.ones(2, np.float32), np.array(27.0)]
    assert Layout.of(model, N).roles == (_P, _B)
    replies = [Reply(i, [model[0], np.array(c)], 10) for i, c in enumerate((30.0, 30.0, bad))]
    batch = read_replies(replies, model, names=N)
    assert (batch.node_ids, batch.layout.size) == ((0, 1), 2)
    assert average(batch, batch.canonical, model)[1] == 30.0


def test_without_names_what_most_send_below_zero_was_no_variance() -> None:
    norm = [np.ones(3, np.float32), np.zeros(3, np.float32), np.array(0)]
    sent = [norm[0], np.array([-0.1, 0.1, 0], np.float32), np.array(1)]
    batch, _ = decided(norm, sent, sent, sent)
    assert not batch.rejected
    few, _ = decided(norm, norm, norm, sent)
    assert few.rejected.keys() == {2}
    names = ("running_mean", "running_var", "num_batches_tracked")
    all_below = read_replies([Reply(i, sent, 10) for i in range(3)], norm, names=names)
    assert all_below.rejected.keys() == {0, 1, 2}


def test_what_a_narrower_dtype_makes_infinite_comes_back_unchanged() -> None:
    model = [np.ones(2, np.float32), np.array([-1e9, 4e12, 0.5], np.float32)]
    with np.errstate(over="ignore"):
        sent = [a.astype(np.float16) for a in model]
    batch, new = decided(model, sent, sent)
    assert not batch.rejected
    assert new[1].tobytes() == model[1].tobytes()
    flipped, _ = decided(model, sent, sent, [sent[0], np.array([np.inf, np.inf, 0.5], np.float16)])
    assert flipped.rejected.keys() == {2}


@pytest.mark.parametrize("examples", [10**400, -(10**4000), 2**64], ids=["long", "negative", "65 bits"])
def test_a_number_of_examples_that_no_float_holds_is_rejected(examples: int) -> None:
    batch = read_replies([reply(1), reply(2, examples=examples)], MODEL)
    assert "num-examples" in batch.rejected[2]


def test_who_sends_none_of_the_arrays_trains_nothing_and_is_told() -> None:
    batch = read_replies([Reply(i, [None] * 3, 10) for i in range(3)] + [reply(4)], MODEL)
    assert batch.node_ids == (4,)
    assert "expected some of the model's 3 arrays, got none" in batch.rejected[0]


@pytest.mark.parametrize("n", range(2, 12))
def test_an_infinite_mask_stays_where_weights_do_not_quite_sum_to_one(n: int) -> None:
    model = [np.ones(2, np.float32), np.array([-np.inf, 0], np.float32)]
    batch = read_replies([Reply(i, model, 1 + i) for i in range(n)], model, "reported")
    new = average(batch, batch.canonical, model, renormalise=False)
    assert new[1].tobytes() == model[1].tobytes()
