"""The bound on what enrolled samples can be: worked out by hand, the last value inside and the first outside."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flwr_faa.verification.spotcheck.claims import check_range, check_values
from flwr_faa.verification.spotcheck.recompute import Contradiction


@pytest.mark.parametrize("values", [[[0, 255]], [[255]], [[0]], [[]], [[3, 4], [200, 17]]])
def test_samples_from_0_to_the_largest_value_pass(values: list[list[int]]) -> None:
    check_values(np.array(values, np.int64), 255)


@pytest.mark.parametrize("values", [[[-1, 3]], [[256, 3]], [[0], [-(2**52)]], [[3, 300]]])
def test_samples_beyond_are_a_contradiction(values: list[list[int]]) -> None:
    with pytest.raises(Contradiction, match=r"^the enrolled data are not from 0 to 255$"):
        check_values(np.array(values), 255)


#: Three values of a sample, two vectors: the sums of what is above and below zero are 7 and -2, and 1 and -9.
VECTORS = np.array([[3, -2, 4], [-5, 1, -4]])
BOUNDS = [(0, 7 * 255, -2 * 255), (1, 1 * 255, -9 * 255)]


@pytest.mark.parametrize(("vector", "top", "bottom"), BOUNDS)
def test_a_projection_reaches_what_its_vector_can_and_no_more(vector: int, top: int, bottom: int) -> None:
    """``<x, s>`` is largest where x is 255 wherever s is above zero; anywhere in the batch it counts."""
    for row in range(3):
        for value, beyond in ((top, top + 1), (bottom, bottom - 1)):
            claimed = np.zeros((3, 2), np.int64)
            claimed[row, vector] = value
            check_range(claimed, VECTORS, 255)
            claimed[row, vector] = beyond
            with pytest.raises(Contradiction, match=r"^the enrolled data are not from 0 to 255$"):
                check_range(claimed, VECTORS, 255)


def test_every_place_of_a_convolution_is_bounded_by_its_own_vector() -> None:
    """Kernels of two by two, outputs of two by three places: by hand 10 and -3, and 0 and -10."""
    vectors = np.array([[[[1, -3], [4, 5]]], [[[-1, -2], [-3, -4]]]])
    for vector, top, bottom in ((0, 10, -3), (1, 0, -10)):
        for place in ((0, 0), (1, 2)):
            claimed = np.zeros((2, 2, 2, 3), np.int64)
            for value in (16 * top, 16 * bottom):
                claimed[1, vector, *place] = value
                check_range(claimed, vectors, 16)
            for value in (16 * top + 1, 16 * bottom - 1):
                claimed[1, vector, *place] = value
                with pytest.raises(Contradiction, match="from 0 to 16"):
                    check_range(claimed, vectors, 16)


@pytest.mark.parametrize("width", [784, 3072])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_projection_of_many_values_stays_within_eight_deviations(width: int, sign: int) -> None:
    """Hoeffding: beyond ``8 * 128 * top * sqrt(n)`` an in-range sample lies with probability 3e-14.

    The second half of the vector is of the other sign, so the sample that reaches the bound is in range.
    """
    vectors = np.full((1, width), 128 * sign)
    vectors[0, width // 2 :] *= -1
    bound = math.floor(8 * 128 * 255 * math.sqrt(width))
    assert bound < 128 * 255 * width // 2  # tighter than what the vector alone allows
    for end in (1, -1):
        check_range(np.array([[end * bound]]), vectors, 255)
        with pytest.raises(Contradiction, match="from 0 to 255"):
            check_range(np.array([[end * (bound + 1)]]), vectors, 255)
