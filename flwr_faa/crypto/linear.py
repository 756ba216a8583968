r"""Proofs that a linear function of committed vectors has a stated value, many verified at once.

Statement. Public are commitments ``C_1 .. C_m`` (``pedersen.py``), weights sigma_i, a vector v and a value c, all
modulo the order q. The prover knows openings (x_i, r_i), and ``<sum_i sigma_i x_i, v> = c``.

Protocol (Schnorr's for a linear form, made non-interactive by Fiat and Shamir), with ``y = sum_i sigma_i x_i``,
``r = sum_i sigma_i r_i`` and ``C* = sum_i sigma_i C_i``::

    prover    a uniform in Z_q^n, alpha uniform in Z_q
              A = alpha G_0 + <a, G>,  b = <a, v>,  e = H(statement, A, b)
              z = a + e y,  zeta = alpha + e r
    verifier  <z, v> = b + e c             (1)
              zeta G_0 + <z, G> = A + e C* (2)

**Sound** in the random oracle model, if discrete logarithms between the bases are hard: who answers two values of e for
one (A, b) can open C* to a y with ``<y, v> = c``. A prover that can not succeeds with probability 1/q for every try of
the hash. That says something of the single x_i only if sigma was drawn after the C_i and all claims were fixed, from a
range so large that trying again offline does not pay: 128 bits, as ``challenge_weights`` gives. Then T tries prove a
false claim with probability of at most T d 2^-128, if claims are folded by a polynomial of degree d in the weights.

**Zero knowledge**: z and zeta are uniform whatever the x_i. Nothing but the statement is told.

**Opening** (:func:`opening`). Where a verifier may know the x_i, r itself proves them: ``r G_0 + <y, G> = C*``. It is
sound for every x_i by the same weights sigma, and hides nothing.

**The transcript** binds everything of the statement: the group, n, every C_i, sigma, v and c, and the caller's own
``context``, which has to name whoever proves, to whom and when, or a proof could be used again.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto import groups
from flwr_faa.crypto.exact import exact_product
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group, Point
from flwr_faa.crypto.groups import msm
from flwr_faa.errors import ArgumentValueError

_DOMAIN = b"flwr-anomaly/linear/1\n"
#: Bits of the weights sigma and rho that fold claims into one, and of the verifier's own.
WEIGHT_BITS = 128
_random_scalar = groups.random_scalar  # the test vectors' script replaces this


@dataclass(frozen=True, eq=False)
class Statement:
    """That ``<sum_i weights[i] x_i, function> = value`` modulo the order, for the x_i in these commitments.

    Attributes
    ----------
    group : Group
    commitments : sequence of Point, length m
    weights : sequence of int, length m
    function : sequence of int, length n
    value : int
    context : bytes
        What else the proof is bound to.
    """

    group: Group
    commitments: Sequence[Point]
    weights: Sequence[int]
    function: Sequence[int]
    value: int
    context: bytes

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-512 of all of it, every part with its length."""
        q = self.group.order
        parts = (
            self.context,
            self.group.curve.encode(),
            groups.encode(self.group, self.commitments),
            _scalars(self.weights, q),
            _scalars(self.function, q),
            _scalars([self.value], q),
        )
        return hashlib.sha512(_DOMAIN + b"".join(struct.pack(">Q", len(p)) + p for p in parts)).digest()


