"""The integer first layer: outputs and adjoint agree exactly, whatever the size of the integers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.authority.information import Told, of_step
from flwr_faa.crypto.exact import exact_product
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, sizes_of
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


# What it is, by hand


def dense(units: int = 2, bits: int = 8, width: int = 3, **more: Any) -> IntegerLayer:
    return IntegerLayer.of(TrainingPlan(lambda: nn.Linear(width, units), 0.1, bits=bits), **more)


def conv(shape: tuple[int, ...] | None, *sizes: int, **more: Any) -> IntegerLayer:
    return IntegerLayer.of(TrainingPlan(lambda: nn.Conv2d(*sizes, **more), 0.1), shape)


def test_a_dense_layer_takes_samples_of_any_shape_of_its_width() -> None:
    layer, shaped = dense(), dense(width=6, sample_shape=(1, 2, 3))
    assert (layer.sample_shape, layer.kernel, layer.outputs, layer.spatial, layer.bits) == ((3,), (3,), 2, (), 8)
    assert (shaped.sample_shape, shaped.kernel, shaped.width) == ((1, 2, 3), (6,), 6)
    x, kernels = np.arange(12).reshape(2, 1, 2, 3), np.array([[1, 0, 0, 0, 0, 0], [1, -1, 2, 0, 0, 3]])
    assert shaped.apply(x, kernels).tolist() == [[0, 0 - 1 + 4 + 15], [6, 6 - 7 + 16 + 33]]
    with pytest.raises(ValueError, match=r"^expected samples that the first layer takes, got shape \(7,\): "):
        dense(width=6, sample_shape=(7,))


@pytest.mark.parametrize(
    ("sizes", "more", "spatial"),
    [
        ((1, 2, 3), {}, (6, 4)),
        ((1, 2, (3, 1)), {}, (6, 6)),
        ((1, 2, 3), {"padding": 1}, (8, 6)),
        ((1, 2, 3), {"stride": 2}, (3, 2)),
        ((1, 2, 3), {"dilation": 2}, (4, 2)),
    ],
)
def test_a_convolution_is_what_torch_says(sizes: Any, more: Any, spatial: tuple[int, ...]) -> None:
    layer = conv((1, 8, 6), *sizes, **more)
    assert (layer.spatial, layer.outputs, layer.width) == (spatial, 2, 48)
    rng = np.random.default_rng(0)
    x, kernels = rng.integers(0, 256, (3, 1, 8, 6)), rng.integers(-9, 10, (4, *layer.kernel))
    wanted = torch.conv2d(torch.from_numpy(x), torch.from_numpy(kernels), **more)
    assert np.array_equal(layer.apply(x, kernels), wanted)
    assert np.array_equal(layer.apply(x.reshape(3, 48), kernels), wanted)
    assert np.array_equal(layer.claim(x, kernels), x) and layer.claim_shape(2) == (1, 8, 6)
    assert layer.told([1, 1, 1, 1], 20, 255) == Told(48, 48)  # whatever the weights, the sample itself


def test_a_dense_layer_claims_its_outputs() -> None:
    layer, x, kernels = dense(), np.array([[1, 2, 3]]), np.array([[1, 1, 1], [0, -1, 0], [5, 0, 0], [0, 0, 7]])
    assert layer.claim(x, kernels).tolist() == [[6, -2, 5, 21]]
    assert layer.claim_shape(2) == (4,)
    assert layer.told([10, 20, 30], 5, 255) == of_step([10, 20, 30], 2, 3, 5, 255)


@pytest.mark.parametrize(
    ("more", "told"), [({"groups": 2}, "2 groups, 'zeros'"), ({"padding_mode": "circular"}, "1 g")]
)
def test_other_convolutions_are_refused(more: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"^expected one group padded with zeros, got {told}"):
        conv((2, 8, 8), 2, 2, 3, **more)


def test_a_first_layer_of_another_precision_is_refused() -> None:
    for dtype in (torch.float64, torch.float16):
        plan = TrainingPlan(lambda kind=dtype: nn.Linear(3, 2).to(kind), 0.1)
        with pytest.raises(ValueError, match=f"^expected a first layer of float32, got {dtype}: model.float"):
            IntegerLayer.of(plan)


def test_a_weight_is_named_by_its_place_among_arrays_and_among_parameters() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.zeros(1))
            self.fc = nn.Linear(3, 2)

    layer = IntegerLayer.of(TrainingPlan(Late, 0.1))
    assert (layer.weight, layer.parameter) == (1, 0)

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))

    with pytest.raises(ValueError, match=r"one of the model's parameters, got a computed one$"):
        IntegerLayer.of(TrainingPlan(Computed, 0.1))

    class Hidden(nn.Linear):
        """A weight that is a parameter, and that no checkpoint holds."""

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            pass

    with pytest.raises(ValueError, match=r"got a computed one$"):
        IntegerLayer.of(TrainingPlan(lambda: Hidden(3, 2), 0.1))


# How large its numbers may be


def test_weights_are_fixed_point_numbers_of_so_many_bits() -> None:
    weight = np.array([[1.0, -0.5, 1 / 256], [3.0, 0.0, -2.0]], np.float32)
    assert dense().fixed(weight).tolist() == [[256, -128, 1], [768, 0, -512]]
    assert dense(bits=1).quantise(weight).tolist() == [[2, -1, 0], [6, 0, -4]]


@pytest.mark.parametrize("bits", [1, 8])
def test_a_device_answers_for_weights_whose_sizes_sum_to_256(bits: int) -> None:
    layer, least = dense(bits=bits), 2.0**-bits
    for whole in ([200, -50, 6], [256, 0, 0], [0, -256, 0]):
        fits = np.array([[1, 1, 1], whole], np.float32)
        assert layer.quantise(fits).tolist() == (fits * 2**bits).astype(int).tolist()
        over = fits.copy()
        over[1, 1] -= least  # any sign: the size counts
        with pytest.raises(ValueError, match=r"sum to at most 256 in every unit, got 25[67]: take a lower"):
            layer.quantise(over)


def test_a_refusal_says_how_large_the_weights_are() -> None:
    with pytest.raises(ValueError, match="in every unit, got 1000: take"):
        dense().quantise(np.array([[0, 0, 0], [-400, 100, 500]]))


def test_the_most_that_weights_and_vectors_can_be() -> None:
    """Units of at most 256, in steps of 1/256; and vectors of three entries up to 128 each."""
    assert dense().largest(4, 128) == [65536, 65536, 384, 384, 384, 384]
    assert dense(units=1, bits=0).largest(1, 5) == [256, 15]
    assert conv((1, 8, 6), 1, 1, (2, 3)).largest(1, 5) == [65536, 30]


def test_sums_of_sizes_are_exact() -> None:
    kernels = np.array([[[1, -2], [3, 0]], [[-(2**62), 2**62], [2**62, -5]]])
    assert sizes_of(kernels) == [6, 3 * 2**62 + 5]


@pytest.mark.parametrize("sign", [1, -1])
def test_outputs_stay_below_what_a_float_holds_exactly(sign: int) -> None:
    """2^53: the sum of a kernel's sizes times the largest size of a value."""
    layer, kernels = dense(), np.array([[1, 0, 0], [2**44, -(2**44), 0]])
    assert layer.apply(sign * np.array([[255, 0, 1]]), kernels).tolist() == [[sign * 255, sign * 255 * 2**44]]
    for largest in ([255, 0, 256], [256, 0, 0]):
        with pytest.raises(ValueError, match=r"^expected weights whose outputs stay below 2\^53, got larger ones$"):
            layer.apply(sign * np.array([largest]), kernels)
    assert layer.apply(np.zeros((1, 3), int), np.array([[2**53, 2**53, 0]])).tolist() == [[0]]


# The functions that an authority is asked about


def test_a_dense_layers_functions_are_its_kernels() -> None:
    kernels, outputs = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[7, 8]])
    functions, values = dense().functions(kernels, outputs)
    assert functions == kernels.tolist() and values is outputs


def test_a_convolutions_places_are_combined_to_one_function_a_kernel() -> None:
    """Its value of a sample is what the outputs say, and no two kernels or drawings share weights."""
    layer, rng = conv((1, 4, 3), 1, 2, 2), np.random.default_rng(0)
    x, kernels = rng.integers(0, 256, (5, 1, 4, 3)), rng.integers(-(2**20), 2**20, (3, 1, 2, 2))
    outputs = layer.apply(x, kernels)
    functions, values = layer.functions(kernels, outputs)
    assert np.shape(functions) == (3, 12) and values.shape == (5, 3)
    by_hand = x.reshape(5, 12).astype(object) @ np.array(functions, object).T
    assert (values == by_hand).all()
    same = layer.functions(kernels[[0, 0]], outputs[:, [0, 0]])[0]
    assert same[0] != same[1] and functions[0] not in same
