"""Functional encryption for inner products under DDH, as the paper uses it ([27] there, Section VI-C).

Abdalla, Bourse, De Caro, Pointcheval, "Simple Functional Encryption Schemes for Inner Products", PKC 2015, Section 3,
written additively, with g the group's generator::

    setup      s_i random                 h_i = s_i g
    encrypt    r random, once a vector    ct_0 = r g,  ct_i = r h_i + x_i g
    derive     sk_y = sum_i s_i y_i
    decrypt    sum_i y_i ct_i - sk_y ct_0 = <x, y> g, and a small discrete logarithm

The scheme is selectively CPA-secure and, by design, malleable: sign what you send, and bind a key to one registered
data set. Every key gives away one linear function of the data; n independent ones give the data. Counting them is
the authority's work, not done here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto import groups
from flwr_faa.crypto.dlog import solver
from flwr_faa.crypto.group import Group, Point
from flwr_faa.crypto.groups import combine, msm, multiples
from flwr_faa.errors import ArgumentValueError

#: Most coordinates a key may have.
MAX_WIDTH = 2**16

_VERSION = 1
_HEADER = struct.Struct(">BBcII")  # version, back end, kind, rows, n
_random_scalar = groups.random_scalar  # the test vectors' script replaces this


@dataclass(frozen=True, eq=False)
class PublicKey:
    """What a client encrypts under: ``points[i] = s_i g``, i = 0 .. n - 1."""

    group: Group
    points: tuple[Point, ...]

    @property
    def n(self) -> int:
        """Length of the vectors."""
        return len(self.points)

    def to_bytes(self) -> bytes:
        """Return version, back end, ``K``, 1, n, then the points."""
        return _write(self.group, b"K", [self.points], self.n)

    @classmethod
    def from_bytes(cls, group: Group, data: bytes) -> PublicKey:
        """Undo ``to_bytes``; raise ValueError for anything else."""
        (points,) = _read(group, b"K", data)
        return cls(group, points)


@dataclass(frozen=True, eq=False)
class MasterKey:
    """The authority's secret: ``scalars[i] = s_i``. Not shown by ``repr``."""

    group: Group
    scalars: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class FunctionalKey:
    """Opens <x, y> and nothing else of x. ``secret`` is sk_y, not shown by ``repr``."""

    y: tuple[int, ...]
    secret: int = field(repr=False)


@dataclass(frozen=True, eq=False)
class Ciphertext:
    """One encrypted vector: ``points`` are ct_0, ct_1 .. ct_n."""

    group: Group
    points: tuple[Point, ...]

    @property
    def n(self) -> int:
        """Length of the vector."""
        return len(self.points) - 1


def setup(group: Group, n: int) -> tuple[PublicKey, MasterKey]:
    """Draw fresh keys for vectors of length n.

    Raises
    ------
    ValueError
        n is not in 1 .. ``MAX_WIDTH``.
    """
    if not 1 <= n <= MAX_WIDTH:
        raise ArgumentValueError(f"expected vectors of length 1 to {MAX_WIDTH}, got {n}")
    scalars = tuple(_random_scalar(group) for _ in range(n))
    return PublicKey(group, tuple(multiples(group, group.generator, scalars))), MasterKey(group, scalars)


def encrypt(public: PublicKey, x: Sequence[int] | npt.NDArray[Any]) -> Ciphertext:
    """Encrypt one integer vector, shape (n,); for many, ``encrypt_rows`` is faster."""
    (ciphertext,) = encrypt_rows(public, [_integers(x, public)])
    return ciphertext


def encrypt_rows(public: PublicKey, rows: Sequence[Sequence[int]] | npt.NDArray[Any]) -> tuple[Ciphertext, ...]:
    """Encrypt every row of an integer matrix, each with its own randomness.

    Parameters
    ----------
    public : PublicKey
    rows : integers, shape (m, n)
        Of any size below half the group's order, though only small inner products can be decrypted.

    Returns
    -------
    tuple of Ciphertext, length m

    Raises
    ------
    ValueError
        Not integers, too large, or not of width n.
    """
    group = public.group
    table = [_integers(row, public) for row in rows]
    randomness = [_random_scalar(group) for _ in table]
    distinct = sorted({x for row in table for x in row})  # pixels repeat
    plain = dict(zip(distinct, multiples(group, group.generator, distinct), strict=True))
    columns = [multiples(group, group.generator, randomness)]
    for i, h in enumerate(public.points):
        masks = multiples(group, h, randomness)
        columns.append([group.add(mask, plain[row[i]]) for mask, row in zip(masks, table, strict=True)])
    return tuple(Ciphertext(group, points) for points in zip(*columns, strict=True))


