"""What a client claims about one step's first layer, and how random weights fold all of it into one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, Integers, exact_product

_LIMB = 32


@dataclass(frozen=True, eq=False)
class StepClaims:
    """That the samples of one step's batch have these outputs: ``outputs[i] = L x_i``.

    Attributes
    ----------
    layer : IntegerLayer
        What turns kernels into the linear map L.
    step : int
        Its index in the run.
    rows : list of int
        The registered samples, in the batch's order.
    kernels : int64, shape (units + k, *kernel)
        The quantised weights, and the random vectors s under them.
    outputs : int64, shape (b, units + k, *spatial)
        ``Z1`` and ``P``, as claimed.
    """

    layer: IntegerLayer
    step: int
    rows: list[int]
    kernels: Integers
    outputs: Integers

    @property
    def count(self) -> int:
        """Outputs of a sample."""
        return int(self.outputs[0].size)

    def fold(self, sigma: Sequence[int], rho: Sequence[int]) -> tuple[list[int], int]:
        """Return ``y = L^T rho`` and ``c = sum_i sigma_i <rho, outputs_i>``, exact.

        If all claims are true then ``<sum_i sigma_i x_i, y> = c``.

        Parameters
        ----------
        sigma : sequence of int, length b
            A weight for each sample; not negative, of any size.
        rho : sequence of int, length ``count``
            A weight for each output; the same.
        """
        shape = self.outputs[0].shape
        flat = self.outputs.reshape(len(self.rows), -1)
        y, values = [0] * self.layer.width, [0] * len(self.rows)
        for shift in range(0, max(k.bit_length() for k in rho), _LIMB):
            limb = np.array([(k >> shift) % 2**_LIMB for k in rho], np.int64)
            part = self.layer.adjoint(self.kernels, limb.reshape(shape))
            y = [a + (b << shift) for a, b in zip(y, part, strict=True)]
            values = [a + (b << shift) for a, b in zip(values, exact_product(flat, limb), strict=True)]
        return y, sum(s * v for s, v in zip(sigma, values, strict=True))
