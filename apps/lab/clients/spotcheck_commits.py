"""Clients that lie to a spot check with commitments, in what they commit to.

See ``spotcheck_lies.py``; those that lie in the proofs are in ``spotcheck_proofs.py``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.lab.clients.spotcheck_lies import Bytes, EncryptsOutOfRange, Liar, OffTheCurve, key_of, rewrite
from apps.lab.clients.spotcheck_proofs import outside
from flwr_faa.client import COMMITMENT, NONCE
from flwr_faa.crypto import groups
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group, Point
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.spotcheck import commitments, enrolment
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.enrolment import Enrolment
from flwr_faa.verification.spotcheck.messages import Enrol
from flwr_faa.verification.training import Data

if TYPE_CHECKING:
    from apps.lab.clients.roles import Fit


@dataclass
class CommitsOtherwise(Liar):
    """Commits to something else than its samples, and answers about these as if it had not.

    Parameters
    ----------
    to : {"half", "negative", "wrapped", "swapped", "known"}
        Half of each value; the order less each value, which is its negative; each value and 2^64, of which sums of
        64 bits show nothing; or its samples, over bases in another order, or over multiples of the generator that it
        knows.
    """

    to: str = "half"

    def enrol(self, request: bytes) -> bytes:
        enrolment.enrol(self.device, self.data, request)
        found = enrolled(self, request)
        group, (samples, labels) = open_group(found.group), self.data
        bases = list(generators(group, found.width))
        if self.to == "swapped":
            bases[1:] = bases[:0:-1]
        if self.to == "known":
            bases = groups.multiples(group, group.generator, range(3, 3 + len(bases)))
        values = [list(map(self._value(group), x)) for x in samples.reshape(len(labels), -1).tolist()]
        rewrite(found, committed(self, request, group, bases, values), labels)
        return enrolment.enrol(self.device, self.data, request)

    def _value(self, group: Group) -> Callable[[int], int]:
        others: dict[str, Callable[[int], int]] = {
            "half": lambda x: x * pow(2, -1, group.order),
            "negative": lambda x: -x,
            "wrapped": lambda x: x + 2**64,
        }
        return others.get(self.to, lambda x: x)


def enrolled(liar: Liar, request: bytes) -> Enrolment:
    """Return the enrolment that it made by a request."""
    found = enrolment.find(liar.device, liar.data, key_of(liar.device, liar.data, Enrol.from_bytes(request)))
    assert found is not None
    return found


def committed(
    liar: Liar, request: bytes, group: Group, bases: Sequence[Point], values: Sequence[Sequence[int]]
) -> Bytes:
    """Return commitments to any integers by any bases, blinded as its samples are."""
    key, flat = key_of(liar.device, liar.data, Enrol.from_bytes(request)), liar.data[0].reshape(len(values), -1)
    secret = liar.device.secret(b"faa/blindings")
    r = claim_proofs.blindings(group, secret, key, range(len(flat)), flat)
    points = [groups.msm(group, bases, [b, *x]) for b, x in zip(r, values, strict=True)]
    return np.frombuffer(groups.encode(group, points), np.uint8).reshape(len(flat), -1)


@dataclass
class CommitsBelowZero(EncryptsOutOfRange):
    """Trains on samples in which one pixel is negative, commits to them modulo the order, and proves what is true.

    ``commit_rows`` refuses such samples. So it has their sizes bound, and puts its own commitments in their place.
    """

    value: int = -1

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        """Train on its samples, which a ``VerifiableClient`` would refuse."""
        folder, nonce = self.device.checkpoints, int(config[NONCE])
        arrays, commitment = commitments.train(self.plan, parameters, self.data, nonce, folder)
        metrics = {COMMITMENT: commitment.to_bytes(), "partition": self.honest.partition}
        return arrays, len(self.data[1]), metrics

    def enrol(self, request: bytes) -> bytes:
        samples, labels = self.data
        sizes: Data = np.abs(samples), labels
        enrolment.enrol(self.device, sizes, request)
        key = key_of(self.device, sizes, Enrol.from_bytes(request))
        found = enrolment.find(self.device, sizes, key)
        assert found is not None
        own = replace(found, path=enrolment._place(self.device, self.data, key))
        if not own.path.exists():
            shutil.copytree(found.path, own.path)
        group = open_group(own.group)
        values: Any = samples.reshape(len(labels), -1).tolist()
        rewrite(own, committed(self, request, group, generators(group, own.width), values), labels)
        return super().enrol(request)


@dataclass
class CommitsToNoPoint(OffTheCurve):
    """Enrols samples whose commitment is none: the identity, or a point outside the subgroup.

    Parameters
    ----------
    how : {"identity", "outside"}
    """

    how: str = "identity"

    def spoil(self, bound: Bytes) -> None:
        group, honest = open_group(self.request.group), bound[0].tobytes()
        bound[:] = np.frombuffer(outside(group, honest) if self.how == "outside" else bytes(len(honest)), np.uint8)