@dataclass(frozen=True, eq=False)
class Proof:
    """A, b, z and zeta of the protocol; scalars in [0, order)."""

    mask: Point
    masked_value: int
    response: tuple[int, ...]
    blinding: int

    def to_bytes(self, group: Group) -> bytes:
        """A, then b, zeta and z_1 .. z_n with 32 bytes each, big-endian."""
        return groups.encode(group, [self.mask]) + _scalars(
            [self.masked_value, self.blinding, *self.response], group.order
        )

    @classmethod
    def from_bytes(cls, group: Group, data: bytes, width: int) -> Proof:
        """The inverse of ``to_bytes``.

        Raises
        ------
        ValueError
            For anything that ``to_bytes`` cannot give: another length, a point that is not in the group or is its
            identity, a scalar that is not below the order.
        """
        size = group.point_size + 32 * (width + 2)
        if len(data) != size:
            raise ArgumentValueError(f"expected a proof of {size} bytes, got {len(data)}")
        (mask,) = groups.decode(group, data[: group.point_size])
        scalars = [int.from_bytes(data[at : at + 32], "big") for at in range(group.point_size, size, 32)]
        if max(scalars) >= group.order:
            raise ArgumentValueError("expected scalars below the group's order, got a larger one")
        return cls(mask, scalars[0], tuple(scalars[2:]), scalars[1])


def challenge_weights(seed: bytes, purpose: bytes, count: int) -> list[int]:
    """Return weights in [1, 2^128] that are a hash of everything said so far (SHAKE-256).

    Parameters
    ----------
    seed : bytes
        A digest of the commitments and of every claim.
    purpose : bytes
        Keeps the draws of one seed apart, e.g. ``b"sigma"``.
    count : int
    """
    size = WEIGHT_BITS // 8
    stream = hashlib.shake_256(_DOMAIN + struct.pack(">Q", len(purpose)) + purpose + seed).digest(size * count)
    return [int.from_bytes(stream[i : i + size], "big") + 1 for i in range(0, len(stream), size)]


def prove(
    statement: Statement, vectors: npt.NDArray[np.integer] | Sequence[Sequence[int]], blindings: Sequence[int]
) -> Proof:
    """Prove a statement from the openings of its commitments.

    Parameters
    ----------
    statement : Statement
    vectors : sequence of integer vectors, shape (m, n)
        The x_i.
    blindings : sequence of int, length m
        The r_i.

    Raises
    ------
    ValueError
        If the statement is not true of these vectors: its proof would be refused.
    """
    group, v, q = statement.group, statement.function, statement.group.order
    # Fold the openings as the commitments are folded.
    y = fold(group, statement.weights, vectors)
    r = _inner(statement.weights, blindings) % q
    if (_inner(y, v) - statement.value) % q:
        raise ArgumentValueError("expected a statement that is true of the vectors, got another value")
    # Mask, hash, answer.
    a = [_random_scalar(group) for _ in v]
    alpha = _random_scalar(group)
    mask, masked = _multiply(group, [alpha, *a]), _inner(a, v) % q
    e = _challenge(statement, mask, masked)
    return Proof(mask, masked, tuple((ai + e * yi) % q for ai, yi in zip(a, y, strict=True)), (alpha + e * r) % q)


def fold(group: Group, weights: Sequence[int], vectors: npt.NDArray[np.integer] | Sequence[Sequence[int]]) -> list[int]:
    """Return ``sum_i weights[i] vectors[i]`` modulo the order."""
    try:
        matrix = np.asarray(vectors, np.int64)
    except OverflowError:  # no samples, but integers modulo the order
        return [_inner(weights, column) % group.order for column in zip(*vectors, strict=True)]
    return [y % group.order for y in exact_product(matrix.T, weights)]


@dataclass(frozen=True, eq=False)
class Equation:
    """That ``sum_j fixed[j] G_j + sum_i scalars[i] points[i] = 0``: what is left to test of a proof.

    Attributes
    ----------
    group : Group
    fixed : sequence of int, length n + 1
    points, scalars : sequences of one length
    """

    group: Group
    fixed: Sequence[int]
    points: Sequence[Point]
    scalars: Sequence[int]


def equation(statement: Statement, proof: Proof) -> Equation | None:
    """Test equation (1) of a proof, and return (2): ``zeta G_0 + <z, G> - A - e C* = 0``; None if (1) does not hold."""
    q = statement.group.order
    if len(proof.response) != len(statement.function) or len(statement.weights) != len(statement.commitments):
        return None
    e = _challenge(statement, proof.mask, proof.masked_value)
    if (_inner(proof.response, statement.function) - proof.masked_value - e * statement.value) % q:
        return None
    points, scalars = [proof.mask, *statement.commitments], [-1, *(-e * s % q for s in statement.weights)]
    return Equation(statement.group, (proof.blinding, *proof.response), points, scalars)


