"""A second verifier of claims about committed data: plain integers and the curves' equations.

Nothing of the package is used, only ``tests/crypto/schnorr.py`` and the textbook group law behind it.
"""

from __future__ import annotations

import hashlib

from tests.crypto import schnorr
from tests.crypto.oracle import CURVES

#: Where a sample enters an output: for each output of a kernel, pairs of an index in the kernel and one in the sample.
Map = list[list[tuple[int, int]]]


def dense(width: int) -> Map:
    return [[(j, j) for j in range(width)]]


def convolution(side: int, kernel: int) -> Map:
    """One channel, stride 1, no padding."""
    out = range(side - kernel + 1)
    window = [(a, b) for a in range(kernel) for b in range(kernel)]
    return [[(a * kernel + b, (y + a) * side + x + b) for a, b in window] for y in out for x in out]


def _weights(seed: bytes, purpose: bytes, count: int) -> list[int]:
    said = b"flwr-anomaly/linear/1\n" + len(purpose).to_bytes(8, "big") + purpose + seed
    stream = hashlib.shake_256(said).digest(16 * count)
    return [1 + int.from_bytes(stream[i : i + 16], "big") for i in range(0, 16 * count, 16)]


def _signed(values: list[int]) -> bytes:
    return b"".join(v.to_bytes(8, "little", signed=True) for v in values)


def accepts(
    name: str, context: bytes, step: int, rows: list[int], kernels: list[list[int]], outputs: list[list[int]],
    points: list[bytes], proof: bytes, where: Map, width: int,
) -> bool:  # fmt: skip
    """Whether the claims of one step are proved of the samples in these encoded commitments."""
    curve = CURVES[name]
    flat = [v for kernel in kernels for v in kernel]
    parts = [context, step.to_bytes(8, "big"), _signed(rows), _signed(flat), b"".join(points)]
    parts.append(_signed([v for row in outputs for v in row]))
    said = b"flwr-anomaly/commitments/2\n" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)
    transcript = hashlib.sha256(said).digest()
    sigma, channels = _weights(transcript, b"sigma", len(rows)), _weights(transcript, b"channels", len(kernels))
    places = _weights(transcript, b"places", len(where)) if len(where) > 1 else [1]
    rho = [channel * place for channel in channels for place in places]
    # The function that all outputs, weighted by rho, are of a sample.
    function = [0] * width
    for k, kernel in enumerate(kernels):
        for place, pairs in enumerate(where):
            for at, j in pairs:
                function[j] += rho[k * len(where) + place] * kernel[at]
    value = sum(s * sum(r * v for r, v in zip(rho, row, strict=True)) for s, row in zip(sigma, outputs, strict=True))
    half, affine = curve.half, []
    for raw in points:
        x, y = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        if len(raw) != 2 * half or max(x, y) >= curve.p or (y * y - x**3 - curve.a * x - curve.b) % curve.p:
            return False
        if schnorr._times(name, (x, y), curve.q) is not None:
            return False
        affine.append((x, y))
    return schnorr.accepts(name, affine, sigma, function, value, transcript, proof)
