"""How much of a sample a check tells, in dimensions. Pure: device, authority and server count by this and nothing else.

A sample is n integers from 0 to ``top``: it holds ``n log2(top + 1)`` bits. A value that can only be one of r tells at
most ``log2(r)`` bits of it, whatever the function, the prior and the sample are, and values together tell at most the
sum, since ``I(X; V_1 .. V_m) <= H(V_1 .. V_m) <= sum_i log2 r_i``. So the cost of a value is the number of dimensions
that hold as much::

    dimensions(r) = the least k with (top + 1)^k >= r

Values that cost k dimensions together tell at most ``k log2(top + 1)`` bits of the ``n log2(top + 1)``. That a value is
linear, exact, or of large weights plays no part: four pixels that are packed into one value cost four.

What a check tells, of a function with weights w of size ``s = sum_j |w_j|``:

* ``<w, x>`` is one of at most ``top s + 1`` integers.
* A key opens a combination of all functions of a step with weights below ``2^RHO_BITS``, of every sample of the node.
* An opened step shows the gradient of the first layer's weight, ``units n`` floats. They say something of all the
  samples of the batch together, so each sample pays its share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flwr_faa.errors import ArgumentValueError

#: The functions of a step are combined with random weights from 1 to below 2^this. False claims pass with probability
#: 2^-23 + 2^-24 (``spotcheck/claims.py``); every bit more is a bit more that a key tells.
RHO_BITS = 24
#: Bits of a number of a checkpoint.
FLOAT_BITS = 32


@dataclass(frozen=True)
class Told:
    """What one step tells, in dimensions.

    Attributes
    ----------
    opened : int
        Of each sample of its batch.
    every : int
        Of every sample of the node, by the step's key.
    """

    opened: int
    every: int


def dimensions(values: int, top: int) -> int:
    """Return how many values of a sample hold as much information as one number with so many possible values."""
    if top < 1:
        raise ArgumentValueError(f"expected samples from 0 to at least 1, got a largest value of {top}")
    count, held = 0, 1
    while held < values:
        count, held = count + 1, held * (top + 1)
    return count


def of_function(size: int, top: int) -> int:
    """Return the dimensions that a function's value tells; ``size`` is the sum of the sizes of its weights."""
    return dimensions(top * size + 1, top)


def of_key(sizes: Sequence[int], top: int) -> int:
    """Return the most that a key for a random combination of functions of these sizes tells."""
    return of_function((2**RHO_BITS - 1) * sum(sizes), top)


def carried(known: int, before: int, top: int) -> int:
    """Convert dimensions known of samples up to ``before`` into dimensions of samples that now end at ``top``."""
    return known if top >= before else math.ceil(known * math.log2(before + 1) / math.log2(top + 1))


def of_gradient(units: int, width: int, samples: int, top: int) -> int:
    """Return what a step's gradient tells of each of its samples: all its numbers shared out, rounded up."""
    return -(-units * width * dimensions(2**FLOAT_BITS, top) // samples)


def of_step(sizes: Sequence[int], units: int, width: int, samples: int, top: int) -> Told:
    """Return what opening a step tells.

    Parameters
    ----------
    sizes : sequence of int
        Of each function whose values are stated, the sum of its weights' sizes.
    units : int
        How many of them are units of the layer, of which the gradient is shown.
    width, samples, top : int
        Values of a sample, samples in the batch, and the largest value that one can have.
    """
    stated = sum(of_function(size, top) for size in sizes)
    gradient = of_gradient(units, width, samples, top) if units else 0
    return Told(min(width, stated + gradient), min(width, of_key(sizes, top)))
