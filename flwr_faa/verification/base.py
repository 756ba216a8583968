"""The interface of a verifier: it sends a challenge, gets evidence, and returns a finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from typing import Protocol, TypeVar, runtime_checkable

from flwr_faa.errors import FlwrAnomalyError
from flwr_faa.replies.updates import Arrays
from flwr_faa.report import DataDisclosure
from flwr_faa.verification.wire import WireError

T = TypeVar("T")

logger = getLogger("flwr")  # Flower's own, to whose lines these belong


class Exhausted(FlwrAnomalyError):  # noqa: N818 - no error: nobody did anything wrong
    """A node cannot be asked, through no fault of its own.

    Its data have been asked about as often as they may be, or there is no authority to ask about them.
    """


class Misconfigured(FlwrAnomalyError):  # noqa: N818 - no attack: a mistake
    """A node cannot be verified as it and the server are set up. It is left out, and told what to change."""


@contextmanager
def one_node(node_id: int) -> Iterator[None]:
    """Turn whatever a verifier raises about one node's bytes into a `WireError`, so that it costs that node alone.

    `Exhausted`, `Misconfigured` and `WireError` keep their meaning. Anything else is a hole in a parser: the type goes
    to the log.
    """
    try:
        yield
    except (Exhausted, Misconfigured, WireError):
        raise
    # A client sent what nobody thought of: the one place where that becomes the client's own loss.
    except Exception as error:
        logger.warning("faa node=%d: the verifier raised %s: %.200r", node_id, type(error).__name__, error)
        raise WireError(f"it made the verifier fail ({type(error).__name__})") from error


def outcome(call: Callable[[], T]) -> T | Exception:
    """Return what a call returns or raises: where many nodes are judged at once, one's failure is not the others'."""
    try:
        return call()
    except Exception as why:  # noqa: BLE001 - whoever asked looks at it, node by node
        return why


def worst(errors: Iterable[float]) -> float:
    """Return the largest of these errors, infinite if one is NaN; ``max`` overlooks a NaN that is not the first."""
    return max((math.inf if math.isnan(error) else float(error) for error in errors), default=0.0)


@dataclass(frozen=True, eq=False)
class Case:
    """One suspect's claim in one round.

    Attributes
    ----------
    round : int
    node_id : int
    nonce : int
        The round's, from which the batch order was drawn.
    model : sequence of ndarray
        The global model ``w`` that was broadcast.
    claimed : sequence of ndarray
        The node's model ``w_i = w + g_i``.
    num_examples : int
        As the node reported it.
    commitment : bytes
        What came with its update, for verifiers that ask for one; as the node sent it.
    """

    round: int
    node_id: int
    nonce: int
    model: Arrays
    claimed: Arrays
    num_examples: int
    commitment: bytes = b""


@dataclass(frozen=True)
class Finding:
    """The outcome of judging evidence.

    ``convicted`` says that the evidence contradicts the claim. ``error`` is the relative L2 error of the update
    against its replay, or NaN where the evidence was inconsistent before there was anything to compare.
    """

    convicted: bool
    error: float
    threshold: float
    reason: str


class Verifier(Protocol):
    """Asks a suspect for evidence and judges it."""

    @property
    def name(self) -> str:
        """The name that reports use."""
        ...

    @property
    def simulation_only(self) -> bool:
        """Whether this verifier may never be used with real clients."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator must know. Logged at start-up and kept in the ledger."""
        ...

    def challenge(self, case: Case) -> bytes:
        """Return the question to send to the node.

        Raises
        ------
        Exhausted
            If nothing more may be asked about this node's data.
        WireError
            If what came with the update is malformed: there is nothing to ask about.
        """
        ...

    def judge(self, case: Case, evidence: bytes) -> Finding:
        """Weigh the node's answer.

        Raises
        ------
        WireError
            If the answer is not a well-formed answer to the challenge: no evidence at all.
        Exhausted
            If its data may not be asked about any more after all.
        """
        ...


@runtime_checkable
class Collective(Protocol):
    """A verifier that judges many answers for less than one after the other."""

    def judge_all(self, answers: Sequence[tuple[Case, bytes]]) -> list[Finding | Exception]:
        """Return for every answer what ``judge`` would return or raise."""
        ...


@runtime_checkable
class Disclosing(Protocol):
    """A verifier that knows how much of a node's data has been disclosed, to it and to others before."""

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        """Return what was last heard, without asking anybody; None if nothing has been heard of the node."""
        ...

    def affordable(self, node_id: int) -> float:
        """Return how many more checks of this node's data its budget allows, as last heard; perhaps infinite."""
        ...


@runtime_checkable
class Enrolling(Protocol):
    """A verifier whose nodes must enrol before they train, and commit themselves with every update."""

    @property
    def enrol_timeout(self) -> float:
        """Seconds that enrolments may take."""
        ...

    def enrolment(self, node_id: int) -> bytes | None:
        """Return the request to send to a node before it trains; None if it is enrolled."""
        ...

    def enrol(self, node_id: int, answer: bytes) -> None:
        """Take a node's answer to it.

        Raises
        ------
        WireError
            If it is not enrolled by that.
        Misconfigured
            If its data could never be verified, with what to change.
        """
        ...

    def samples(self, node_id: int) -> int | None:
        """Return how many samples a node has enrolled; None if it has not."""
        ...
