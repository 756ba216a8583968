"""The client's side: train as the plan says, and answer when the server asks for evidence.

For a ``ClientApp`` of the Message API::

    @app.train()
    def train(msg, context): return verifiable(plan, load_data(context)).train(msg, context)
    @app.query("verify")
    def verify(msg, context): return verifiable(plan, load_data(context)).verify(msg, context)

For a ``NumPyClient``, subclass :class:`VerifiableClient`; ``fit`` and ``get_properties`` come with it.

A client answers only in the protocols that its own code has switched on: ``device=Device(...)`` switches on
``spotcheck``, ``plaintext=True`` ``replay``, ``answers=("paper",)`` the paper's. The last two show the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.common import NDArrays

from flwr_faa import expected
from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification import keeping, paper, replay
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.settings import check_agreement, check_data, check_given
from flwr_faa.verification.spotcheck import answer as spotcheck
from flwr_faa.verification.spotcheck import commitments, enrolment, messages
from flwr_faa.verification.spotcheck.device import Device, own_device
from flwr_faa.verification.training import Data
from flwr_faa.verification.wire import WireError, kind_of

#: Config keys and record names shared with the strategies.
NONCE, EVIDENCE, CHALLENGE, ACTION = "faa.nonce", "faa.evidence", "faa.challenge", "verify"
#: The settings of the server's plan, which the client's must equal.
SETTINGS = "faa.settings"
#: Asks for a commitment with the update; and where it comes.
COMMIT, COMMITMENT = "faa.commit", "faa.commitment"


#: Requests by the protocol that they belong to; and how a client's code switches that protocol on.
PROTOCOLS = {
    replay.REQUEST: "replay",
    paper.REQUEST: "paper",
    messages.ENROL: "spotcheck",
    messages.CHALLENGE: "spotcheck",
    messages.ENCRYPT: "encrypted",
}
_SWITCHES = {
    "replay": "plaintext=True (it shows the data)",
    "paper": 'answers=("paper",) (it shows the data)',
    "spotcheck": 'device=Device(folder), or answers=("spotcheck",)',
    "encrypted": 'device=Device(authority=...) (or answers=("encrypted",): it trusts whoever sends a public key)',
}


def answer(
    plan: TrainingPlan,
    data: Data,
    challenge: bytes,
    *,
    device: Device | None = None,
    plaintext: bool = False,
    answers: Collection[str] = (),
) -> bytes:
    """Answer a challenge with evidence, or a request to enrol.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        The samples and labels that were trained on.
    challenge : bytes
    device, plaintext, answers
        What this client answers; see :class:`verifiable`.

    Raises
    ------
    WireError
        If the challenge is malformed, of an unknown kind, or of a protocol that is not switched on.
    ValueError
        If ``answers`` names no protocol, or ``paper`` although the device pins an authority.
    """
    allowed = _switched_on(device, plaintext, answers)
    kind = kind_of(challenge)
    if kind not in PROTOCOLS:
        raise WireError(f"expected a request of a known kind, got {kind!r}: refused")
    protocol = PROTOCOLS[kind]
    if protocol not in allowed:
        raise WireError(
            f"expected a request that this client answers, got one of {protocol!r}: refused; its own code would have "
            f"to switch it on with {_SWITCHES[protocol]}"
        )
    if kind == replay.REQUEST:
        return replay.answer(data, challenge)
    if kind == paper.REQUEST:
        return paper.answer(data, challenge)
    if kind in (messages.ENROL, messages.ENCRYPT):
        return enrolment.enrol(device or own_device(data), data, challenge)
    return spotcheck.answer(plan, data, device or own_device(data), challenge)


def _switched_on(device: Device | None, plaintext: bool, answers: Collection[str]) -> frozenset[str]:
    """Return the protocols that a client answers; raise ValueError for unknown names, and for ``paper`` with a pin."""
    named = isinstance(answers, Collection) and not isinstance(answers, str)
    if not named or not all(a in list(_SWITCHES) for a in answers):
        raise ArgumentValueError(f"expected answers to be protocols among {sorted(_SWITCHES)}, got {answers!r}")
    if "paper" in answers and device is not None and device.authority is not None:
        raise ArgumentValueError(
            "expected no 'paper' where an authority is pinned, got both: the paper's mode shows the data to whoever "
            "sends a public key"
        )
    pinned = device is not None and device.authority is not None
    on = {"replay": plaintext, "spotcheck": device is not None or "encrypted" in answers, "encrypted": pinned}
    return frozenset(answers) | {protocol for protocol, switched_on in on.items() if switched_on}


@dataclass(frozen=True, eq=False)
class verifiable:  # noqa: N801 - reads as a function where it is used
    """Handlers of a ``ClientApp`` for one plan and one node's data.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        Integer samples, shape (m, ...), and labels, shape (m,).
    plaintext : bool
        Answer the ``replay`` verifier, which asks for the data in the clear. Simulations only.
    device : Device, optional
        Answer the ``spotcheck`` verifier; here the bound data set, the identity key and the checkpoints are kept. Data
        are encrypted only under a key of the authority that it pins; where it pins none, they are only committed to.
    answers : collection of str
        Protocols to answer besides: ``"paper"``, which hides nothing and is refused where the device pins an authority;
        ``"spotcheck"`` with a device in the user's data folder (in Ray's simulation a temporary one for each client);
        ``"replay"``; ``"encrypted"``, for simulations: a spot check with encryption under whatever key the server
        sends. Nothing else is ever answered.

    Examples
    --------
    The handlers of a ``ClientApp`` call it:

    >>> import numpy as np
    >>> from torch import nn
    >>> from flwr_faa import Device, TrainingPlan
    >>> plan = TrainingPlan(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=0.1)
    >>> data = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    >>> handlers = verifiable(plan, data, device=Device("device"))
    >>> [name for name in ("train", "verify") if callable(getattr(handlers, name))]
    ['train', 'verify']
    """

    plan: TrainingPlan
    data: Data
    plaintext: bool = False
    device: Device | None = None
    answers: Collection[str] = ()

    def __post_init__(self) -> None:
        _check_client(self.plan, self.data, self.plaintext, self.device, self.answers)

    def train(self, msg: Message, context: Context) -> Message:
        """Reply to a train message with the new arrays and ``num-examples``."""
        (name, record), (_, config) = next(iter(msg.content.array_records.items())), _config(msg)
        arrays = [a.numpy() for a in record.values()]
        trained, commitment = _train(self, arrays, config)
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
        evidence = _answer(self, challenge)
        return Message(RecordDict({EVIDENCE: to_record(EVIDENCE, evidence)}), reply_to=msg)


class VerifiableClient(NumPyClient):
    """A ``NumPyClient`` that trains by a plan and answers for it. ``evaluate`` is yours.

    Parameters
    ----------
    plan : TrainingPlan
    data : tuple of ndarray
        Integer samples, shape (m, ...), and labels, shape (m,).
    plaintext : bool
        Answer the ``replay`` verifier, which asks for the data in the clear. Simulations only.
    device : Device, optional
        Answer the ``spotcheck`` verifier; here the bound data set, the identity key and the checkpoints are kept. Data
        are encrypted only under a key of the authority that it pins; where it pins none, they are only committed to.
    answers : collection of str
        Protocols to answer besides: ``"paper"``, which hides nothing and is refused where the device pins an authority;
        ``"spotcheck"`` with a device in the user's data folder (in Ray's simulation a temporary one for each client);
        ``"replay"``; ``"encrypted"``, for simulations: a spot check with encryption under whatever key the server
        sends. Nothing else is ever answered.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from flwr_faa import TrainingPlan
    >>> plan = TrainingPlan(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lr=0.1)
    >>> client = VerifiableClient(plan, (np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10))
    >>> arrays, examples, metrics = client.fit(plan.initial_arrays(0), {"faa.nonce": 1})
    >>> [a.shape for a in arrays], examples
    ([(10, 64), (10,)], 20)
    """

    def __init__(
        self,
        plan: TrainingPlan,
        data: Data,
        plaintext: bool = False,
        device: Device | None = None,
        answers: Collection[str] = (),
    ) -> None:
        self.plan, self.data, self.plaintext, self.device, self.answers = plan, data, plaintext, device, answers
        _check_client(plan, data, plaintext, device, answers)

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, dict[str, Any]]:
        """Train one round."""
        arrays, commitment = _train(self, parameters, config)
        return arrays, len(self.data[1]), {COMMITMENT: commitment} if commitment else {}

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Answer a verification, if that is what is asked."""
        if CHALLENGE not in config:
            return {}
        return {EVIDENCE: _answer(self, config[CHALLENGE])}