def derive_key(master: MasterKey, y: Sequence[int] | npt.NDArray[Any]) -> FunctionalKey:
    """Return the key for x -> <x, y>; y are n integers below half the group's order in size, else ValueError."""
    weights = _integers(y, master)
    secret = sum(s * k for s, k in zip(master.scalars, weights, strict=True)) % master.group.order
    return FunctionalKey(weights, secret)


def decrypt(ciphertext: Ciphertext, key: FunctionalKey, bound: int) -> int:
    """Return <x, y>, see ``decrypt_rows``."""
    return int(decrypt_rows([ciphertext], [key], bound).item())


def decrypt_rows(ciphertexts: Sequence[Ciphertext], keys: Sequence[FunctionalKey], bound: int) -> npt.NDArray[np.int64]:
    """Return every key's function of every ciphertext.

    Parameters
    ----------
    ciphertexts : sequence of Ciphertext, length m
    keys : sequence of FunctionalKey, length k
        Zero coefficients cost nothing, so unit vectors are cheap.
    bound : int
        Every \\|<x, y>\\| is at most this; at most ``dlog.MAX_BOUND``.

    Returns
    -------
    ndarray of int64, shape (m, k)

    Raises
    ------
    OutOfRange
        Some value is not within the bound: a hostile ciphertext, or a wrong key.
    ValueError
        Widths or back ends do not match, or the bound cannot be served.
    """
    group = _common(ciphertexts, keys)
    supports = [[(i, k) for i, k in enumerate(key.y, start=1) if k] for key in keys]
    values: list[Point] = []
    for ct in ciphertexts:
        masks = multiples(group, ct.points[0], [-key.secret for key in keys])
        for mask, support in zip(masks, supports, strict=True):
            values.append(group.add(mask, msm(group, [ct.points[i] for i, _ in support], [k for _, k in support])))
    return solver(group).solve(values, bound).reshape(len(ciphertexts), len(keys))


@dataclass(frozen=True, eq=False)
class Claim:
    """That ``value == sum_i weights[i] <x_i, y>`` for encrypted x_i and the y of a key."""

    ciphertexts: Sequence[Ciphertext]
    weights: Sequence[int]
    key: FunctionalKey
    value: int


def claim_holds(ciphertexts: Sequence[Ciphertext], weights: Sequence[int], key: FunctionalKey, claim: int) -> bool:
    """Return whether one claim holds, see ``claims_hold``."""
    return claims_hold([Claim(ciphertexts, weights, key, claim)])


def claims_hold(claims: Sequence[Claim]) -> bool:
    """Return whether the sum of all claims holds, without a discrete logarithm, so values may be large.

    One multi-scalar multiplication over all the ciphertexts of all claims; or, where the back end has none of its own,
    one over each claim's combined ciphertext (``groups.combine``), which is cheaper then. With random weights, drawn
    after the claims on single ciphertexts are in and independently for every claim, it checks all of those at once:
    false ones pass with a probability of at most one in the number of values a weight can take.

    Raises
    ------
    ValueError
        Widths or back ends do not match, or a value is not below half the group's order (the check is modulo it).
    """
    if not claims:
        raise ArgumentValueError("expected at least one claim, got none")
    group, *others = (_common(claim.ciphertexts, [claim.key]) for claim in claims)
    if any(other is not group for other in others):
        raise ArgumentValueError("expected claims of one back end, got several")
    points: list[Point] = []
    scalars: list[int] = []
    right = group.identity
    for claim in claims:
        if len(claim.weights) != len(claim.ciphertexts):
            raise ArgumentValueError(f"expected {len(claim.ciphertexts)} weights, got {len(claim.weights)}")
        if abs(claim.value) >= group.order // 2:
            bits = claim.value.bit_length()
            raise ArgumentValueError(f"expected a claim below half the group's order, got one of {bits} bits")
        if group.multiexp:
            first = msm(group, [ct.points[0] for ct in claim.ciphertexts], claim.weights)
            points += [p for ct in claim.ciphertexts for p in ct.points[1:]]
            scalars += [w * k for w in claim.weights for k in claim.key.y]
        else:
            first, *rest = combine(group, [ct.points for ct in claim.ciphertexts], claim.weights)
            points += rest
            scalars += claim.key.y
        right = group.add(right, group.mul(first, claim.key.secret))
    (stated,) = multiples(group, group.generator, [sum(claim.value for claim in claims)])
    return bool(msm(group, points, scalars) == group.add(right, stated))


