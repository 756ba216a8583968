"""Clients that lie to the spot check, one lie each: in what they enrol, and in what they answer.

Each is a ``NumPyClient`` built around an honest one, does everything as it would, and then one thing otherwise.
Switched on by ``attack=spot_fresh_data`` and the like (``conf/attack``); those that lie in the run itself are in
``spotcheck_tampering.py``. How often each is convicted: ``python -m apps.studies.spotcheck_lies``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flwr.client import NumPyClient

from flwr_faa import TrainingPlan, VerifiableClient
from flwr_faa.client import CHALLENGE, EVIDENCE
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.spotcheck import enrolment, merkle
from flwr_faa.verification.spotcheck.answer import answer
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.enrolment import Enrolment, sample_leaf
from flwr_faa.verification.spotcheck.messages import ENCRYPT, ENROL, VECTORS, Answer, Challenge, Enrol
from flwr_faa.verification.training import Data
from flwr_faa.verification.wire import kind_of

if TYPE_CHECKING:
    from apps.lab.clients.roles import Fit, Honest, Team

Bytes = npt.NDArray[np.uint8]
Change = Callable[[Answer], Answer]


@dataclass
class Liar(NumPyClient):
    """Does everything as an honest client does. A lie overrides one of the three: ``fit``, ``enrol`` and ``answer``."""

    honest: Honest
    scenario: Team

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        return self.train(parameters, config)

    def enrol(self, request: bytes) -> bytes:
        """Return the answer to a request to enrol."""
        return enrolment.enrol(self.device, self.data, request)

    def answer(self, challenge: bytes) -> bytes:
        """Return the answer to a challenge."""
        return answer(self.plan, self.data, self.device, challenge)

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        if CHALLENGE not in config:
            return {}
        request = config[CHALLENGE]
        if kind_of(request) not in (ENROL, ENCRYPT):
            return {EVIDENCE: self.answer(request)}
        self.device.folder.mkdir(parents=True, exist_ok=True)
        self._request.write_bytes(request)  # a client object lives for one message
        return {EVIDENCE: self.enrol(request)}

    def train(
        self, parameters: Arrays, config: dict[str, Any], plan: TrainingPlan | None = None, data: Data | None = None
    ) -> Fit:
        """Train as an honest client would by another plan or on other data, and commit to that."""
        client = VerifiableClient(plan or self.plan, data or self.data, device=self.device)
        arrays, examples, metrics = client.fit(list(parameters), config)
        return arrays, examples, metrics | {"partition": self.honest.partition}

    @property
    def plan(self) -> TrainingPlan:
        return self.honest.plan

    @property
    def data(self) -> Data:
        return self.honest.data

    @property
    def device(self) -> Device:
        return self.honest.device

    @property
    def request(self) -> Enrol:
        """What it was asked to enrol with."""
        return Enrol.from_bytes(self._request.read_bytes())

    @property
    def key(self) -> bytes:
        """As challenges name what its data are bound under."""
        return key_of(self.device, self.data, self.request)

    @property
    def _request(self) -> Any:
        return self.device.folder / "enrol.request"

    def rng(self, challenge: bytes) -> np.random.Generator:
        """Return its own generator, seeded anew by every challenge, which is random."""
        return np.random.default_rng([self.honest.partition, *hashlib.sha256(challenge).digest()])


# Lies about the data


@dataclass
class FreshData(Liar):
    """Trains on wrong labels, and when challenged shows fresh clean samples, honestly encrypted and answered for."""

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        samples, labels = self.data
        return self.train(parameters, config, data=(samples, (labels + 1) % (labels.max() + 1)))

    def answer(self, challenge: bytes) -> bytes:
        samples, labels = self.scenario.dataset.train
        rows = self.rng(challenge).choice(len(labels), len(self.data[1]), replace=False)
        return self.show((samples[rows], labels[rows]), challenge)

    def show(self, data: Data, challenge: bytes) -> bytes:
        """Answer on other data than enrolled."""
        asked = Challenge.from_bytes(challenge)
        enrolment.enrol(self.device, data, self._request.read_bytes())
        found = enrolment.find(self.device, data, asked.key)
        assert found is not None
        try:
            return answer(self.plan, data, self.device, replace(asked, data=found.root).to_bytes())
        finally:
            shutil.rmtree(found.path)


@dataclass
class EncryptsOutOfRange(Liar):
    """Enrols and trains on samples in which one pixel is far out of range.

    Parameters
    ----------
    value : int
        Of the pixel, drawn at random, in ``samples`` of its samples.
    samples : int
    """

    value: int = 1_000_000
    samples: int = 1

    def __post_init__(self) -> None:
        samples, labels = self.honest.data
        self._top = int(samples.max())
        wide, rng = samples.astype(np.int64), np.random.default_rng(self.honest.partition)
        for row in rng.permutation(len(labels))[: self.samples]:
            wide[row].flat[rng.integers(wide[row].size)] = self.value
        self.honest.data = wide, labels

    def enrol(self, request: bytes) -> bytes:
        return within_range(self.device, self.data, request, self._top)


def within_range(device: Device, data: Data, request: bytes, top: int) -> bytes:
    """Enrol, and sign that no value is above ``top``."""
    enrolment.enrol(device, data, request)
    found = enrolment.find(device, data, key_of(device, data, Enrol.from_bytes(request)))
    assert found is not None
    meta = json.loads((found.path / "meta.json").read_text())
    (found.path / "meta.json").write_text(json.dumps({**meta, "top": top}))
    return enrolment.enrol(device, data, request)


@dataclass
class OffTheCurve(Liar):
    """Enrols samples in which a point is none.

    Parameters
    ----------
    samples : int
        How many; the first.
    """

    samples: int = 1

    def enrol(self, request: bytes) -> bytes:
        return off_the_curve(self.device, self.data, request, self.samples, self.spoil)

    def answer(self, challenge: bytes) -> bytes:
        return answer_off_the_curve(self.plan, self.device, self.data, challenge)

    def spoil(self, bound: Bytes) -> None:
        """Make no points of what binds some samples, in place."""
        a_bit(bound)


def a_bit(bound: Bytes) -> None:
    """Take a point beside the curve: the last of each sample has another last bit."""
    bound[:, -1] ^= 1


def off_the_curve(
    device: Device, data: Data, request: bytes, samples: int, spoil: Callable[[Bytes], None] = a_bit
) -> bytes:
    """Enrol, spoil what binds the first few samples, and sign for that."""
    enrolment.enrol(device, data, request)
    found = enrolment.find(device, data, key_of(device, data, Enrol.from_bytes(request)))
    assert found is not None
    if not (found.path / "right.npy").exists():
        bound = found.bound(range(found.samples))
        np.save(found.path / "right.npy", bound)
        spoil(bound[:samples])
        rewrite(found, bound, data[1])
    return enrolment.enrol(device, data, request)  # signs for the root that is written there now


def answer_off_the_curve(plan: TrainingPlan, device: Device, data: Data, challenge: bytes) -> bytes:
    """Answer for such points: by the right ones, of which alone anything can be proved, and then spoilt."""
    asked = Challenge.from_bytes(challenge)
    found = enrolment.find(device, data, asked.key)
    assert found is not None
    spoilt, tree = found.bound(range(found.samples)), found.tree()
    rewrite(found, np.load(found.path / "right.npy"), data[1])
    right_root = enrolment.find(device, data, asked.key)
    assert right_root is not None
    try:
        told = answer(plan, data, device, replace(asked, data=right_root.root).to_bytes())
    finally:
        rewrite(found, spoilt, data[1])
    batches = list(plan.batches(len(data[1]), Run.find(plan, device.checkpoints, asked.run).nonce))
    rows = np.unique(np.concatenate([batches[step] for step in asked.steps]))
    return changed(bound=lambda _: spoilt[rows], paths=lambda _: tree.paths(rows.tolist()))(
        Answer.from_bytes(told)
    ).to_bytes()


def rewrite(found: Enrolment, bound: Bytes, labels: npt.NDArray[Any]) -> None:
    """Have an enrolment be of something else than it was made of, by another root."""
    leaves = [sample_leaf(row, label) for row, label in zip(bound, labels.tolist(), strict=True)]
    np.save(found.path / "bound.npy", bound)
    np.save(found.path / "leaves.npy", np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, merkle.SIZE))
    meta = json.loads((found.path / "meta.json").read_text())
    (found.path / "meta.json").write_text(json.dumps({**meta, "root": merkle.Tree(leaves).root.hex()}))


def key_of(device: Device, data: Data, request: Enrol) -> bytes:
    """Return the SHA-256 by which challenges name what data are bound under."""
    _, parameters = enrolment.BONDS[request.binding].accept(device, request, int(np.prod(data[0].shape[1:])))
    return hashlib.sha256(parameters).digest()


@dataclass
class Unaffordable(Liar):
    """Enrols so many samples that the last batch of an epoch is a single one, of which no check can be afforded."""

    def __post_init__(self) -> None:
        (samples, labels), size = self.honest.data, self.honest.plan.batch_size
        count = max(1, (len(labels) - 1) // size) * size + 1
        rows = np.arange(count) % len(labels)
        self.honest.data = samples[rows], labels[rows]


# Lies in the update


@dataclass
class Reorders(Liar):
    """Sends the arrays of its model in another order."""

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        arrays, examples, metrics = self.train(parameters, config)
        return arrays[::-1], examples, metrics


@dataclass
class SpendsItsBudget(Liar):
    """Is honest until it has been checked so often that its budget is spent, and then flips the signs of its update.

    Parameters
    ----------
    checks : int
        How many checks that takes.
    """

    checks: int = 1

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        arrays, examples, metrics = self.train(parameters, config)
        if self._checked >= self.checks:
            arrays = [(w - (a - w)).astype(w.dtype) for a, w in zip(arrays, parameters, strict=True)]
        return arrays, examples, metrics

    def answer(self, challenge: bytes) -> bytes:
        told = super().answer(challenge)
        (self.device.folder / "checked").write_text(str(self._checked + 1))
        return told

    @property
    def _checked(self) -> int:
        path = self.device.folder / "checked"
        return int(path.read_text()) if path.exists() else 0


# Lies in the answer


def changed(**fields: Callable[[Any], Any]) -> Change:
    """Return an answer with copies of some of its arrays changed in place, or replaced."""

    def change(answer: Answer) -> Answer:
        new = {}
        for name, edit in fields.items():
            array = getattr(answer, name).copy()
            result = edit(array)
            new[name] = array if result is None else result
        return replace(answer, **new)

    return change


@dataclass
class SwapsSamples(Liar):
    """Shows what binds two samples in each other's place."""

    def answer(self, challenge: bytes) -> bytes:
        honest = Answer.from_bytes(super().answer(challenge))
        a, b = self.rng(challenge).choice(len(honest.labels), 2, replace=False)

        def swap(bound: Bytes) -> None:
            bound[[a, b]] = bound[[b, a]]

        return changed(bound=swap)(honest).to_bytes()


