"""What a client claims about one step's first layer, and how random weights fold all of it into one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np

from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, Integers, exact_product


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
    def places(self) -> int:
        """Outputs of a sample by one kernel."""
        return math.prod(self.layer.spatial)

    def fold(self, sigma: Sequence[int], channels: Sequence[int], places: Sequence[int]) -> tuple[list[int], int]:
        """Return ``y = L^T rho`` and ``c = sum_i sigma_i <rho, outputs_i>``, exact.

        Here ``rho[k, p] = channels[k] places[p]``. If all claims are true then ``<sum_i sigma_i x_i, y> = c``. The
        difference of both sides is a polynomial of degree 3 in the weights. If a claim is false, random weights in
        [1, 2^128] make it zero with probability at most 3 2^-128 (Schwartz and Zippel).

        Parameters
        ----------
        sigma : sequence of int, length b
            A weight for each sample; of any size.
        channels : sequence of int, length units + k
            A weight for each kernel; the same.
        places : sequence of int, length ``places``
            A weight for each place of an output; the same.
        """
        y = self.layer.adjoint(self.kernels, channels, places)
        if self.layer.spatial:
            # The places first: they are many, and what is left has one integer a sample and kernel.
            by_kernel = exact_product(self.outputs.reshape(-1, self.places), places)
            values = np.array(by_kernel, object).reshape(len(self.rows), -1) @ np.array(channels, object)
        else:
            values = places[0] * np.array(exact_product(self.outputs, channels), object)
        return y, sum(map(mul, sigma, values))
