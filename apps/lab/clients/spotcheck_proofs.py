"""Clients that lie to a spot check with commitments, in the proofs of their claims.

See ``spotcheck_lies.py``. What encryption and commitments are both open to is there; those that lie in what they commit
to are in ``spotcheck_commits.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients.spotcheck_lies import Bytes, Liar, changed
from flwr_faa.crypto import groups, linear
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Answer, Challenge


@dataclass
class LiesInProofs(Liar):
    """Answers honestly, but for the proofs.

    Parameters
    ----------
    how : str
        One of ``WAYS``; or ``earlier``: those of its first answer, to another round's challenge; ``seed``: those for
        another challenge to the same run and steps; ``across``: two nodes' proofs are off by G_0 and by -G_0.
    """

    how: str = "earlier"

    def answer(self, challenge: bytes) -> bytes:
        honest, asked = Answer.from_bytes(super().answer(challenge)), Challenge.from_bytes(challenge)
        group = group_of(self, asked)
        if self.how == "earlier":
            kept = self.device.folder / "first.proofs"
            if not kept.exists():
                np.save(kept.open("wb"), honest.proofs)
                return honest.to_bytes()
            first = np.load(kept)
            return with_proofs(honest, first[np.resize(np.arange(len(first)), len(honest.proofs))])
        if self.how == "seed":
            other = replace(asked, seed=bytes(len(asked.seed)))
            return with_proofs(honest, Answer.from_bytes(super().answer(other.to_bytes())).proofs)
        if self.how == "across":
            by = 1 if self.honest.partition == min(self.scenario.malicious) else -1
            return changed(proofs=lambda proofs: _off(group, proofs, 0, by))(honest).to_bytes()
        return changed(proofs=lambda proofs: WAYS[self.how](group, proofs))(honest).to_bytes()


def group_of(liar: Liar, asked: Challenge) -> Group:
    """Return the group that its data are committed in."""
    found = enrolment.find(liar.device, liar.data, asked.key)
    assert found is not None
    return open_group(found.group)


def with_proofs(answer: Answer, proofs: Bytes) -> bytes:
    """Return the same answer with other proofs."""
    return replace(answer, proofs=proofs).to_bytes()


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
    _off(group, proofs, 0, 1)
    _off(group, proofs, 1, -1)


def _off(group: Group, proofs: Bytes, step: int, by: int) -> None:
    """Make one proof's equation (2) wrong by so many times G_0."""
    _scalar(group, proofs, step, 1, lambda zeta: (zeta + by) % group.order)


def _point(raw: Callable[[Group, bytes], bytes]) -> Callable[[Group, Bytes], None]:
    def change(group: Group, proofs: Bytes) -> None:
        size = group.point_size
        proofs[0, :size] = np.frombuffer(raw(group, proofs[0, :size].tobytes()), np.uint8)

    return change


def outside(group: Group, honest: bytes) -> bytes:
    """Return a point of the curve outside the subgroup; where there is none (P-256), another point of the group."""
    p, half, x = group.prime, group.point_size // 2, 5
    while pow(square := (x**3 + group.a * x + group.b) % p, (p - 1) // 2, p) != 1:
        x += 1
    y: int = pow(square, (p + 1) // 4, p)
    return x.to_bytes(half, "big") + y.to_bytes(half, "big")


def _shifted(group: Group, honest: bytes) -> bytes:
    """Return the same point with x + p for x; p leaves no room for that in P-256's 32 bytes, where it is cut off."""
    half = group.point_size // 2
    x = (int.from_bytes(honest[:half], "big") + group.prime) % (1 << 8 * half)
    return x.to_bytes(half, "big") + honest[half:]


WAYS: dict[str, Callable[[Group, Bytes], Any]] = {
    "another_step": lambda group, proofs: np.roll(proofs, 1, 0),
    "malleated": _malleated,
    "cancelling": _cancelling,
    "identity": _point(lambda group, honest: bytes(len(honest))),
    "off_curve": _point(lambda group, honest: honest[:-1] + bytes([honest[-1] ^ 1])),
    "outside": _point(outside),
    "shifted": _point(_shifted),
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
        return with_proofs(false, np.concatenate([np.frombuffer(proof, np.uint8)[None], false.proofs[1:]]))


@dataclass
class Grinds(Liar):
    """Claims the first opened step falsely, and tries transcripts offline until a proof holds; sends the last if none.

    Each try has other false outputs, so other weights sigma and rho, which might fold them to what is true; and a proof
    for a guess of e, which is good if the hash gives that e.

    Parameters
    ----------
    tries : int
    """

    tries: int = 8

    def answer(self, challenge: bytes) -> bytes:
        honest, asked = Answer.from_bytes(super().answer(challenge)), Challenge.from_bytes(challenge)
        group, rng, step = group_of(self, asked), self.rng(challenge), self.first_step(asked, honest)
        key, samples = self.device.identity().public_key().public_bytes_raw(), self.data[0]
        found = enrolment.find(self.device, self.data, asked.key)
        assert found is not None
        bound = {row: found.bound([row]).tobytes() for row in step.rows}
        points = dict(zip(step.rows, groups.decode(group, b"".join(bound.values())), strict=True))
        for _ in range(self.tries):
            false = replace(step, claimed=step.claimed + rng.integers(-99, 100, step.claimed.shape))
            statement = claim_proofs._statement(group, asked.context(key, len(samples)), false, points, bound)
            proof = guessed(statement)
            if linear.verify([statement], [proof]) == [True]:
                break
        raw = np.frombuffer(proof.to_bytes(group), np.uint8)[None]
        claims = np.concatenate([false.claimed, honest.claims[len(step.rows) :]])
        return with_proofs(replace(honest, claims=claims), np.concatenate([raw, honest.proofs[1:]]))

    def first_step(self, asked: Challenge, honest: Answer) -> StepClaims:
        """Return what it claims honestly of the first opened step."""
        layer = IntegerLayer.of(self.plan, self.data[0].shape[1:])
        run, step = Run.find(self.plan, self.device.checkpoints, asked.run), asked.steps[0]
        batch = list(self.plan.batches(len(self.data[1]), run.nonce))[step].tolist()
        weight = run.layout.decode(run.read([step])[0]).arrays[layer.weight]
        kernels = np.concatenate([layer.quantise(weight), asked.vectors(layer.kernel)])
        return StepClaims(layer, step, batch, kernels, honest.claims[: len(batch)])


def guessed(statement: linear.Statement) -> linear.Proof:
    """Make a proof backwards from (1) and (2); it holds if the hash gives the e that was guessed."""
    group, n = statement.group, len(statement.function)
    e, zeta, *z = (groups.random_scalar(group) for _ in range(n + 2))
    masked = (sum(a * b for a, b in zip(z, statement.function, strict=True)) - e * statement.value) % group.order
    points = [*generators(group, n), *statement.commitments]
    mask = groups.msm(group, points, [zeta, *z, *(-e * s for s in statement.weights)])
    return linear.Proof(mask, masked, tuple(z), zeta)
