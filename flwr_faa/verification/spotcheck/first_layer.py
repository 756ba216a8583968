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
from flwr_faa.crypto.fixedpoint import encode
from flwr_faa.verification.training import Training, find_first_layer

if TYPE_CHECKING:
    import torch

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Outputs of an integer layer are below this, so float64 is exact in any order of summation. No honest claim is larger.
LIMIT = 2**53
#: A device answers for a layer whose weights' sizes sum to at most this in every unit: what an output tells is bounded
#: before anybody is asked. MNIST's models end at 60 to 90.
LARGEST = 256
#: Where the global model is beyond this nobody is asked: honest steps from there may end beyond the other.
CALM = LARGEST // 2
#: Bits of a digit of large integers, and how many products of such a digit and one of 20 bits are summed in float64.
_LIMB, _TERMS = 16, 2**17


@dataclass(frozen=True, eq=False)
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

        model = plan.blank()
        layer = find_first_layer(model)
        weight: Any = layer.weight
        kernel = tuple(weight.shape[1:])
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1 or layer.padding_mode != "zeros":
                raise ValueError(
                    f"expected one group padded with zeros, got {layer.groups} groups, {layer.padding_mode!r}"
                )
            if sample_shape is None:
                raise ValueError("expected the shape of a sample, got none: a convolution does not tell it")

        if weight.dtype != torch.float32:
            raise ValueError(f"expected a first layer of float32, got {weight.dtype}: model.float() makes it one")

        def apply(x: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
            if isinstance(layer, nn.Conv2d):
                return conv2d(x, kernels, None, layer.stride, layer.padding, layer.dilation)
            return linear(x, kernels)

        shape = sample_shape or kernel
        flat = shape if isinstance(layer, nn.Conv2d) else (math.prod(shape),)
        try:
            spatial = tuple(apply(torch.zeros(1, *flat), weight.detach()).shape[2:])
        except RuntimeError as why:
            raise ValueError(f"expected samples that the first layer takes, got shape {shape}: {why}") from why
        states = [id(t) for t in model.state_dict(keep_vars=True).values()]
        parameters = [id(p) for p in model.parameters()]
        if id(weight) not in states or id(weight) not in parameters:
            raise ValueError("expected a first layer whose weight is one of the model's parameters, got a computed one")
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
            raise ValueError(
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
        if not largest * np.abs(samples.astype(np.float64)).max(initial=0) < LIMIT:
            raise ValueError("expected weights whose outputs stay below 2^53, got larger ones")
        with torch.no_grad():
            z = self._map(self._batch(samples), torch.from_numpy(kernels).double())
        return np.asarray(z.numpy().astype(np.int64))

    def adjoint(self, kernels: Integers, channels: Sequence[int], places: Sequence[int]) -> list[int]:
        """Return y with ``<x, y> = sum_kp channels[k] places[p] (L x)[k, p]`` for every sample x, exactly.

        The kernels are folded into one first: the weights are a product, so that a convolution of many channels costs
        what one channel does.

        Parameters
        ----------
        kernels : int64, shape (k, *kernel)
        channels : sequence of int, length k
            Of any size and sign.
        places : sequence of int, one for every place of an output
            The same.
        """
        import torch

        # Step 1: one kernel of large integers.
        folded = exact_product(kernels.reshape(len(kernels), -1).T, channels)
        if not self.spatial:
            return [places[0] * value for value in folded]
        # Step 2: its transposed convolution with the places, base-2^16 digit by digit. Element t of the batch takes the
        # pairs of digits whose shifts add up to t: 32 bits a product, so float64 sums 2^21 of them exactly.
        kernel, rho = limbs(folded), limbs(places)
        deep, high = kernel.shape[1], rho.shape[1]
        pairs = np.zeros((deep + high - 1, deep, len(rho)))
        for i in range(deep):
            pairs[i : i + high, i] = rho.T
        x = torch.zeros(len(pairs), *self._shape, dtype=torch.float64, requires_grad=True)
        z = self._map(x, torch.from_numpy(np.ascontiguousarray(kernel.T)).reshape(deep, *self.kernel))
        z.backward(torch.from_numpy(pairs).reshape(z.shape))  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return whole(x.grad.numpy().reshape(len(pairs), -1).T)

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
        for rho, kernel, told in zip(places.reshape(len(kernels), -1), kernels, outputs.swapaxes(0, 1), strict=True):
            functions.append(self.adjoint(kernel[None], [1], rho.tolist()))
            values.append(exact_product(told.reshape(len(told), -1), rho.tolist()))
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


def digits(values: Integers, bits: int) -> list[tuple[int, Integers]]:
    """``values = sum of part << shift``, every part below 2^bits in size, as (shift, part)."""
    parts, shift, rest = [], 0, values
    while rest.size and not -(2**bits) < rest.min() <= rest.max() < 2**bits:
        parts.append((shift, rest & (2**bits - 1)))
        rest, shift = rest >> bits, shift + bits  # an arithmetic shift: the sign stays with the highest part
    return [*parts, (shift, rest)]


def limbs(values: Sequence[int]) -> Floats:
    """Integers of any size in base 2^16, lowest first, each digit with the sign of the integer; shape (n, digits)."""
    count = -(-max(1, *(v.bit_length() for v in values)) // _LIMB)
    raw = b"".join([abs(v).to_bytes(count * _LIMB // 8, "little") for v in values])
    signs = np.array([-1.0 if v < 0 else 1.0 for v in values])
    return np.asarray(np.frombuffer(raw, "<u2").reshape(len(values), count) * signs[:, None])


def whole(sums: Floats) -> list[int]:
    """Return ``sum_t sums[i, t] 2^16t`` for every i, for integers below 2^53 in size: the inverse of :func:`limbs`."""
    count = sums.shape[1]
    digit, carry = np.zeros((len(sums), count + 3), "<u2"), np.zeros(len(sums), np.int64)
    for t in range(count + 3):  # carries have at most 38 bits: three digits more, and the sign
        total = carry + (sums[:, t].astype(np.int64) if t < count else 0)
        digit[:, t], carry = total & (2**_LIMB - 1), total >> _LIMB
    raw, size = digit.tobytes(), digit.itemsize * (count + 3)
    return [int.from_bytes(raw[i : i + size], "little", signed=True) for i in range(0, len(raw), size)]


def exact_product(matrix: Integers, vector: Sequence[int]) -> list[int]:
    """``matrix @ vector`` exactly, for integers of any size: in float64, digit by digit, below 2^53.

    Parameters
    ----------
    matrix : int64, shape (m, n)
    vector : sequence of int, length n
    """
    columns, total = limbs(vector), [0] * len(matrix)
    for start in range(0, len(columns), _TERMS):
        for shift, part in digits(matrix[:, start : start + _TERMS], 20):
            sums = whole(part.astype(np.float64) @ columns[start : start + _TERMS])
            total = [a + (b << shift) for a, b in zip(total, sums, strict=True)]
    return total