@dataclass
class LiesInZ1(Liar):
    """Claims one random entry of Z1 falsely.

    Parameters
    ----------
    by : int
    everywhere : bool
        Lies in every entry instead, by up to ``by``, at random.
    """

    by: int = 1
    everywhere: bool = False

    def answer(self, challenge: bytes) -> bytes:
        honest, rng = Answer.from_bytes(super().answer(challenge)), self.rng(challenge)

        def lie(claims: npt.NDArray[np.int64]) -> None:
            part = claims[:, self.columns(claims.shape[1], VECTORS)]
            if self.everywhere:
                part += rng.integers(1, self.by + 1, part.shape) * rng.choice([-1, 1], part.shape)
            else:
                part[tuple(rng.integers(n) for n in part.shape)] += self.by

        return changed(claims=lie)(honest).to_bytes()

    def columns(self, count: int, vectors: int) -> slice:
        """Return where the lie is among so many columns, the last of which are the projections."""
        return slice(0, count - vectors)


@dataclass
class LiesInP(LiesInZ1):
    """Claims one random entry of P falsely."""

    def columns(self, count: int, vectors: int) -> slice:
        return slice(count - vectors, count)


@dataclass
class Replays(Liar):
    """Answers its first challenge honestly, and every later one with what it answered then."""

    def answer(self, challenge: bytes) -> bytes:
        kept = self.device.folder / "first.answer"
        if not kept.exists():
            kept.write_bytes(super().answer(challenge))
        return kept.read_bytes()


