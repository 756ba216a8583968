"""Clients that lie to a spot check with commitments: in the proofs of their claims, and in what they commit to.

See ``spotcheck_lies.py``. What encryption and commitments are both open to is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients.spotcheck_lies import Liar, changed, key_of, rewrite
from flwr_faa.crypto import groups, linear
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Enrol

Bytes = npt.NDArray[np.uint8]


@dataclass
class LiesInProofs(Liar):
    """Answers honestly, but for the proofs.

    Parameters
    ----------
    how : str
        One of ``WAYS``, or ``earlier``: those of its first answer, to another challenge.
    """

    how: str = "earlier"

    def answer(self, challenge: bytes) -> bytes:
        honest, asked = Answer.from_bytes(super().answer(challenge)), Challenge.from_bytes(challenge)
        if self.how != "earlier":
            found = enrolment.find(self.device, self.data, asked.key)
            assert found is not None
            group = open_group(found.group)
            return changed(proofs=lambda proofs: WAYS[self.how](group, proofs))(honest).to_bytes()
        kept = self.device.folder / "first.proofs"
        if not kept.exists():
            np.save(kept.open("wb"), honest.proofs)
            return honest.to_bytes()
        first = np.load(kept)
        rows = np.resize(np.arange(len(first)), len(honest.proofs))
        return changed(proofs=lambda _: first[rows])(honest).to_bytes()


def _scalar(group: Group, proofs: Bytes, step: int, number: int, change: Callable[[int], int]) -> None:
    """Change one scalar of a proof: b, zeta, then z_1 ..."""
    at = group.point_size + 32 * number
    value = change(int.from_bytes(proofs[step, at : at + 32].tobytes(), "big"))
    proofs[step, at : at + 32] = np.frombuffer(value.to_bytes(32, "big"), np.uint8)


def _malleated(group: Group, proofs: Bytes) -> None:
    """The same scalar, encoded as z + q, wherever that fits into its bytes; zeta + q in any case, cut off."""
    fits = [
        (i, j)
        for i in range(len(proofs))
        for j in range((proofs.shape[1] - group.point_size) // 32)
        if int.from_bytes(proofs[i, group.point_size + 32 * j :][:32].tobytes(), "big") + group.order < 2**256
    ]
    step, number = fits[0] if fits else (0, 1)
    _scalar(group, proofs, step, number, lambda z: (z + group.order) % 2**256)


def _cancelling(group: Group, proofs: Bytes) -> None:
    """Two false proofs, off by G_0 and by -G_0, whose plain sum would hold."""
    _scalar(group, proofs, 0, 1, lambda z: (z + 1) % group.order)
    _scalar(group, proofs, 1, 1, lambda z: (z - 1) % group.order)


def _point(raw: Callable[[Group, bytes], bytes]) -> Callable[[Group, Bytes], None]:
    def change(group: Group, proofs: Bytes) -> None:
        size = group.point_size
        proofs[0, :size] = np.frombuffer(raw(group, proofs[0, :size].tobytes()), np.uint8)

    return change


def _outside(group: Group, honest: bytes) -> bytes:
    """A point of the curve that is not in the subgroup; where there is none (P-256), another point of the group."""
    p, half, x = group.prime, group.point_size // 2, 5
    while pow(square := (x**3 + group.a * x + group.b) % p, (p - 1) // 2, p) != 1:
        x += 1
    return x.to_bytes(half, "big") + pow(square, (p + 1) // 4, p).to_bytes(half, "big")


WAYS: dict[str, Callable[[Group, Bytes], Any]] = {
    "another_step": lambda group, proofs: np.roll(proofs, 1, 0),
    "malleated": _malleated,
    "cancelling": _cancelling,
    "identity": _point(lambda group, honest: bytes(len(honest))),
    "off_curve": _point(lambda group, honest: honest[:-1] + bytes([honest[-1] ^ 1])),
    "outside": _point(_outside),
    "a_bit": lambda group, proofs: proofs.__setitem__((0, -1), proofs[0, -1] ^ 1),
}


@dataclass
class ChoosesWeights(Liar):
    """Claims a step's Z1 falsely in two entries, and proves what holds for equal weights of all samples."""

    def answer(self, challenge: bytes) -> bytes:
        honest, asked = Answer.from_bytes(super().answer(challenge)), Challenge.from_bytes(challenge)

        def lie(claims: npt.NDArray[np.int64]) -> None:
            claims[0, 0] += 1
            claims[1, 0] -= 1

        false = changed(claims=lie)(honest)
        found = enrolment.find(self.device, self.data, asked.key)
        assert found is not None
        group, secret = open_group(found.group), self.device.secret(b"faa/blindings")
        flat = self.data[0].reshape(len(self.data[1]), -1)
        rows = list(range(min(5, len(flat))))
        points = groups.decode(group, found.bound(rows).tobytes())
        ones, function = [1] * len(rows), [1] * flat.shape[1]
        value = int(flat[rows].astype(np.int64).sum())
        statement = linear.Statement(group, points, ones, function, value, b"")
        blindings = claim_proofs.blindings(group, secret, asked.key, rows, flat[rows])
        proof = linear.prove(statement, flat[rows].tolist(), blindings).to_bytes(group)
        return changed(proofs=lambda proofs: np.concatenate([np.frombuffer(proof, np.uint8)[None], proofs[1:]]))(
            false
        ).to_bytes()


@dataclass
class CommitsOtherwise(Liar):
    """Commits to something else than its samples, and answers about these as if it had not.

    Parameters
    ----------
    to : {"half", "negative", "swapped"}
        Half of the first sample's first value that is odd; the order less each value, which is its negative; or
        commitments over bases in another order.
    """

    to: str = "half"

    def enrol(self, request: bytes) -> bytes:
        enrolment.enrol(self.device, self.data, request)
        key = key_of(self.device, self.data, Enrol.from_bytes(request))
        found = enrolment.find(self.device, self.data, key)
        assert found is not None
        group, secret = open_group(found.group), self.device.secret(b"faa/blindings")
        flat = self.data[0].reshape(len(self.data[1]), -1)
        bases = list(generators(group, flat.shape[1]))
        if self.to == "swapped":
            bases[1:] = bases[:0:-1]
        r = claim_proofs.blindings(group, secret, key, range(len(flat)), flat)
        points = [
            groups.msm(group, bases, [b, *map(self._value(group), x)]) for b, x in zip(r, flat.tolist(), strict=True)
        ]
        rewrite(found, np.frombuffer(groups.encode(group, points), np.uint8).reshape(len(flat), -1), self.data[1])
        return enrolment.enrol(self.device, self.data, request)

    def _value(self, group: Group) -> Callable[[int], int]:
        if self.to == "half":
            return lambda x: x * pow(2, -1, group.order)
        return (lambda x: -x) if self.to == "negative" else (lambda x: x)
