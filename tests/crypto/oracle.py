"""A second implementation to check the first: plain Python integers, affine formulas, nothing of the project.

Two of them. `Curve` is the textbook group law on P-256 and BLS12-381, for vectors, byte by byte. `ModpIPFE` is the same
encryption scheme in another group, the squares modulo a 256-bit safe prime: too small to be secure, right for a check.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

Affine = tuple[int, int] | None  # None is the identity


@dataclass(frozen=True)
class Curve:
    """y^2 = x^3 + ax + b over F_p, and a generator of its subgroup of prime order q."""

    p: int
    a: int
    b: int
    q: int
    g: tuple[int, int]

    @property
    def half(self) -> int:
        return (self.p.bit_length() + 7) // 8

    def add(self, s: Affine, t: Affine) -> Affine:
        if s is None or t is None:
            return s or t
        if s[0] == t[0]:
            if (s[1] + t[1]) % self.p == 0:
                return None
            slope = (3 * s[0] ** 2 + self.a) * pow(2 * s[1], -1, self.p)
        else:
            slope = (t[1] - s[1]) * pow(t[0] - s[0], -1, self.p)
        x = (slope**2 - s[0] - t[0]) % self.p
        return x, (slope * (s[0] - x) - s[1]) % self.p

    def mul(self, s: Affine, k: int) -> Affine:
        k %= self.q
        result: Affine = None
        while k:
            if k & 1:
                result = self.add(result, s)
            s, k = self.add(s, s), k >> 1
        return result

    def encode(self, s: Affine) -> bytes:
        assert s is not None
        return s[0].to_bytes(self.half, "big") + s[1].to_bytes(self.half, "big")

    def outside(self, seed: int) -> tuple[int, int]:
        """A point of the curve with x >= seed (for cofactor 1 it is in the group all the same); p = 3 mod 4."""
        x = seed
        while True:
            square = (x**3 + self.a * x + self.b) % self.p
            y = pow(square, (self.p + 1) // 4, self.p)
            if y * y % self.p == square:
                return x, y
            x += 1


P256 = Curve(
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    a=-3,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    q=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    g=(
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
BLS12_381 = Curve(
    p=0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB,
    a=0,
    b=4,
    q=0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001,
    g=(
        0x17F1D3A73197D7942695638C4FA9AC0FC3688C4F9774B905A14E3A3F171BAC586C55E83FF97A1AEFFB3AF00ADB22C6BB,
        0x08B3F481E3AAA0F1A09E30ED741D8AE4FCF5E095D5D00AF600DB18CB2C04B3EDD03CC744A2888AE40CAA232946C5E7E1,
    ),
)
CURVES = {"charm": P256, "arkworks": BLS12_381}


class Scalars:
    """Reproducible scalars in [1, order), SHA-512 of a counter: what the vectors use in place of the system's."""

    def __init__(self, seed: str) -> None:
        self.seed, self.count = seed, 0

    def __call__(self, order: int) -> int:
        self.count += 1
        digest = hashlib.sha512(f"{self.seed}/{self.count}".encode()).digest()
        return 1 + int.from_bytes(digest, "big") % (order - 1)


@dataclass(frozen=True)
class ModpIPFE:
    """ABDP15 with g = 4 modulo the safe prime 2q + 1; ``bound`` limits what it can decrypt."""

    n: int
    bound: int
    seed: str = "modp"
    p: int = 2**255 + 0x2FF7F  # the first safe prime above 2^255

    @property
    def q(self) -> int:
        return (self.p - 1) // 2

    @cached_property
    def scalars(self) -> Scalars:
        return Scalars(self.seed)

    @cached_property
    def master(self) -> list[int]:
        return [self.scalars(self.q) for _ in range(self.n)]

    @cached_property
    def public(self) -> list[int]:
        return [pow(4, s, self.p) for s in self.master]

    @cached_property
    def logarithms(self) -> dict[int, int]:
        table, value = {}, 1
        for v in range(self.bound + 1):
            table[value] = v
            value = value * 4 % self.p
        return table

    def encrypt(self, x: list[int]) -> list[int]:
        r = self.scalars(self.q)
        return [pow(4, r, self.p)] + [
            pow(h, r, self.p) * pow(4, v, self.p) % self.p for h, v in zip(self.public, x, strict=True)
        ]

    def decrypt(self, ciphertext: list[int], y: list[int]) -> int:
        secret = sum(s * k for s, k in zip(self.master, y, strict=True)) % self.q
        value = pow(ciphertext[0], -secret, self.p)
        for c, k in zip(ciphertext[1:], y, strict=True):
            value = value * pow(c, k, self.p) % self.p
        return self.logarithms[value] if value in self.logarithms else -self.logarithms[pow(value, -1, self.p)]
