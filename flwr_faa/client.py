"""The client's side: train as the plan says, and answer when the server asks for evidence.

For a ``ClientApp`` of the Message API::

    @app.train()
    def train(msg, context): return verifiable(plan, load_data(context)).train(msg, context)
    @app.query("verify")
    def verify(msg, context): return verifiable(plan, load_data(context)).verify(msg, context)

For a ``NumPyClient``, subclass :class:`VerifiableClient`; ``fit`` and ``get_properties`` come with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.common import NDArrays

from flwr_faa.updates import Arrays
from flwr_faa.verification import commitments, enrolment, paper, replay, spotanswer, spotwire
from flwr_faa.verification.enrolment import Device
from flwr_faa.verification.plan import Data, TrainingPlan
from flwr_faa.verification.wire import WireError, kind_of

#: Config keys and record names shared with the strategies.
NONCE, EVIDENCE, CHALLENGE, ACTION = "faa.nonce", "faa.evidence", "faa.challenge", "verify"
#: Asks for a commitment with the update; and where it comes.
COMMIT, COMMITMENT = "faa.commit", "faa.commitment"


def answer(
    plan: TrainingPlan, data: Data, challenge: bytes, *, device: Device | None = None, plaintext: bool = False
) -> bytes:
    """Evidence for a challenge, or an enrolment.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        The samples and labels that were trained on.
    challenge : bytes
    device : Device, optional
        Where this client keeps what it is bound to.
    plaintext : bool
        Whether this client may be asked to show its data in the clear (simulations only).

    Raises
    ------
    WireError
        If the challenge is malformed, of an unknown kind, or asks for plain data without ``plaintext``.
    """
    kind = kind_of(challenge)
    if kind == replay.REQUEST:
        if not plaintext:
            raise WireError("expected a challenge on encrypted data, got a request for plain data: refused")
        return replay.answer(data, challenge)
    if kind == paper.REQUEST:
        return paper.answer(data, challenge)
    if kind == spotwire.ENROL:
        return enrolment.enrol(device or Device(), data, challenge)
    if kind == spotwire.CHALLENGE:
        return spotanswer.answer(plan, data, device or Device(), challenge)
    raise WireError(f"expected a challenge of a known kind, got {kind!r}")


@dataclass(frozen=True, eq=False)
class verifiable:  # noqa: N801 - reads as a function where it is used
    """Handlers of a ``ClientApp`` for one plan and one node's data.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        Integer samples, shape (m, ...), and labels, shape (m,).
    plaintext : bool
        Allow the ``replay`` verifier, which asks for the data in the clear. Simulations only.
    device : Device, optional
        Where the encrypted data set, the identity key and the checkpoints are kept, for ``spotcheck``.
    """

    plan: TrainingPlan
    data: Data
    plaintext: bool = False
    device: Device | None = None

    def train(self, msg: Message, context: Context) -> Message:
        """Reply to a train message with the new arrays and ``num-examples``."""
        (name, record), (_, config) = next(iter(msg.content.array_records.items())), _config(msg)
        arrays = [a.numpy() for a in record.values()]
        trained, commitment = _train(self.plan, arrays, self.data, config, self.device)
        content = RecordDict(
            {
                name: ArrayRecord({k: Array(a) for k, a in zip(record, trained, strict=True)}),
                "metrics": MetricRecord({"num-examples": len(self.data[1])}),
            }
        )
        if commitment:
            content[COMMITMENT] = ConfigRecord({COMMITMENT: commitment})
        return Message(content, reply_to=msg)

    def verify(self, msg: Message, context: Context) -> Message:
        """Reply to a ``query.verify`` message with evidence."""
        challenge = next(iter(msg.content.array_records.values()))[CHALLENGE].numpy().tobytes()
        evidence = answer(self.plan, self.data, challenge, device=self.device, plaintext=self.plaintext)
        return Message(RecordDict({EVIDENCE: to_record(EVIDENCE, evidence)}), reply_to=msg)


class VerifiableClient(NumPyClient):
    """A ``NumPyClient`` that trains by a plan and answers for it. ``evaluate`` is yours.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        Integer samples, shape (m, ...), and labels, shape (m,).
    plaintext : bool
        Allow the ``replay`` verifier, which asks for the data in the clear. Simulations only.
    device : Device, optional
        Where the encrypted data set, the identity key and the checkpoints are kept, for ``spotcheck``.
    """

    def __init__(self, plan: TrainingPlan, data: Data, plaintext: bool = False, device: Device | None = None) -> None:
        self.plan, self.data, self.plaintext, self.device = plan, data, plaintext, device

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, dict[str, Any]]:
        """Train one round."""
        arrays, commitment = _train(self.plan, parameters, self.data, config, self.device)
        return arrays, len(self.data[1]), {COMMITMENT: commitment} if commitment else {}

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Answer a verification, if that is what is asked."""
        if CHALLENGE not in config:
            return {}
        challenge = config[CHALLENGE]
        return {EVIDENCE: answer(self.plan, self.data, challenge, device=self.device, plaintext=self.plaintext)}


def _train(
    plan: TrainingPlan, arrays: Arrays, data: Data, config: Mapping[str, Any], device: Device | None
) -> tuple[NDArrays, bytes]:
    """Train one round; the commitment is empty where none is asked for."""
    nonce = int(config.get(NONCE, 0))
    if not config.get(COMMIT):
        return plan.train(arrays, data, nonce), b""
    done, commitment = commitments.train(plan, arrays, data, nonce, (device or Device()).checkpoints)
    return done, commitment.to_bytes()


def to_record(name: str, data: bytes) -> ArrayRecord:
    """Bytes as an array: Flower sends large arrays in chunks, bytes in a ``ConfigRecord`` not."""
    return ArrayRecord({name: Array(np.frombuffer(data, np.uint8).copy())})


def _config(msg: Message) -> tuple[str, Any]:
    return next(iter(msg.content.config_records.items()), ("", {}))
