"""A second implementation of generators, commitments and their proofs: plain integers on the curves' equations.

Nothing of the package is used, only the textbook group law of `oracle.py`.
"""

from __future__ import annotations

import hashlib

from tests.crypto.oracle import CURVES, Affine, Scalars

#: Back end to the curve's name in the hash, and the multiple that leads into the subgroup.
NAMES = {"charm": ("P-256", 1), "arkworks": ("BLS12-381", 0xD201000000010001)}


def _times(name: str, point: Affine, k: int) -> Affine:
    """`Curve.mul` reduces k modulo the order, which is wrong outside the subgroup."""
    curve, result = CURVES[name], None
    for bit in bin(k)[2:]:
        result = curve.add(result, result)
        if bit == "1":
            result = curve.add(result, point)
    return result


def generator(name: str, index: int) -> Affine:
    curve, (label, cofactor) = CURVES[name], NAMES[name]
    counter = 0
    while True:
        text = "flwr-anomaly/generator/1\n" + label + "\n" + str(index) + "\n" + str(counter)
        x = int(hashlib.sha512(text.encode()).hexdigest(), 16) % curve.p
        right = (pow(x, 3, curve.p) + curve.a * x + curve.b) % curve.p
        y = pow(right, (curve.p + 1) // 4, curve.p)
        if pow(y, 2, curve.p) == right:
            return _times(name, (x, curve.p - y if y & 1 else y), cofactor)
        counter += 1


def commit(name: str, x: list[int], r: int) -> Affine:
    curve = CURVES[name]
    point = curve.mul(generator(name, 0), r)
    for i, v in enumerate(x, start=1):
        point = curve.add(point, curve.mul(generator(name, i), v))
    return point


def _hash(
    name: str, points: list[Affine], weights: list[int], function: list[int], value: int, context: bytes
) -> bytes:
    curve = CURVES[name]

    def numbers(values: list[int]) -> bytes:
        return b"".join((v % curve.q).to_bytes(32, "big") for v in values)

    parts = [context, NAMES[name][0].encode(), b"".join(map(curve.encode, points))]
    parts += [numbers(weights), numbers(function), numbers([value])]
    said = b"flwr-anomaly/linear/1\n" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)
    return hashlib.sha512(said).digest()


def _challenge(name: str, digest: bytes, mask: Affine, masked: int) -> int:
    curve = CURVES[name]
    said = b"flwr-anomaly/linear/1\nchallenge\n" + digest + curve.encode(mask) + masked.to_bytes(32, "big")
    return int(hashlib.sha512(said).hexdigest(), 16) % curve.q


def weights(seed: bytes, purpose: bytes, count: int) -> list[int]:
    stream = hashlib.shake_256(b"flwr-anomaly/linear/1\n" + len(purpose).to_bytes(8, "big") + purpose + seed)
    digest = stream.hexdigest(16 * count)
    return [1 + int(digest[i : i + 32], 16) for i in range(0, 32 * count, 32)]


def prove(
    name: str, points: list[Affine], x: list[list[int]], r: list[int], weights: list[int], function: list[int],
    context: bytes, draw: Scalars,
) -> bytes:  # fmt: skip
    curve = CURVES[name]
    y = [sum(w * row[j] for w, row in zip(weights, x, strict=True)) for j in range(len(function))]
    value = sum(a * b for a, b in zip(y, function, strict=True))
    a, alpha = [draw(curve.q) for _ in function], draw(curve.q)
    mask, masked = commit(name, a, alpha), sum(p * q for p, q in zip(a, function, strict=True)) % curve.q
    e = _challenge(name, _hash(name, points, weights, function, value, context), mask, masked)
    zeta = alpha + e * sum(w * b for w, b in zip(weights, r, strict=True))
    z = [ai + e * yi for ai, yi in zip(a, y, strict=True)]
    return curve.encode(mask) + b"".join((v % curve.q).to_bytes(32, "big") for v in (masked, zeta, *z))


def accepts(
    name: str, points: list[Affine], weights: list[int], function: list[int], value: int, context: bytes, proof: bytes
) -> bool:
    curve, size = CURVES[name], 2 * CURVES[name].half
    if len(proof) != size + 32 * (len(function) + 2):
        return False
    mask = int.from_bytes(proof[: size // 2], "big"), int.from_bytes(proof[size // 2 : size], "big")
    numbers = [int.from_bytes(proof[i : i + 32], "big") for i in range(size, len(proof), 32)]
    on_curve = (mask[1] ** 2 - mask[0] ** 3 - curve.a * mask[0] - curve.b) % curve.p == 0
    if max(*mask) >= curve.p or not on_curve or max(numbers) >= curve.q or _times(name, mask, curve.q) is not None:
        return False
    masked, zeta, *z = numbers
    e = _challenge(name, _hash(name, points, weights, function, value, context), mask, masked)
    if (sum(a * b for a, b in zip(z, function, strict=True)) - masked - e * value) % curve.q:
        return False
    right: Affine = mask
    for point, weight in zip(points, weights, strict=True):
        right = curve.add(right, curve.mul(point, e * weight))
    return commit(name, z, zeta) == right
