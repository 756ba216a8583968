"""A second verifier of claims about committed data: plain integers and the curves' equations.

Nothing of the package is used, only ``tests/crypto/schnorr.py`` and the textbook group law behind it.
"""

from __future__ import annotations

import hashlib

from tests.crypto import schnorr
from tests.crypto.oracle import CURVES


def _weights(seed: bytes, purpose: bytes, count: int) -> list[int]:
    said = b"flwr-anomaly/linear/1\n" + len(purpose).to_bytes(8, "big") + purpose + seed
    stream = hashlib.shake_256(said).digest(16 * count)
    return [1 + int.from_bytes(stream[i : i + 16], "big") for i in range(0, 16 * count, 16)]


def _signed(values: list[int]) -> bytes:
    return b"".join(v.to_bytes(8, "little", signed=True) for v in values)


def _transcript(
    context: bytes, step: int, rows: list[int], kernels: list[list[int]], claimed: list[list[int]], points: list[bytes]
) -> bytes:
    flat = [v for kernel in kernels for v in kernel]
    parts = [context, step.to_bytes(8, "big"), _signed(rows), _signed(flat), b"".join(points)]
    parts.append(_signed([v for row in claimed for v in row]))
    said = b"flwr-anomaly/commitments/2\n" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)
    return hashlib.sha256(said).digest()


def _points(name: str, points: list[bytes]) -> list[tuple[int, int]] | None:
    """The commitments; None if one of them is none."""
    curve = CURVES[name]
    half, affine = curve.half, []
    for raw in points:
        x, y = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        if len(raw) != 2 * half or max(x, y) >= curve.p or (y * y - x**3 - curve.a * x - curve.b) % curve.p:
            return None
        if schnorr._times(name, (x, y), curve.q) is not None:
            return None
        affine.append((x, y))
    return affine


def accepts(
    name: str, context: bytes, step: int, rows: list[int], kernels: list[list[int]], outputs: list[list[int]],
    points: list[bytes], proof: bytes, width: int,
) -> bool:  # fmt: skip
    """Whether a dense layer's outputs are proved of the samples in these encoded commitments."""
    transcript = _transcript(context, step, rows, kernels, outputs, points)
    sigma, rho = _weights(transcript, b"sigma", len(rows)), _weights(transcript, b"rho", len(kernels))
    # The function that all outputs, weighted by rho, are of a sample.
    function = [sum(r * kernel[j] for r, kernel in zip(rho, kernels, strict=True)) for j in range(width)]
    value = sum(s * sum(r * v for r, v in zip(rho, row, strict=True)) for s, row in zip(sigma, outputs, strict=True))
    affine = _points(name, points)
    return affine is not None and schnorr.accepts(name, affine, sigma, function, value, transcript, proof)


def opens(
    name: str, context: bytes, step: int, rows: list[int], kernels: list[list[int]], samples: list[list[int]],
    points: list[bytes], proof: bytes, width: int,
) -> bool:  # fmt: skip
    """Whether the samples themselves, which a convolution's are shown as, are those in these encoded commitments."""
    curve, affine = CURVES[name], _points(name, points)
    blinding = int.from_bytes(proof, "big")
    if affine is None or blinding >= curve.q:
        return False
    sigma = _weights(_transcript(context, step, rows, kernels, samples, points), b"sigma", len(rows))
    folded = [sum(s * row[j] for s, row in zip(sigma, samples, strict=True)) for j in range(width)]
    right = None
    for s, point in zip(sigma, affine, strict=True):
        right = curve.add(right, schnorr._times(name, point, s))
    return bool(schnorr.commit(name, folded, blinding) == right)