def ciphertexts_to_bytes(ciphertexts: Sequence[Ciphertext]) -> bytes:
    """Return version, back end, ``C``, m, n, then m rows of n + 1 points; all of one width, at least one."""
    group = _common(ciphertexts, [])
    return _write(group, b"C", [ct.points for ct in ciphertexts], ciphertexts[0].n)


def ciphertexts_from_bytes(group: Group, data: bytes) -> tuple[Ciphertext, ...]:
    """Undo ``ciphertexts_to_bytes``; raise ValueError for anything else."""
    return tuple(Ciphertext(group, points) for points in _read(group, b"C", data))


def _integers(x: Sequence[int] | npt.NDArray[Any], key: PublicKey | MasterKey) -> tuple[int, ...]:
    """Return a vector as Python integers, of the key's width."""
    n = key.n if isinstance(key, PublicKey) else len(key.scalars)
    values: Sequence[Any] = x.tolist() if isinstance(x, np.ndarray) else x
    if len(values) != n:
        raise ArgumentValueError(f"expected a vector of length {n}, got length {len(values)}")
    if bad := [v for v in values if type(v) is not int and not isinstance(v, np.integer)]:
        raise ArgumentValueError(f"expected integers, got {bad[0]!r}")
    whole = tuple(map(int, values))
    if max(map(abs, whole)) >= key.group.order // 2:
        raise ArgumentValueError("expected integers below half the group's order, got a larger one")
    return whole


def _common(ciphertexts: Sequence[Ciphertext], keys: Sequence[FunctionalKey]) -> Group:
    """Return the one group of all ciphertexts, after checking that everything fits together."""
    if not ciphertexts:
        raise ArgumentValueError("expected at least one ciphertext, got none")
    first, *others = ciphertexts
    group, n = first.group, first.n
    if any(ct.group is not group for ct in others):
        raise ArgumentValueError(f"expected ciphertexts of one back end ({group.name}), got another too")
    widths = {ct.n for ct in ciphertexts} | {len(key.y) for key in keys}
    if widths != {n}:
        raise ArgumentValueError(f"expected one width of ciphertexts and keys, got {sorted(widths)}")
    return group


def _write(group: Group, kind: bytes, rows: Sequence[Sequence[Point]], n: int) -> bytes:
    header = _HEADER.pack(_VERSION, group.code, kind, len(rows), n)
    return header + groups.encode(group, [p for row in rows for p in row])


def _read(group: Group, kind: bytes, data: bytes) -> list[tuple[Point, ...]]:
    """Read rows of points; nothing is allocated before the length is right."""
    if len(data) < _HEADER.size:
        raise ArgumentValueError(f"expected at least {_HEADER.size} bytes, got {len(data)}")
    version, code, found, m, n = _HEADER.unpack_from(data)
    if (version, code, found) != (_VERSION, group.code, kind):
        expected = (_VERSION, group.code, kind)
        raise ArgumentValueError(f"expected version, back end and kind {expected}, got {(version, code, found)}")
    width = n + (kind == b"C")
    if not (1 <= n <= MAX_WIDTH and (m == 1 if kind == b"K" else m >= 1)):
        raise ArgumentValueError(f"expected at least one row of 1 to {MAX_WIDTH} values, got {m} of {n}")
    if len(data) != (size := _HEADER.size + m * width * group.point_size):
        raise ArgumentValueError(f"expected {size} bytes, got {len(data)}")
    points = groups.decode(group, data[_HEADER.size :])
    return [tuple(points[i * width : (i + 1) * width]) for i in range(m)]
