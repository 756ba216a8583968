"""Products of large integers by float64: exact, whatever their size and sign."""

import numpy as np
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


def test_products_are_exact_where_float64_is_fullest() -> None:
    """As many terms as are summed at once, and more, all of them as large as digits can be."""
    values = np.full((1, 2**17 + 3), -(2**53) + 1)
    assert exact_product(values, [2**128 - 1] * (2**17 + 3)) == [(2**17 + 3) * (1 - 2**53) * (2**128 - 1)]


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=6))
def test_limbs_are_whole_again(values: list[int]) -> None:
    assert whole(limbs(values)) == values
