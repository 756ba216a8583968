"""What a client claims about one step's first layer, and how random weights fold all of it into one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flwr_faa.crypto.exact import Integers, exact_product
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer


@dataclass(frozen=True, eq=False)
class StepClaims:
    """What the samples of one step's batch are, or what they become: ``outputs[i] = L x_i``.

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
    claimed : int64, shape (b, ...)
        Of every sample its outputs; of a convolution, whose outputs tell all of it, the sample itself.
    """

    layer: IntegerLayer
    step: int
    rows: list[int]
    kernels: Integers
    claimed: Integers

    @cached_property
    def outputs(self) -> Integers:
        """``Z1`` and ``P``, shape (b, units + k, *spatial)."""
        return self.layer.apply(self.claimed, self.kernels) if self.layer.spatial else self.claimed

    def fold(self, sigma: Sequence[int], rho: Sequence[int]) -> tuple[list[int], int]:
        """Return ``y = L^T rho`` and ``c = sum_i sigma_i <rho, outputs_i>`` of a dense layer, exact.

        If all claims are true then ``<sum_i sigma_i x_i, y> = c``.

        Parameters
        ----------
        sigma : sequence of int, length b
            A weight for each sample, of any size.
        rho : sequence of int, length units + k
            A weight for each output; the same.
        """
        values = exact_product(self.claimed, rho)
        return exact_product(self.kernels.T, rho), sum(s * v for s, v in zip(sigma, values, strict=True))
