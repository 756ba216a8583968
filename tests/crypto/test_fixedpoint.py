"""The proof of the module docstring, checked in exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.crypto.fixedpoint import encode

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
