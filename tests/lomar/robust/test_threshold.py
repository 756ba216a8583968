"""Phase II: the closed form, where it holds, and that it never matters."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_lomar.robust.threshold import Theorem1

neighbourhoods = st.builds(
    Theorem1,
    k=st.integers(1, 500),
    h=st.floats(1e-3, 10),
    volume=st.floats(1e-2, 100),
    labels=st.sampled_from([None, 1, 3]),
)


@given(neighbourhoods, st.floats(1e-6, 1 - 1e-6))
def test_closed_form_solves_equation_10(theorem, alpha):
    eps_m = theorem.eps_m(alpha)
    assert eps_m > 1
    if eps_m < 1e6:
        assert math.isclose(math.log(theorem.bound(eps_m)), math.log(alpha), rel_tol=1e-6)
    if eps_m == math.inf:
        assert alpha <= theorem.least_alpha * (1 + 1e-9)


@given(neighbourhoods, st.floats(1e-6, 1 - 1e-6))
def test_algorithm_2_always_takes_1(theorem, alpha):
    assert theorem.eps(alpha) == 1


def test_equation_10_by_hand():
    expected = math.exp(-4 * math.pi * (3 - 1) ** 2 * (2 + 1) ** 2 * 0.5 / (2 * (2 * 2 + 3 + 1) ** 2 * 7**2))
    assert math.isclose(Theorem1(k=2, h=0.5, volume=7).bound(3), expected)


def test_the_appendix_has_the_square_of_the_bandwidth():
    assert math.isclose(Theorem1(5, 0.3, 2, labels=1).bound(1.5), Theorem1(5, 0.3**2, 2).bound(1.5))
    by_hand = math.exp(-2 * 0.5**2 * 6**2 * (2 * math.pi) ** 2 * 0.3**4 / (5 * (10 + 1.5 + 1) ** 2 * 2**2))
    assert math.isclose(Theorem1(5, 0.3, 2, labels=2).bound(1.5), by_hand)


def test_no_bound_is_below_the_one_for_large_factors():
    theorem = Theorem1(k=2, h=0.5, volume=7)
    assert math.isclose(theorem.least_alpha, math.exp(-4 * math.pi * 3**2 * 0.5 / (2 * 7**2)))
    assert theorem.bound(1e3) > theorem.bound(1e9) > theorem.least_alpha
    assert math.isclose(theorem.bound(1e12), theorem.least_alpha)
    assert theorem.eps_m(0.999 * theorem.least_alpha) == math.inf > theorem.eps_m(1.001 * theorem.least_alpha) > 1e3


def test_an_alpha_that_only_an_infinite_factor_reaches():
    """Just where the closed form would divide by 0."""
    theorem = Theorem1(k=1, h=1 / math.pi, volume=4)
    assert theorem.least_alpha == math.exp(-1) and theorem.eps_m(math.exp(-1)) == math.inf


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["k", "h", "volume", "labels"])
def test_everything_is_positive(name, value):
    with pytest.raises(ValueError, match=f"expected a positive {name}, got {value!r}"):
        Theorem1(**{"k": 1, "h": 1e-9, "volume": 1e-9, "labels": 1, name: value})
    assert Theorem1(**{"k": 1, "h": 1.0, "volume": 1.0, name: 1e-3}).least_alpha < 1


def test_out_of_range():
    theorem = Theorem1(5, 1.0, 1.0)
    for eps_m in (1.0, 0.5, -2.0, math.nan):
        with pytest.raises(ValueError, match="expected eps_m > 1"):
            theorem.bound(eps_m)
    for alpha in (0.0, 1.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected alpha between 0 and 1"):
            theorem.eps_m(alpha)
    assert math.isclose(theorem.bound(math.nextafter(1, 2)), 1)
