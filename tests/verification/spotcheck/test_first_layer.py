"""The integer first layer: outputs and adjoint agree exactly, whatever the size of the integers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, digits, exact_product, limbs, whole
from tests.helpers.toy import PLANS

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("bits", [10, 26, 44])
def test_the_adjoint_is_the_adjoint(name: str, bits: int) -> None:
    layer = IntegerLayer.of(PLANS[name], SHAPE)
    rng = np.random.default_rng(bits)
    kernels = rng.integers(-(2**bits), 2**bits, (layer.outputs + 2, *layer.kernel))
    x = rng.integers(0, 17, (3, *SHAPE))
    channels = [2**128, *(-5 * 7**i for i in range(layer.outputs + 1))]
    places = rng.integers(1, 2**62, math.prod(layer.spatial)).tolist()
    if bits > 40:
        with pytest.raises(ValueError, match="2\\^53"):
            layer.apply(x, kernels << 8)
        kernels = kernels >> 4
    y = layer.adjoint(kernels, channels, places)
    rho = [channel * place for channel in channels for place in places]
    direct = [
        sum(a * b for a, b in zip(row, rho, strict=True)) for row in layer.apply(x, kernels).reshape(3, -1).tolist()
    ]
    assert direct == [sum(a * b for a, b in zip(row, y, strict=True)) for row in x.reshape(3, -1).tolist()]


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


def test_it_knows_its_weight_and_refuses_what_it_cannot_do() -> None:
    layer = IntegerLayer.of(PLANS["mlp"])
    assert (layer.width, layer.outputs, layer.weight, layer.parameter, layer.spatial) == (64, 16, 0, 0, ())
    assert IntegerLayer.of(PLANS["cnn"], SHAPE).spatial == (8, 8)
    with pytest.raises(ValueError, match="shape of a sample"):
        IntegerLayer.of(PLANS["cnn"])
    with pytest.raises(ValueError, match="2 groups"):
        IntegerLayer.of(replace(PLANS["cnn"], model=lambda: nn.Conv2d(2, 2, 3, groups=2)), (2, 8, 8))
    before = torch.get_rng_state()
    IntegerLayer.of(PLANS["mlp"])
    assert torch.equal(before, torch.get_rng_state())
