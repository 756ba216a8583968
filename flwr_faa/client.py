"""The client's side: train as the plan says, and answer when the server asks for evidence.

For a ``ClientApp`` of the Message API::

    @app.train()
    def train(msg, context): return verifiable(plan, load_data(context)).train(msg, context)
    @app.query("verify")
    def verify(msg, context): return verifiable(plan, load_data(context)).verify(msg, context)

For a ``NumPyClient``, subclass :class:`VerifiableClient`; ``fit`` and ``get_properties`` come with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.common import NDArrays

from flwr_faa.verification import paper, replay
from flwr_faa.verification.plan import Data, TrainingPlan
from flwr_faa.verification.wire import WireError, kind_of

#: Config keys and record names shared with the strategies.
NONCE, EVIDENCE, CHALLENGE, ACTION = "faa.nonce", "faa.evidence", "faa.challenge", "verify"


def answer(data: Data, challenge: bytes, *, plaintext: bool = False) -> bytes:
    """Evidence for a challenge.

    Parameters
    ----------
    data : tuple of ndarray
        The samples and labels that were trained on.
    challenge : bytes
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
    """

    plan: TrainingPlan
    data: Data
    plaintext: bool = False

    def train(self, msg: Message, context: Context) -> Message:
        """Reply to a train message with the new arrays and ``num-examples``."""
        (name, record), (_, config) = next(iter(msg.content.array_records.items())), _config(msg)
        arrays = [a.numpy() for a in record.values()]
        trained = self.plan.train(arrays, self.data, int(config.get(NONCE, 0)))
        content = RecordDict(
            {
                name: ArrayRecord({k: Array(a) for k, a in zip(record, trained, strict=True)}),
                "metrics": MetricRecord({"num-examples": len(self.data[1])}),
            }
        )
        return Message(content, reply_to=msg)

    def verify(self, msg: Message, context: Context) -> Message:
        """Reply to a ``query.verify`` message with evidence."""
        challenge = next(iter(msg.content.array_records.values()))[CHALLENGE].numpy().tobytes()
        evidence = answer(self.data, challenge, plaintext=self.plaintext)
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
    """

    def __init__(self, plan: TrainingPlan, data: Data, plaintext: bool = False) -> None:
        self.plan, self.data, self.plaintext = plan, data, plaintext

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, dict[str, Any]]:
        """Train one round."""
        return self.plan.train(parameters, self.data, int(config.get(NONCE, 0))), len(self.data[1]), {}

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Answer a verification, if that is what is asked."""
        if CHALLENGE not in config:
            return {}
        return {EVIDENCE: answer(self.data, config[CHALLENGE], plaintext=self.plaintext)}


def to_record(name: str, data: bytes) -> ArrayRecord:
    """Bytes as an array: Flower sends large arrays in chunks, bytes in a ``ConfigRecord`` not."""
    return ArrayRecord({name: Array(np.frombuffer(data, np.uint8).copy())})


def _config(msg: Message) -> tuple[str, Any]:
    return next(iter(msg.content.config_records.items()), ("", {}))
