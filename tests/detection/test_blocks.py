"""Sums over columns, and the measures that follow from them: by hand, and from the definitions."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from flwr_faa.detection.blocks import Sums, middle
from tests.detection.simulate import crowd


def sums_of(x, noise=0.0):
    """From the definitions, with a median that is anything."""
    median, mean = np.median(x, axis=0), x.mean(axis=0)
    c = x - median
    return Sums(
        c @ c.T, c @ median, float(median @ median), (x * x).sum(axis=1), x @ median, x @ mean,
        (x > 0).sum(axis=1), (x != 0).sum(axis=1), noise, x.shape[1],
    )  # fmt: skip


def by_name(sums):
    return {field.name: getattr(sums, field.name) for field in fields(Sums)}


def assert_equal(one, other):
    for name, value in by_name(one).items():
        np.testing.assert_allclose(value, getattr(other, name), atol=1e-12, err_msg=name)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3])
def test_a_block_has_the_measures_of_its_updates(size):
    x = size * crowd(9, dtype=np.float64)
    x[3], x[5] = 0, -x[6]
    x[7, :30] = 0
    block, norms = sums_of(x, 0.25).block(), np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(np.sqrt(block.squared), cdist(x, x), atol=1e-7 * size)
    np.testing.assert_array_equal(block.squared, block.squared.T)
    np.testing.assert_allclose(block.norms, norms)
    assert block.length == pytest.approx(np.median(norms))
    for found, to in ((block.to_median, np.median(x, axis=0)), (block.to_mean, x.mean(axis=0))):
        cosine = x @ to / np.where(norms, norms, 1) / np.linalg.norm(to)
        np.testing.assert_allclose(found, cosine, atol=1e-12)
    assert block.to_median[3] == block.to_mean[3] == 0 and block.positive[3] == 0.5 and block.above[3] == 0
    np.testing.assert_allclose(block.above, (x > 0).mean(axis=1))
    np.testing.assert_allclose(
        np.delete(block.positive, 3), np.delete((x > 0).sum(1) / np.maximum((x != 0).sum(1), 1), 3)
    )
    assert (block.noise, block.width) == (0.25, 35)


def test_sums_of_columns_add_up_to_those_of_all():
    x = crowd(7, dtype=np.float64)
    total, first = Sums.of_none(7), sums_of(x[:, :20], 1.0)
    kept = by_name(replace(first, **{k: np.copy(v) for k, v in by_name(first).items()}))
    total.add(first)
    assert_equal(total, first)
    total.add(sums_of(x[:, 20:], 2.0))
    # The mean and the median of the columns are the columns of the mean and the median.
    assert_equal(total, sums_of(x, 3.0))
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(first, name), value)


def test_nothing_is_at_no_distance_and_points_nowhere():
    block = Sums.of_none(3).block()
    for name in ("squared", "norms", "to_median", "to_mean", "above", "noise", "width"):
        assert not np.any(getattr(block, name)), name
    assert block.positive.tolist() == [0.5] * 3


def test_what_rounding_takes_out_of_range_is_at_its_end():
    """A square below zero is zero; a cosine above 1 is 1."""
    sums = replace(
        Sums.of_none(2), gram=np.array([[1.0, 1.0 + 1e-9], [1.0 + 1e-9, 1.0]]), across=np.array([1.0, 1.0 + 1e-9]),
        median_square=1.0, square=np.ones(2), to_median=np.array([1.0, 1.0 + 1e-9]), to_mean=np.array([1.01, 0.97]),
    )  # fmt: skip
    block = sums.block()
    assert block.squared[0, 1] == 0 and block.to_median.tolist() == [1.0, 1.0] and block.to_mean[0] == 1
    assert replace(sums, to_mean=np.array([-1.01, 2.99])).block().to_mean[0] == -1
    assert replace(sums, to_mean=np.array([-1e-20, -1e-20])).block().to_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("cosine", "square", "told"),
    [
        (0.9, 2.0, 1 - 0.1 / 1.9),
        (0.9, 0.0201, 1 - 0.1 / 1.9),
        (0.9, 0.0199, 0.9),  # shorter than a tenth of the median: measured in another walk
        (0.51, 2.0, 1 - 0.1 / 1.51),
        (0.5, 2.0, 0.5),
        (-0.9, 2.0, -0.9),
    ],
)
def test_a_cosine_near_one_comes_from_the_sine(cosine, square, told):
    """Products of updates as they are tell it to some digits; those of the centred ones tell how far from 1 it is.

    The squared sine is .1 here, whatever the product with the median says.
    """
    size = np.sqrt(square * 2.0)
    sums = replace(
        Sums.of_none(1), median_square=2.0, square=np.array([square]), to_median=np.array([cosine * size]),
        gram=np.array([[4.0 + 0.05 * 2.0 * square]]), across=np.array([np.sqrt(8.0)]),
    )  # fmt: skip
    # sin^2 = (|c|^2 |m|^2 - <c, m>^2) / (|g|^2 |m|^2)
    sine = (sums.gram[0, 0] * 2.0 - 8.0) / (square * 2.0)
    assert sine == pytest.approx(0.1)
    assert sums.block().to_median[0] == pytest.approx(told, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 12])
def test_neighbours_come_in_the_order_of_their_distance(n):
    x = crowd(n, dtype=np.float64)
    x[-1] = x[0]
    block = sums_of(x).block()
    kept = block.squared.copy()
    expected = np.array([np.sort(np.delete(row, i)) for i, row in enumerate(np.sqrt(block.squared))]).reshape(n, n - 1)
    np.testing.assert_allclose(block.by_distance(), expected)
    np.testing.assert_allclose(block.nearest, expected)
    np.testing.assert_allclose(block.near, expected[:, :3])
    np.testing.assert_array_equal(block.squared, kept)


def test_some_rows_of_a_block_keep_their_measures():
    block, rows = sums_of(crowd(6, dtype=np.float64), 0.5).block(), np.array([4, 0, 3])
    some = block.among(rows)
    np.testing.assert_array_equal(some.squared, block.squared[rows][:, rows])
    for name in ("norms", "to_median", "to_mean", "positive", "above"):
        np.testing.assert_array_equal(getattr(some, name), getattr(block, name)[rows])
    assert (some.noise, some.width) == (0.5, 35)
    assert some.nearest.shape == (3, 2) and some.length == np.median(block.norms[rows])


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.floats(-1e9, 1e9)))
@settings(max_examples=40, deadline=None)
def test_the_middle_is_the_median_along_the_last_axis(values):
    np.testing.assert_allclose(middle(values), np.median(values, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(middle(values[0]), np.median(values[0]), rtol=1e-12)
