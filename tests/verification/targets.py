"""Whatever reads what another party sent, beside an honest message for it: what the fuzzers and their tests aim at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flwr_faa.authority import LocalAuthority, SignedPublicKey
from flwr_faa.crypto import backends, groups, ipfe
from flwr_faa.verification import paper, replay
from flwr_faa.verification.base import Case, Exhausted, Finding, Misconfigured
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.spotcheck import enrolment, messages
from flwr_faa.verification.wire import Value, WireError, kind_of, unpack
from tests.helpers.toy import slice_of
from tests.verification.spotcheck.spot import SHAPE, Node


@dataclass(frozen=True)
class Target:
    """One reader of messages.

    Attributes
    ----------
    kind, honest
        Of a message that is accepted.
    send : callable
        Reads a message as its receiver does.
    refuses : tuple of exceptions
        The only ones that it may raise.
    """

    kind: str
    honest: dict[str, Value]
    send: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...] = (WireError,)

    def survives(self, data: bytes) -> object:
        """What comes of a message; None if it is refused as it may be. Any other exception is the fuzzer's find."""
        try:
            return self.send(data)
        except self.refuses:
            return None


def targets(folder: Path) -> dict[str, Target]:
    """All of them, around nodes that are enrolled, one by each binding, have trained, and are challenged."""
    node = Node(folder / "encryption", binding="encryption")
    case, found = spotcheck_targets(node)
    _, more = spotcheck_targets(Node(folder / "commitments", binding="commitments"))
    # What binds the data plays no part in a run's commitment.
    found |= {f"{name}, commitments": target for name, target in more.items() if name != "commitment"}
    plain = Paper(node.plan, SHAPE, authority=LocalAuthority("arkworks"), max_value=16)
    few = slice_of(0, 3)
    small = replace(case, num_examples=3, claimed=node.plan.train(case.model, few, case.nonce))
    wanted = plain.challenge(small)
    shown = paper.answer(few, wanted)
    plaintext = Replay(node.plan)
    fields = {
        "paper evidence": (
            paper.EVIDENCE,
            shown,
            {"clear": np.ndarray, "encrypted": bytes, "labels": np.ndarray},
            lambda data: plain.judge(small, data),
        ),
        "paper request": (
            paper.REQUEST,
            wanted,
            {"group": str, "public_key": bytes, "rows": int},
            lambda data: paper.answer(few, data),
        ),
        "replay evidence": (
            replay.EVIDENCE,
            replay.answer(few, plaintext.challenge(small)),
            {"samples": np.ndarray, "labels": np.ndarray},
            lambda data: plaintext.judge(small, data),
        ),
        "replay request": (
            replay.REQUEST,
            plaintext.challenge(small),
            {"round": int},
            lambda data: replay.answer(few, data),
        ),
    }
    return found | read(fields)


def spotcheck_targets(node: Node) -> tuple[Case, dict[str, Target]]:
    """The readers of both sides of a spot check, by one binding; and the node's update."""
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    enrolled = enrolment.enrol(node.device, node.data, request)
    node.verifier.enrol(node.node_id, enrolled)
    other = replace(node.device, folder=node.folder / "other")  # a folder answers for what was enrolled last
    case = node.train()
    challenge = node.verifier.challenge(case)
    bound = node.verifier._pending[node.node_id]
    evidence = node.answer(challenge)

    def judge(data: bytes) -> Finding:
        node.verifier._pending[node.node_id] = bound
        return node.verifier.judge(case, data)

    def ask(data: bytes) -> bytes:
        return node.verifier.challenge(replace(case, commitment=data))

    def enrol(data: bytes) -> None:
        node.verifier.enrol(node.node_id, data)

    arrays = dict.fromkeys(messages._ANSWER, np.ndarray)
    asked = {"run": bytes, "data": bytes, "key": bytes, "steps": np.ndarray, "seed": bytes, "receipt": bytes}
    fields = {
        "answer": (messages.ANSWER, evidence, arrays, judge),
        "commitment": (messages.COMMITMENT, case.commitment, messages.Commitment.FIELDS, ask),
        "enrolled": (messages.ENROLLED, enrolled, messages.Enrolled.FIELDS, enrol),
        "enrol": (
            kind_of(request),
            request,
            {"node": bytes, "group": str, "parameters": bytes},
            lambda data: enrolment.enrol(other, node.data, data),
        ),
        "challenge": (messages.CHALLENGE, challenge, asked, node.answer),
    }
    return case, read(fields)


def read(fields: Mapping[str, tuple[str, bytes, Any, Callable[[bytes], object]]]) -> dict[str, Target]:
    """Targets from the kind of a message, an honest one, the types of its fields, and who reads it."""
    return {
        name: Target(kind, unpack(data, kind, expected), send, (WireError, Exhausted, Misconfigured))
        for name, (kind, data, expected, send) in fields.items()
    }


def decoders() -> dict[str, tuple[bytes, Callable[[bytes], Any]]]:
    """Decoders of bytes without named fields, which raise ValueError; and bytes that each accepts."""
    group = backends.open_group("arkworks")
    public, _ = ipfe.setup(group, 3)
    rows = ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, [[1, 2, 3], [4, 5, 6]]))
    signed = SignedPublicKey(7, public.to_bytes(), bytes(64)).to_bytes()
    return {
        "public key": (public.to_bytes(), lambda data: ipfe.PublicKey.from_bytes(group, data)),
        "ciphertexts": (rows, lambda data: ipfe.ciphertexts_from_bytes(group, data)),
        "points": (groups.encode(group, public.points), lambda data: groups.decode(group, data)),
        "signed public key": (signed, SignedPublicKey.from_bytes),
    }
