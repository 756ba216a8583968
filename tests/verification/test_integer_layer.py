"""The first layer from integers: exact products, the layer's own gradient, and which models can be replayed so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.verification.integer_layer import check_plan, exact, integer_first_layer, real
from flwr_faa.verification.plan import TrainingPlan


class TestExact:
    @staticmethod
    def used(x: Any, kernels: Any) -> list[torch.dtype]:
        """The precisions in which the product is computed, which has to be right."""
        found = list[torch.dtype]()

        def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            found.append(a.dtype)
            return a @ b.T

        x, kernels = torch.tensor(x, dtype=torch.float64), torch.tensor(kernels, dtype=torch.float64)
        assert torch.equal(exact(product, x, kernels).double(), x @ kernels.T)
        return found

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("other", [1, -1])
    def test_float32_is_used_below_two_to_the_24(self, sign: int, other: int) -> None:
        """The largest sum of a kernel's sizes, of a kernel, times the largest size of a value."""
        half, least = 2**11, 1
        single, double = [torch.float32, torch.float64], [torch.float64]
        assert self.used([[sign * (2**12 - least), 0], [0, 0]], [[other * half, half], [half, 0]]) == single
        assert self.used([[sign * 2**12, 0], [0, 0]], [[other * half, half - least], [half, 0]]) == single
        assert self.used([[sign * 2**12, 0], [0, 0]], [[half, 0], [other * half, half]]) == double

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_machine_that_rounds_the_first_sample_is_not_trusted(self, wrong: int) -> None:
        x, kernels = torch.tensor([[1.0], [2.0]]).double(), torch.ones(1, 1).double()

        def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            z = a @ b.T
            if a.dtype == torch.float32:
                z[wrong] += 1
            return z

        found = exact(product, x, kernels)
        assert (found.dtype == torch.float64) == (wrong == 0)


def test_outputs_are_rounded_once_in_the_precision_of_float32() -> None:
    z = torch.tensor([0, 1, -3, 2**24 - 1], dtype=torch.float64)
    found = real(z, 1 / 255, 8, torch.float32)
    factor = np.float32(1 / 255 / 256)
    once = [np.float32(n * np.float64(factor)) for n in z.tolist()]
    assert found.dtype == torch.float32 and found.tolist() == once


LAYERS = {
    "dense": (lambda: nn.Linear(12, 3), (1, 3, 4)),
    "dense without bias": (lambda: nn.Linear(12, 3, bias=False), (12,)),
    "convolution": (lambda: nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0)), (2, 5, 4)),
    "dilated": (lambda: nn.Conv2d(1, 2, 2, dilation=2, bias=False), (1, 5, 4)),
    "in groups": (lambda: nn.Conv2d(2, 4, 2, groups=2, padding=1, padding_mode="".join(["ze", "ros"])), (2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_layer(name: str) -> None:
    """By torch's own layer, with its weights in fixed point of 6 bits, and inputs of scale 1/16."""
    make, shape = LAYERS[name]
    torch.manual_seed(3)
    layer = make()
    samples = np.random.default_rng(0).integers(0, 17, (7, *shape))
    rows = np.array([4, 0, 6])
    out = integer_first_layer(samples, 1 / 16, 6)(layer, rows)
    (out * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
    found = [p.grad for p in layer.parameters()]

    reference = make()
    with torch.no_grad():
        for p, own in zip(reference.parameters(), layer.parameters(), strict=True):
            p.copy_(own)
        reference.weight.copy_((reference.weight * 64).round() / 64)
    inputs = torch.from_numpy(samples[rows].astype(np.float32)) / 16
    theirs = reference(inputs.flatten(1) if "dense" in name else inputs)
    (theirs * torch.arange(out.numel()).reshape(out.shape)).sum().backward()
    torch.testing.assert_close(out, theirs)
    assert len(found) == (1 if "without" in name or name == "dilated" else 2)
    for ours, p in zip(found, reference.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)


def test_the_weights_of_a_replay_may_stand_still() -> None:
    """A bias alone is trained, or the layer is only read."""
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    integer_first_layer(np.ones((1, 2), int), 1.0, 8)(layer, np.array([0])).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("padding", "got"),
    [
        ({"padding": 1, "padding_mode": "circular"}, r"'circular', \(1, 1\)"),
        ({"padding": 0, "padding_mode": "reflect"}, r"'reflect', \(0, 0\)"),
        ({"padding": "same"}, "'zeros', 'same'"),
        ({"padding": "valid"}, "'zeros', 'valid'"),
    ],
)
def test_a_convolution_that_is_padded_otherwise_is_refused(padding: dict[str, Any], got: str) -> None:
    layer = nn.Conv2d(1, 1, 3, **padding)
    with pytest.raises(
        ValueError, match=f"^expected a convolution padded with zeros, and how many in numbers, got {got}$"
    ):
        integer_first_layer(np.ones((1, 1, 4, 4), int), 1.0, 8)(layer, np.array([0]))


ONE = nn.Linear(4, 2)
FLAT = (nn.Flatten(), nn.Linear(4, 2))


class Shifted(nn.Module):
    """Adds something to its input."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift, self.fc = shift, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1) + self.shift)


class TestCheckPlan:
    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (lambda: nn.Linear(4, 2), (4,)),
            (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2)),
            (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 2)), (1, 2, 2)),
            (lambda: Shifted(0.0), (4,)),
            (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)), (4,)),
        ],
    )
    def test_models_that_reshape_at_most_can_be_replayed(self, make: Any, shape: tuple[int, ...]) -> None:
        before = torch.get_rng_state()
        check_plan(TrainingPlan(make, lr=0.1), shape)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("make", "shape", "why"),
        [
            (
                lambda: nn.Sequential(*FLAT),
                (4,),
                r"model\(\) to return a new torch module every time, got the same par",
            ),
            (lambda: nn.Sequential(nn.Linear(4, 4), ONE), (4,), "got the same parameters twice"),
            (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), (5,), r"take, got shape \(5,\): "),
            (lambda: nn.Conv2d(1, 1, 2), (4,), r"the model and its first layer take, got shape \(4,\): "),
            (lambda: Shifted(0.01), (4,), "nothing but reshaping before the first Linear, got another output from it"),
            (lambda: nn.Sequential(nn.Tanh(), nn.Conv2d(1, 1, 2)), (1, 2, 2), "before the first Conv2d, got another"),
            (lambda: nn.Sequential(nn.ReLU()), (4,), "a model with a Linear or Conv2d layer, got none"),
            (lambda: nn.Conv2d(1, 1, 2, padding=1, padding_mode="circular"), (1, 2, 2), "padded with zeros"),
        ],
    )
    def test_others_cannot(self, make: Any, shape: tuple[int, ...], why: str) -> None:
        with pytest.raises(ValueError, match=f"^expected .*{why}"):
            check_plan(TrainingPlan(make, lr=0.1), shape)