@dataclass
class DropsOut(Liar):
    """Falls silent when challenged.

    Parameters
    ----------
    chance : float
        With which it does so, each time.
    """

    chance: float = 1.0

    def answer(self, challenge: bytes) -> bytes:
        if self.rng(challenge).random() < self.chance:
            raise RuntimeError("connection lost")
        return super().answer(challenge)


@dataclass
class Colludes(Liar):
    """Look-alikes: all send what the first of them trained on its data, and answer with its answers.

    The first is honest in all this, and passes. Others who enrolled the same data for themselves would pass too: they
    trained as they say, only on data that are not new.

    Parameters
    ----------
    jitter : float
        Each but the first adds ``jitter * |g| * N(0, 1) / sqrt(d)`` of its own to the update.
    adopt : bool
        Registers what binds the first one as its own, under its own key; else its own data.
    """

    jitter: float = 0.0
    adopt: bool = False

    @cached_property
    def first(self) -> Colludes:
        leader = min(self.scenario.malicious)
        first = self if leader == self.honest.partition else self.scenario.client(leader)
        assert isinstance(first, Colludes)
        return first

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        arrays, examples, metrics = self.train(parameters, config, data=self.first.data)
        if self.jitter and self.first is not self:
            rng = np.random.default_rng([config["faa.nonce"], self.honest.partition])
            moved = [a - w for a, w in zip(arrays, parameters, strict=True)]
            size = self.jitter * np.sqrt(sum(np.square(g).sum() for g in moved) / sum(g.size for g in moved))
            arrays = [(a + size * rng.standard_normal(a.shape)).astype(a.dtype) for a in arrays]
        return arrays, examples, metrics

    def enrol(self, request: bytes) -> bytes:
        own = super().enrol(request)
        if not self.adopt or self.first is self:
            return own
        found = enrolment.find(self.device, self.data, self.key)
        assert found is not None
        rewrite(found, self._shared.bound(range(self._shared.samples)), self.first.data[1])
        return super().enrol(request)

    def answer(self, challenge: bytes) -> bytes:
        """Answer by the first one's device: the run is the same, and the enrolment is the first one's too."""
        shared = replace(Challenge.from_bytes(challenge), data=self._shared.root, key=self.first.key)
        return answer(self.plan, self.first.data, self.first.device, shared.to_bytes())

    @property
    def _shared(self) -> Enrolment:
        first = self.first
        if not first._request.exists():
            raise RuntimeError("the first of them has not enrolled yet")
        found = enrolment.find(first.device, first.data, first.key)
        assert found is not None
        return found