def opening(
    group: Group,
    commitments: Sequence[Point],
    weights: Sequence[int],
    vectors: npt.NDArray[np.integer],
    blinding: int,
) -> Equation:
    """Return ``r G_0 + <y, G> - C* = 0``, which shows what is in the commitments, all of them at once.

    Parameters
    ----------
    group, commitments
    weights : sequence of int, length m
        Drawn after commitments and vectors were fixed.
    vectors : integers, shape (m, n)
        The x_i, as claimed.
    blinding : int
        ``r = sum_i weights[i] r_i``, modulo the order.
    """
    return Equation(group, (blinding, *fold(group, weights, vectors)), commitments, [-w for w in weights])


def verify(statements: Sequence[Statement], proofs: Sequence[Proof]) -> list[bool]:
    """Return which proofs hold, from one multi-scalar product if all of them do, see :func:`hold`.

    Raises
    ------
    ValueError
        If there is not one proof for each statement, or they are not all of one group and width.
    """
    if len(statements) != len(proofs):
        raise ArgumentValueError(f"expected {len(statements)} proofs, got {len(proofs)}")
    return hold([equation(statement, proof) for statement, proof in zip(statements, proofs, strict=True)])


def hold(equations: Sequence[Equation | None]) -> list[bool]:
    """Return which equations hold, from one multi-scalar product if all of them do; None never holds.

    They are added up with random weights of 128 bits, drawn here after all the proofs are in: sums over the n + 1
    bases are shared by all. A false one passes with probability 2^-128. Only where the sum fails are halves tested,
    down to the guilty ones.

    Raises
    ------
    ValueError
        If they are not all of one group and width.
    """
    cases = [(i, e) for i, e in enumerate(equations) if e is not None]
    if len({(e.group.name, len(e.fixed)) for _, e in cases}) > 1:
        raise ArgumentValueError("expected statements of one group and one width, got several")
    found = [False] * len(equations)
    pending = [cases] if cases else []
    while pending:
        part = pending.pop()
        if _together([e for _, e in part]):
            for i, _ in part:
                found[i] = True
        elif len(part) > 1:
            pending += [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


def _together(cases: Sequence[Equation]) -> bool:
    """Whether the sum of equations, each times a random number, is zero."""
    first, *_ = cases
    group, width = first.group, len(first.fixed)
    fixed = [0] * width
    points: list[Point] = []
    scalars: list[int] = []
    for case in cases:
        weight = 1 + secrets.randbits(WEIGHT_BITS)
        # The bases: one scalar each for all cases. Then the points of this case alone.
        fixed = [f + weight * k for f, k in zip(fixed, case.fixed, strict=True)]
        points += case.points
        scalars += [weight * k % group.order for k in case.scalars]
    points += generators(group, width - 1)
    scalars += [f % group.order for f in fixed]
    return bool(msm(group, points, scalars) == group.identity)


def _multiply(group: Group, scalars: Sequence[int]) -> Point:
    """``sum scalars[i] * G_i``."""
    return msm(group, generators(group, len(scalars) - 1), scalars)


def _challenge(statement: Statement, mask: Point, masked: int) -> int:
    """The e of the protocol: a hash, taken modulo the order from 512 bits."""
    q = statement.group.order
    said = statement.digest + groups.encode(statement.group, [mask]) + _scalars([masked], q)
    return int.from_bytes(hashlib.sha512(_DOMAIN + b"challenge\n" + said).digest(), "big") % q


def _inner(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _scalars(values: Sequence[int], order: int) -> bytes:
    return b"".join([(v % order).to_bytes(32, "big") for v in values])
