"""The first layer as what it is, a linear map of the sample, in exact integers.

A dense or convolutional layer with integer kernels maps integer samples to integers. The spot check stacks its random
vectors under the layer's own (quantised) kernels, so that outputs ``Z1`` and projections ``P`` are one map ``L``; the
adjoint ``L^T rho`` is then the one function of a sample that a random combination ``rho`` of all outputs is.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flwr_faa.authority.base import weights
from flwr_faa.authority.information import Told, of_step
from flwr_faa.crypto.exact import Integers, digits, exact_product
from flwr_faa.crypto.fixedpoint import encode
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.integer_layer import exact
from flwr_faa.verification.training import Training, find_first_layer

if TYPE_CHECKING:
    import torch

#: Outputs of an integer layer are below this, so float64 is exact in any order of summation. No honest claim is larger.
LIMIT = 2**53
#: A device answers for a layer whose weights' sizes sum to at most this in every unit: what an output tells is bounded
#: before anybody is asked. MNIST's models end at 60 to 90.
LARGEST = 256
#: Where the global model is beyond this nobody is asked: honest steps from there may end beyond the other.
CALM = LARGEST // 2


@dataclass(frozen=True)
class IntegerLayer:
    """The first layer of a plan's model.

    Attributes
    ----------
    sample_shape : tuple of int
    kernel : tuple of int
        Shape of one output's kernel: ``(n,)`` for ``Linear``, ``(channels, height, width)`` for ``Conv2d``.
    outputs : int
        Units or channels of the layer.
    spatial : tuple of int
        Shape of one output: ``()`` for ``Linear``, else ``(height, width)``.
    weight, parameter : int
        Index of its weight among ``state_dict()`` and among ``parameters()``.
    bits : int
        Fractional bits of its weights.
    """

    sample_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: int
    spatial: tuple[int, ...]
    weight: int
    parameter: int
    bits: int
    _map: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, plan: Training, sample_shape: tuple[int, ...] | None = None) -> IntegerLayer:
        """The layer of that plan's model; a ``Linear`` knows its samples' size itself."""
        import torch
        from torch import nn
        from torch.nn.functional import conv2d, linear

        model = plan.template
        layer = find_first_layer(model)
        weight: Any = layer.weight
        kernel = tuple(weight.shape[1:])
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1 or layer.padding_mode != "zeros":
                raise ArgumentValueError(
                    f"expected one group padded with zeros, got {layer.groups} groups, {layer.padding_mode!r}"
                )
            if sample_shape is None:
                raise ArgumentValueError("expected the shape of a sample, got none: a convolution does not tell it")

        if weight.dtype != torch.float32:
            raise ArgumentValueError(
                f"expected a first layer of float32, got {weight.dtype}: model.float() makes it one"
            )

        def apply(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
            if isinstance(layer, nn.Conv2d):
                return conv2d(x, kernels, None, layer.stride, layer.padding, layer.dilation)
            return linear(x, kernels)

        shape = sample_shape or kernel
        flat = shape if isinstance(layer, nn.Conv2d) else (math.prod(shape),)
        try:
            spatial = tuple(apply(torch.zeros(1, *flat), weight.detach()).shape[2:])
        except RuntimeError as why:
            raise ArgumentValueError(f"expected samples that the first layer takes, got shape {shape}: {why}") from why
        states = [id(t) for t in model.state_dict(keep_vars=True).values()]
        parameters = [id(p) for p in model.parameters()]
        if id(weight) not in states or id(weight) not in parameters:
            raise ArgumentValueError(
                "expected a first layer whose weight is one of the model's parameters, got a computed one"
            )
        at = states.index(id(weight)), parameters.index(id(weight))
        return cls(shape, kernel, len(weight), spatial, *at, plan.bits, apply)

    @property
    def width(self) -> int:
        """Length of a sample as a vector."""
        return math.prod(self.sample_shape)

    def told(self, sizes: Sequence[int], samples: int, top: int) -> Told:
        """What opening a step of so many different samples tells, of kernels with these sizes (``information.py``).

        A convolution tells the samples themselves. Momentum and weight decay, which the server takes off, change
        nothing.
        """
        if self.spatial:
            return Told(self.width, self.width)
        return of_step(sizes, self.outputs, self.width, samples, top)

    def largest(self, vectors: int, entry: int) -> list[int]:
        """The most that the sizes can be of kernels that a device answers for, and vectors of entries up to that."""
        return [LARGEST << self.bits] * self.outputs + [entry * math.prod(self.kernel)] * vectors

    def fixed(self, weight: npt.NDArray[Any]) -> Integers:
        """``W1`` in fixed point, as the replay's first layer does it (``integer_layer.py``)."""
        return encode(weight, self.bits)

    def quantise(self, weight: npt.NDArray[Any]) -> Integers:
        """The same, of weights that a device answers for.

        Raises
        ------
        ValueError
            If its weights are beyond ``LARGEST``, or no numbers.
        """
        fixed = self.fixed(weight)
        size = max(sizes_of(fixed))
        if size > LARGEST << self.bits:
            raise ArgumentValueError(
                f"expected a first layer whose weights' sizes sum to at most {LARGEST} in every unit, got "
                f"{size / 2**self.bits:.0f}: take a lower learning rate or more weight decay"
            )
        return fixed

    def apply(self, samples: npt.NDArray[Any], kernels: Integers) -> Integers:
        """Outputs of the integer layer, shape (m, len(kernels), *spatial).

        Raises
        ------
        ValueError
            If a sum could leave 2^53, below which float64 is exact in any order of summation.
        """
        import torch

        largest = np.abs(kernels.astype(np.float64)).reshape(len(kernels), -1).sum(1).max()
        if not largest * np.abs(samples.astype(np.float64)).max() < LIMIT:
            raise ArgumentValueError("expected weights whose outputs stay below 2^53, got larger ones")
        with torch.no_grad():
            z = exact(self._map, self._batch(samples), torch.from_numpy(kernels).double())
        return np.asarray(z.numpy().astype(np.int64))

    def claim(self, samples: npt.NDArray[Any], kernels: Integers) -> Integers:
        """What a client shows of these samples: their outputs, or where these tell all of a sample the sample itself.

        Raises ValueError as :meth:`apply` does.
        """
        return samples.astype(np.int64) if self.spatial else self.apply(samples, kernels)

    def claim_shape(self, vectors: int) -> tuple[int, ...]:
        """Shape of what ``claim`` shows of one sample, with so many kernels besides the layer's own."""
        return self.sample_shape if self.spatial else (self.outputs + vectors,)

    def adjoint(self, kernels: Integers, rho: Integers) -> list[int]:
        """``y`` with ``<x, y> = <L x, rho>`` for every sample x, exactly.

        Parameters
        ----------
        kernels : int64, shape (k, *kernel)
        rho : int64, shape (k, *spatial)
        """
        import torch

        total = np.zeros(self.width, object)
        for shift_k, part in digits(kernels, 20):
            for shift_r, coefficients in digits(rho, 16):  # 20 + 16 bits and at most 2^17 terms: exact in float64
                x = torch.zeros(1, self.width, dtype=torch.float64, requires_grad=True)
                z = self._map(x.reshape(1, *self._shape), torch.from_numpy(part).double())
                z.backward(torch.from_numpy(coefficients).double()[None])  # type: ignore[no-untyped-call]
                assert x.grad is not None
                total += x.grad.numpy()[0].astype(np.int64).astype(object) << (shift_k + shift_r)
        return [int(v) for v in total]

    def functions(self, kernels: Integers, outputs: Integers) -> tuple[list[list[int]], npt.NDArray[Any]]:
        """One function of the sample for each kernel, and its value by the outputs of some samples.

        A dense kernel is that function. The places of a convolution's are combined with random weights, drawn now.

        Parameters
        ----------
        kernels : int64, shape (k, *kernel)
        outputs : int64, shape (b, k, *spatial)

        Returns
        -------
        list of k integer vectors, and integers of shape (b, k)
        """
        if not self.spatial:
            return kernels.tolist(), outputs
        seed, functions, values = secrets.token_bytes(32), [], []
        places = np.array(weights(seed, len(kernels) * math.prod(self.spatial)))
        for rho, kernel, told in zip(
            places.reshape(len(kernels), *self.spatial), kernels, outputs.swapaxes(0, 1), strict=True
        ):
            functions.append(self.adjoint(kernel[None], rho[None]))
            values.append(exact_product(told.reshape(len(told), -1), rho.ravel().tolist()))
        return functions, np.array(values, object).T

    def _batch(self, samples: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(samples.astype(np.float64)).reshape(len(samples), *self._shape)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.sample_shape if self.spatial else (self.width,)


def sizes_of(kernels: Integers) -> list[int]:
    """Return for each kernel the exact sum of its weights' sizes."""
    return [sum(map(abs, kernel)) for kernel in kernels.reshape(len(kernels), -1).tolist()]
