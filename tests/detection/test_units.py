"""What updates are multiplied by: only what cannot be measured as it is, exactly, and nobody for another's sake."""

import numpy as np
import pytest

from flwr_faa.detection.units import Unit, measurable
from tests.detection.simulate import crowd


@pytest.mark.parametrize(
    ("usual", "exponent"),
    [(1e-8, 0), (9.9e-9, 26), (1e8, 0), (100_000_000.5, -27), (2.0**-90, 89), (0.75 * 2.0**90, -90), (1.0, 0)],
)
@pytest.mark.parametrize("far", [False, True])
def test_usual_sizes_from_a_hundred_millionth_to_a_hundred_million_stay_and_others_become_about_one(
    usual, exponent, far
):
    """By a power of two that takes the usual largest entry to between a half and one."""
    unit = Unit.of(np.array([usual, usual, usual, 1e5 * usual if far else usual]))
    if not far and exponent == 0:
        assert unit is None
    else:
        assert unit.exponent == exponent
        np.testing.assert_allclose(unit.factors, [1, 1, 1, 0.1 if far else 1])
        assert not exponent or 0.5 <= np.ldexp(usual, unit.exponent) < 1


def test_an_update_may_be_ten_thousand_times_as_large_as_the_usual_one():
    assert Unit.of(np.array([1.0, 1.0, 1e4])) is None
    np.testing.assert_allclose(Unit.of(np.array([1.0, 1.0, 2e4])).factors, [1, 1, 0.5])
    np.testing.assert_allclose(Unit.of(np.array([1.0, 1.0, 10_000.5])).factors, [1, 1, 1e4 / 10_000.5])
    # The usual one is the median of those that are not zero.
    assert Unit.of(np.array([0.0, 0, 0, 1, 3, 2e4])) is None
    np.testing.assert_allclose(Unit.of(np.array([0.0, 0, 0, 1, 3, 6e4])).factors, [1, 1, 1, 1, 1, 0.5])
    np.testing.assert_allclose(Unit.of(np.array([1.0, 1.0, 1e300])).factors, [1, 1, 1e-296])


def test_updates_of_zeros_and_no_updates_need_no_unit():
    assert Unit.of(np.zeros(3)) is None and Unit.of(np.zeros(0)) is None


def test_a_unit_is_applied_to_the_rows_that_are_named():
    x = np.array([[1.0, -2.0], [4.0, 8.0]], np.float32)
    Unit(np.array([0.5, 7.0, 1.0]), 3).apply(x, [2, 0])
    np.testing.assert_array_equal(x, [[8, -16], [16, 32]])


def test_what_is_scaled_is_a_copy_and_nothing_is_rounded():
    small = crowd(6) * np.float32(2.0**-60)
    before = small.copy()
    scaled = measurable(small)
    np.testing.assert_array_equal(small, before)
    assert len(np.unique(scaled / small)) == 1 and scaled.dtype == np.float32
    assert measurable(crowd(6)[:0]).shape == (0, 35)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="expected finite updates, got NaN or infinity"):
        measurable(np.array([[1.0, bad], [0.0, 1.0]]))
