"""The first layer of a replay, computed from integers: exact products with fixed-point weights, and autograd behind it.

FAA-DL, Sec. IV-C: only ``Z1 = W1 A0 + b1`` and ``dE/dW1`` touch the samples (Eqs. 20, 21), and both are inner products
with them. Here both are computed from what inner-product decryption yields, integers; weights are fixed point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto.fixedpoint import encode
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.training import FirstLayer, Training, find_first_layer

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Fractional bits that are as good as none left out: for clients that train in floats.
FINE = 32


def real(z: torch.Tensor, scale: float, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Convert outputs of the integer layer to the model's; all sides round here, and in the same way.

    The factor has the precision of float32. So its product with an integer below 2^24 is exact in float64, and float32
    rounds it in the same way.
    """
    return (z * float(np.float32(scale / 2.0**bits))).to(dtype)


def exact(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, kernels: torch.Tensor) -> Any:
    """Return a linear layer's product of integers: in float32 if no sum can reach 2^24, in float64 otherwise.

    A machine may compute float32 products in another way than by adding (Winograd's convolutions, bfloat16). The first
    sample is computed in float64 too: if it differs all are.

    Parameters
    ----------
    product : callable
    x : integers as float64, shape (b, ...)
    kernels : integers as float64, shape (k, ...)
    """
    import torch

    if kernels.abs().flatten(1).sum(1).max() * x.abs().max() < 2**24:
        z = product(x.float(), kernels.float())
        if torch.equal(z[:1].double(), product(x[:1], kernels)):
            return z
    return product(x, kernels)


def integer_first_layer(samples: npt.NDArray[Any], scale: float, bits: int) -> FirstLayer:
    """Return a ``first_layer`` for :meth:`Training.train` from integer samples, shape (m, ...), and weights of so many
    fractional bits. Sums stay exact below 2^53.
    """
    import torch
    from torch import nn
    from torch.nn.functional import conv2d, linear
    from torch.nn.grad import conv2d_weight

    class Product(torch.autograd.Function):
        """``scale * W1 x + b1`` with ``W1`` in fixed point; the gradient is that of the real product."""

        @staticmethod
        def forward(
            ctx: Any, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor, layer: nn.Module
        ) -> torch.Tensor:
            fixed = torch.from_numpy(encode(weight.detach().numpy(), bits)).double()

            def product(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
                if isinstance(layer, nn.Conv2d):
                    return conv2d(x, kernels, None, layer.stride, layer.padding, layer.dilation, layer.groups)
                return linear(x, kernels)

            z = exact(product, x, fixed)
            ctx.save_for_backward(weight, x)
            ctx.layer = layer
            out = real(z, scale, bits, weight.dtype)
            if bias is None:
                return out
            return out + (bias[:, None, None] if isinstance(layer, nn.Conv2d) else bias)

        @staticmethod
        def backward(ctx: Any, *deltas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
            weight, x = ctx.saved_tensors
            layer, (delta,) = ctx.layer, deltas
            inputs = x.to(weight.dtype) * scale
            if isinstance(layer, nn.Conv2d):
                grad = conv2d_weight(  # type: ignore[no-untyped-call]
                    inputs, weight.shape, delta, layer.stride, layer.padding, layer.dilation, layer.groups
                )
                return grad, delta.sum((0, 2, 3)) if layer.bias is not None else None, None, None
            return delta.T @ inputs, delta.sum(0) if layer.bias is not None else None, None, None

    def first_layer(layer: nn.Module, rows: npt.NDArray[np.intp]) -> torch.Tensor:
        x = torch.from_numpy(samples[rows].astype(np.float64))
        if isinstance(layer, nn.Linear):
            x = x.reshape(len(rows), layer.in_features)
        elif layer.padding_mode != "zeros" or isinstance(layer.padding, str):  # torch has no gradient for "same"
            got = f"{layer.padding_mode!r}, {layer.padding!r}"
            raise ArgumentValueError(f"expected a convolution padded with zeros, and how many in numbers, got {got}")
        z: torch.Tensor = Product.apply(layer.weight, layer.bias, x, layer)
        return z

    return first_layer


def check_plan(plan: Training, sample_shape: tuple[int, ...]) -> None:
    """Make sure that a plan's model can be replayed from its first layer.

    Raises
    ------
    ValueError
        If the plan does not make a new model every time, or the model's output is another when its first layer is
        computed from the raw samples: something other than reshaping happens before that layer.
    """
    import torch

    one, other = plan.blank(), plan.blank()
    if {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}:
        raise ArgumentValueError(
            "expected model() to return a new torch module every time, got the same parameters twice"
        )
    samples = np.random.default_rng(0).integers(0, 256, (4, *sample_shape))
    arrays = plan.initial_arrays(0)
    try:
        plain = plan.predict(arrays, samples)
        model = plan.build(arrays).eval()
        layer = find_first_layer(model)
        first = integer_first_layer(samples, plan.scale, FINE)
        layer.forward = lambda _: first(layer, np.arange(4))
        with torch.inference_mode():
            replayed = model(torch.from_numpy(samples.astype(np.float32)) * plan.scale).numpy()
    except RuntimeError as why:
        raise ArgumentValueError(
            f"expected samples that the model and its first layer take, got shape {sample_shape}: {why}"
        ) from why
    if not np.allclose(plain, replayed, rtol=1e-3, atol=1e-5):
        name = type(layer).__name__
        raise ArgumentValueError(f"expected nothing but reshaping before the first {name}, got another output from it")
