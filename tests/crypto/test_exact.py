"""Products of large integers by float64: exact, whatever their size and sign."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.crypto.exact import digits, exact_product, limbs, whole


def test_digits_and_products_are_exact() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**62), 2**62, (5, 7))
    assert (sum(part << shift for shift, part in digits(values, 21)) == values).all()
    vector = [0, -1, 2**128, *rng.integers(-(2**62), 2**62, 4).tolist()]
    exact = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in values.tolist()]
    assert exact_product(values, vector) == exact


@pytest.mark.parametrize("terms", [2**17 - 1, 2**17, 3 * 2**16 + 1])
def test_products_are_exact_where_float64_is_fullest(terms: int) -> None:
    """About as many terms as are summed at once, and more, all of them as large as digits can be."""
    values = np.full((1, terms), 2**60 - 1)
    assert exact_product(values, [2**128 - 1] * terms) == [terms * (2**60 - 1) * (2**128 - 1)]


@pytest.mark.parametrize(
    ("value", "parts"), [(0, 1), (2**20 - 1, 1), (1 - 2**20, 1), (2**20, 2), (-(2**20), 2), (2**63 - 1, 4)]
)
def test_a_digit_is_below_two_to_its_bits(value: int, parts: int) -> None:
    """In size: 2^20 itself would fill a sum before its time."""
    found = digits(np.array([value]), 20)
    assert len(found) == parts and all(-(2**20) < part[0] < 2**20 for _, part in found)
    assert sum(int(part[0]) << shift for shift, part in found) == value


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_the_largest_sums_are_carried(columns: int) -> None:
    for most in (2**53 - 1, 1 - 2**53):
        assert whole(np.full((2, columns), float(most))) == [most * (2 ** (16 * columns) - 1) // (2**16 - 1)] * 2


@pytest.mark.parametrize("vector", [[0, 0], [0, 2**16], [-(2**16) + 1, 1]])
def test_small_and_empty_products(vector: list[int]) -> None:
    assert exact_product(np.array([[3, 4], [0, -1]]), vector) == [3 * vector[0] + 4 * vector[1], -vector[1]]
    assert exact_product(np.zeros((0, 2), int), vector) == []
    assert limbs(vector).shape == (2, 1 + any(abs(v) >= 2**16 for v in vector))


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=6))
def test_limbs_are_whole_again(values: list[int]) -> None:
    assert whole(limbs(values)) == values
