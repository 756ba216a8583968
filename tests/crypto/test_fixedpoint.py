"""The proofs of the module docstring, checked in exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.crypto.fixedpoint import decode, encode, inner_product_bound, inner_product_error

REALS = st.floats(-1000, 1000)
BITS = st.integers(0, 32)


@given(x=st.lists(REALS, max_size=8), bits=st.integers(-4, 50))
def test_encoding_error(x: list[float], bits: int) -> None:
    values = encode(np.array(x), bits)
    assert values.dtype == np.int64
    unit = Fraction(2) ** -bits
    assert all(abs(int(v) * unit - Fraction(a)) <= unit / 2 for v, a in zip(values, x, strict=True))


@given(x=st.lists(st.floats(-1000, 1000, width=32), max_size=8), bits=BITS)
def test_float32_is_encoded_as_its_exact_value(x: list[float], bits: int) -> None:
    assert encode(np.array(x, np.float32), bits).tolist() == encode(np.array(x, np.float64), bits).tolist()


@given(pairs=st.lists(st.tuples(REALS, REALS), max_size=12), x_bits=BITS, y_bits=BITS)
def test_inner_product_error(pairs: list[tuple[float, float]], x_bits: int, y_bits: int) -> None:
    x, y = np.array(pairs).reshape(-1, 2).T
    exact = sum(Fraction(a) * Fraction(b) for a, b in pairs)
    product = sum(int(a) * int(b) for a, b in zip(encode(x, x_bits), encode(y, y_bits), strict=True))
    error = abs(Fraction(product, 2 ** (x_bits + y_bits)) - exact)
    assert error <= Fraction(inner_product_error(x, y, x_bits, y_bits)) * (1 + Fraction(1, 2**40))


@given(x=st.lists(st.integers(-255, 255), min_size=1, max_size=20), y=st.lists(REALS, min_size=20, max_size=20))
def test_integers_are_exact_and_int64_holds_what_the_bound_allows(x: list[int], y: list[float]) -> None:
    left, right = encode(np.array(x, float), 0), encode(np.array(y[: len(x)]), 40)
    assert left.tolist() == x
    bound = inner_product_bound(len(x), 255, 1000 * 2**40)
    exact = sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))
    assert int(left @ right) == exact and abs(exact) <= bound


def test_the_largest_sum_that_fits() -> None:
    assert inner_product_bound(7, 2**30, (2**63 - 1) // (7 * 2**30)) < 2**63
    for sizes in [(8, 2**30, 2**30), (1, 2**63, 1)]:
        with pytest.raises(ValueError, match=r"expected n \|x\| \|y\| < 2\^63, got"):
            inner_product_bound(*sizes)


@given(values=st.lists(st.integers(-(2**53), 2**53), max_size=8), bits=BITS)
def test_decoding_is_exact_below_2_53(values: list[int], bits: int) -> None:
    assert [Fraction(v) for v in decode(values, bits)] == [Fraction(v, 2**bits) for v in values]


def test_decoding_larger_integers() -> None:
    assert decode([2**93 + 1, -5], 28).tolist() == [float(2**65), -5 / 2**28]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    for dtype in (np.float32, np.float64):
        with pytest.raises(ValueError, match="expected finite values, got NaN or infinity"):
            encode(np.array([0.0, bad], dtype), 8)


def test_overflow() -> None:
    edge = np.nextafter(2.0**63, 0)
    assert encode(np.array([edge, -edge]), 0).tolist() == [int(edge), -int(edge)]
    for x, bits in [(2.0**63, 0), (-(2.0**63), 0), (1.0, 63), (1e300, 1000), (3e38, 32)]:
        with pytest.raises(ValueError, match=rf"expected \|x\| < 2\^{63 - bits} with {bits} fractional bits"):
            encode(np.array([x]), bits)


def test_shapes_are_kept() -> None:
    assert encode(np.zeros((0, 3)), 8).shape == (0, 3)
    assert encode(np.ones((2, 3), np.float32), 8).tolist() == [[256] * 3] * 2
