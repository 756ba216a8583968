"""The two back ends: Charm's P-256 and arkworks' BLS12-381 G1. Charm has no wheels: an extra, arkworks stands in."""

from __future__ import annotations

import functools
import importlib
import logging
import operator
import secrets
import threading
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from py_arkworks_bls12381 import G1Point, Scalar

from flwr_faa.crypto.group import Group, Point
from flwr_faa.errors import ArgumentValueError, MissingExtraError

logger = logging.getLogger(__name__)
_OPENING = threading.Lock()


class CharmGroup:
    """P-256 by ``charm_lite`` (OpenSSL). Secp256k1, Charm's default, is six times slower."""

    name, curve, code, point_size, mul_cost = "charm", "P-256", 1, 64, 44
    prime = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
    a, b = -3, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    add = staticmethod(operator.mul)  # Charm writes its groups multiplicatively
    neg = staticmethod(operator.invert)  # unary minus is 25 times slower: it goes through affine coordinates
    multiexp = None

    def __init__(self) -> None:
        try:
            self._ec: Any = importlib.import_module("charm_lite.core.math.elliptic_curve")
        except ImportError as error:
            raise MissingExtraError("charm-crypto-lite", "charm", "the charm back end") from error
        self._group: Any = self._ec.elliptic_curve(nid=415)
        self.order = int(self._ec.order(self._group))
        self.generator: Point = self._ec.getGenerator(self._group)
        self.identity: Point = self._ec.init(self._group, self._ec.G)

    def mul(self, p: Point, scalar: int) -> Point:
        return p ** self._ec.init(self._group, self._ec.ZR, scalar % self.order)

    def coordinates(self, points: Sequence[Point]) -> list[tuple[int, int]]:
        # getXY would give both, but leaks two objects a call; the printed form is "[x, y]".
        pairs = (str(p)[1:-1].split(", ") for p in points)
        return [(int(x), int(y)) for x, y in pairs]

    def fingerprints(self, points: Sequence[Point]) -> npt.NDArray[np.uint64]:
        decode, group = self._ec.decode, self._group  # "decode" is Charm's name for x as 32 bytes
        return np.frombuffer(b"".join([decode(group, p, True)[-8:] for p in points]), ">u8").astype(np.uint64)

    def load(self, raw: bytes) -> Point:
        # Off the curve this call would return its argument with one reference too few (a crash, later): check before.
        return self._ec.deserialize(self._group, b"1:" + b64encode(b"\x04" + raw))

    def in_subgroup(self, points: Sequence[Point]) -> bool:
        return True  # cofactor 1

    def clear_cofactor(self, p: Point) -> Point:
        return p


class ArkworksGroup:
    """G1 of BLS12-381 by ``py_arkworks_bls12381``, which has wheels and a native multi-scalar multiplication."""

    name, curve, code, point_size, mul_cost = "arkworks", "BLS12-381", 2, 96, 200
    order = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
    prime = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
    a, b = 0, 4
    h_eff = 0xD201000000010001
    add = staticmethod(operator.add)
    neg = staticmethod(operator.neg)

    def __init__(self) -> None:
        self.generator: Point = G1Point()
        self.identity: Point = G1Point.identity()

    def _scalar(self, scalar: int) -> Scalar:
        return Scalar.from_le_bytes_mod_order((scalar % self.order).to_bytes(32, "little"))  # Scalar(int): 15x slower

    def mul(self, p: Point, scalar: int) -> Point:
        return p * self._scalar(scalar)

    def multiexp(self, points: Sequence[Point], scalars: Sequence[int]) -> Point:
        return G1Point.multiexp_unchecked(list(points), [self._scalar(k) for k in scalars])

    def coordinates(self, points: Sequence[Point]) -> list[tuple[int, int]]:
        raw = (p.to_xy_bytes_be() for p in points)
        return [(int.from_bytes(xy[:48], "big"), int.from_bytes(xy[48:], "big")) for xy in raw]

    def fingerprints(self, points: Sequence[Point]) -> npt.NDArray[np.uint64]:
        return np.frombuffer(b"".join([p.to_xy_bytes_be()[40:48] for p in points]), ">u8").astype(np.uint64)

    def load(self, raw: bytes) -> Point:
        return G1Point.from_xy_bytes_unchecked_be(raw)

    def in_subgroup(self, points: Sequence[Point]) -> bool:
        """Test a few points one by one, and many by sums over 64 random buckets, 11 times.

        A point outside the subgroup goes unseen in a round only if it falls into the one bucket, if any, whose other
        points cancel its deviation: at most 1/64 a round whatever the other points are, 2^-66 in all.
        """
        if len(points) < 1024:
            return all(p.is_in_subgroup() for p in points)
        for _ in range(11):
            buckets: list[Point] = [self.identity] * 64
            for p, byte in zip(points, secrets.token_bytes(len(points)), strict=True):
                buckets[byte & 63] += p
            if not all(bucket.is_in_subgroup() for bucket in buckets):
                return False
        return True

    def clear_cofactor(self, p: Point) -> Point:
        """Multiply by h_eff (RFC 9380, 8.8.1), by doubling: the back end's product is only right in the subgroup."""
        result = p
        for bit in bin(self.h_eff)[3:]:
            result = result + result + p if bit == "1" else result + result
        return result


def open_group(name: str = "auto") -> Group:
    """Return the back end of that name, one object a process.

    Parameters
    ----------
    name : {"auto", "charm", "arkworks"}
        "auto" is charm where it is installed, else arkworks.

    Raises
    ------
    ImportError
        Charm was asked for by name and is not installed.
    ValueError
        No such back end.
    """
    if name not in ("auto", "charm", "arkworks"):
        raise ArgumentValueError(f"expected back end 'auto', 'charm' or 'arkworks', got {name!r}")
    with _OPENING:  # two objects of one back end would not mix
        return _open(name)


@functools.cache
def _open(name: str) -> Group:
    if name == "auto":
        try:
            return _open("charm")
        except ImportError as error:
            logger.warning("%s; using arkworks", error)
            return _open("arkworks")
    return CharmGroup() if name == "charm" else ArkworksGroup()
