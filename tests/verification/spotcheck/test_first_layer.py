"""The integer first layer: outputs and adjoint agree exactly, whatever the size of the integers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.crypto.exact import exact_product
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from tests.helpers.toy import PLANS

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("bits", [10, 26, 44])
def test_the_adjoint_is_the_adjoint(name: str, bits: int) -> None:
    layer = IntegerLayer.of(PLANS[name], SHAPE)
    rng = np.random.default_rng(bits)
    kernels = rng.integers(-(2**bits), 2**bits, (layer.outputs + 2, *layer.kernel))
    x = rng.integers(0, 17, (3, *SHAPE))
    rho = rng.integers(1, 2**32, (layer.outputs + 2, *layer.spatial))
    if bits > 40:
        with pytest.raises(ValueError, match="2\\^53"):
            layer.apply(x, kernels << 8)
        kernels = kernels >> 4
    y = layer.adjoint(kernels, rho)
    direct = exact_product(layer.apply(x, kernels).reshape(3, -1), rho.ravel().tolist())
    assert direct == [sum(a * b for a, b in zip(row, y, strict=True)) for row in x.reshape(3, -1).tolist()]


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
