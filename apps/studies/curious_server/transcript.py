"""What an honest-but-curious server keeps of a run: every challenge, every answer, and every key that it was given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr_faa.authority import Authority, CheckKey
from flwr_faa.crypto import ipfe
from flwr_faa.report import DataDisclosure
from flwr_faa.verification.base import Case, Finding, outcome
from flwr_faa.verification.spotcheck.messages import Challenge
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import pack, unpack

KIND = "curious/exchange"


@dataclass(frozen=True)
class Exchange:
    """One challenge to one node, and what came of it.

    Attributes
    ----------
    node_id, nonce, samples : int
        The node, the round's nonce, and how many examples the node reported.
    challenge, evidence : bytes
    keys : tuple of FunctionalKey
        Issued while the evidence was judged; none where data are bound by commitments.
    """

    node_id: int
    nonce: int
    samples: int
    challenge: bytes
    evidence: bytes
    keys: tuple[ipfe.FunctionalKey, ...]

    def to_bytes(self) -> bytes:
        return pack(
            KIND,
            {
                "node": str(self.node_id),
                "nonce": self.nonce,
                "samples": self.samples,
                "challenge": self.challenge,
                "evidence": self.evidence,
                "keys": json.dumps([[list(map(str, k.y)), str(k.secret)] for k in self.keys]),
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Exchange:
        expected = {"node": str, "nonce": int, "samples": int, "challenge": bytes, "evidence": bytes, "keys": str}
        f = unpack(data, KIND, expected)
        keys = tuple(ipfe.FunctionalKey(tuple(map(int, y)), int(secret)) for y, secret in json.loads(f["keys"]))
        return cls(int(f["node"]), f["nonce"], f["samples"], f["challenge"], f["evidence"], keys)


@dataclass
class Keeper:
    """An authority's client that keeps the keys it is given."""

    inner: Authority
    keys: list[ipfe.FunctionalKey] = field(default_factory=list)

    def functional_keys(self, *args: Any, **kwargs: Any) -> list[ipfe.FunctionalKey]:
        """Pass on, and keep."""
        found = self.inner.functional_keys(*args, **kwargs)
        self.keys += found
        return found

    def check_key(self, *args: Any, **kwargs: Any) -> CheckKey:
        """Pass on, and keep."""
        found = self.inner.check_key(*args, **kwargs)
        self.keys.append(found.key)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Curious:
    """A verifier that does its work, and writes down what it sees.

    Parameters
    ----------
    verifier : SpotCheck or Paper
        Whose authority, if it has one, is a :class:`Keeper`.
    folder : Path
        Where exchanges go, one file each.
    """

    def __init__(self, verifier: Any, folder: Path) -> None:
        self.verifier, self.folder, self._asked = verifier, folder, dict[int, bytes]()
        folder.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.verifier, name)

    def challenge(self, case: Case) -> bytes:
        """Return the verifier's."""
        self._asked[case.node_id] = self.verifier.challenge(case)
        return self._asked[case.node_id]

    def judge(self, case: Case, evidence: bytes) -> Finding:
        """Judge as the verifier does, and keep what was seen on disk."""
        keys = [] if self.verifier.authority is None else self.verifier.authority.keys
        before = len(keys)
        finding: Finding = self.verifier.judge(case, evidence)
        seen = (self._asked[case.node_id], evidence, tuple(keys[before:]))
        number = len(list(self.folder.glob("*.bin")))
        exchange = Exchange(case.node_id, case.nonce, case.num_examples, *seen)
        (self.folder / f"{number:04d}.bin").write_bytes(exchange.to_bytes())
        return finding

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        """Return the verifier's."""
        found: DataDisclosure | None = self.verifier.disclosure(node_id)
        return found

    def affordable(self, node_id: int) -> float:
        """Return the verifier's."""
        checks: float = self.verifier.affordable(node_id)
        return checks


class SameQuestions(SpotCheck):
    """A spot check that asks what was asked before, round by round: the same steps, by the same seed.

    So what two bindings tell differs by what they are, and not by what was drawn. Beyond those questions, and where
    the run is another one, it draws as always.
    """

    asked: Sequence[Challenge] = ()

    def challenge(self, case: Case) -> bytes:
        """Ask as the verifier does, with the steps and the seed of the earlier challenge to the same run."""
        raw = super().challenge(case)
        bound = self._pending[case.node_id]
        for earlier in self.asked:
            if earlier.run == bound.challenge.run:
                own = replace(bound.challenge, steps=earlier.steps, seed=earlier.seed)
                self._pending[case.node_id] = replace(bound, challenge=own)
                return own.to_bytes()
        return raw


class CuriousEnroller(Curious):
    """The same for a verifier that has nodes enrol."""

    @property
    def enrol_timeout(self) -> float:
        return float(self.verifier.enrol_timeout)

    def enrolment(self, node_id: int) -> bytes | None:
        """Return the verifier's."""
        request: bytes | None = self.verifier.enrolment(node_id)
        return request

    def enrol(self, node_id: int, answer: bytes) -> None:
        """The verifier's."""
        self.verifier.enrol(node_id, answer)

    def judge_all(self, answers: Sequence[tuple[Case, bytes]]) -> list[Finding | Exception]:
        """Judge one answer after the other, so that each is kept."""
        return [outcome(partial(self.judge, case, told)) for case, told in answers]


def exchanges(folder: Path) -> Iterator[Exchange]:
    """Read the exchanges in the order in which they happened."""
    for path in sorted(folder.glob("*.bin")):
        yield Exchange.from_bytes(path.read_bytes())
