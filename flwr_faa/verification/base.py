"""What a verifier is: a challenge out, evidence in, a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flwr_faa.updates import Arrays


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
    """

    round: int
    node_id: int
    nonce: int
    model: Arrays
    claimed: Arrays
    num_examples: int


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
        """As in reports."""
        ...

    @property
    def simulation_only(self) -> bool:
        """Whether this verifier may never be used with real clients."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator must know; logged at start-up and kept in the ledger."""
        ...

    def challenge(self, case: Case) -> bytes:
        """The question to send to the node."""
        ...

    def judge(self, case: Case, evidence: bytes) -> Finding:
        """Weigh the node's answer.

        Raises
        ------
        WireError
            If the answer is not a well-formed answer to the challenge: no evidence at all.
        """
        ...
