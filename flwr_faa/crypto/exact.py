"""Products of integers of any size by float64's matrix product: exact, digit by digit.

A digit of 20 bits times one of 16 has 36, and 2^17 of these sum to at most 2^53: no bit is lost, whatever the order of
summation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Bits of a digit of large integers, and how many products of such a digit and one of 20 bits are summed in float64.
_LIMB, _TERMS = 16, 2**17


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