def _check_client(
    plan: TrainingPlan, data: Data, plaintext: bool, device: Device | None, answers: Collection[str]
) -> None:
    """Raise TypeError or ValueError for what no round could work with."""
    check_given(plan)
    check_data(data)
    expected.flag("plaintext", plaintext)
    if device is not None:
        expected.kind("device", device, Device, "Device('folder') makes one")
    _switched_on(device, plaintext, answers)


def _answer(client: verifiable | VerifiableClient, challenge: bytes) -> bytes:
    more: dict[str, Any] = {"device": client.device, "plaintext": client.plaintext, "answers": client.answers}
    return answer(client.plan, client.data, challenge, **more)


def _train(client: verifiable | VerifiableClient, arrays: Arrays, config: Mapping[str, Any]) -> tuple[NDArrays, bytes]:
    """Train one round; the commitment is empty where none is asked for, or the client would not open it."""
    if SETTINGS in config:
        check_agreement(client.plan, str(config[SETTINGS]))
    nonce = int(config.get(NONCE, 0))
    if not config.get(COMMIT) or "spotcheck" not in _switched_on(client.device, client.plaintext, client.answers):
        return client.plan.train(arrays, client.data, nonce), b""
    device = client.device or own_device(client.data)
    again = keeping.trains_again(device, client.plan)
    done, commitment = commitments.train(client.plan, arrays, client.data, nonce, device.checkpoints, again)
    return done, commitment.to_bytes()


def to_record(name: str, data: bytes) -> ArrayRecord:
    """Pack bytes as an array: Flower sends large arrays in chunks, but not the bytes in a ``ConfigRecord``."""
    return ArrayRecord({name: Array(np.frombuffer(data, np.uint8).copy())})


def _config(msg: Message) -> tuple[str, Any]:
    return next(iter(msg.content.config_records.items()), ("", {}))
