"""The seam: what ties a node to its data before it is asked about them, and how what it claims of them is tested.

A spot check draws steps, compares checkpoints, recomputes and judges in the same way whatever does this. There are two:
commitments (``committed.py``), the default, and inner-product encryption with an authority (``encrypted.py``). Neither
knows the other. Each has two sides, the server's :class:`Binding` and the device's :class:`Bond`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from flwr_faa.authority.registration import Disclosure, Registration
from flwr_faa.crypto.group import Group
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Challenge, Enrol, Enrolled

if TYPE_CHECKING:
    from flwr_faa.verification.spotcheck.device import Device

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tested:
    """What one node claims, and what it shows for it.

    Attributes
    ----------
    node_id : int
    root : bytes
        The registered data set.
    context : bytes
        See ``Challenge.context``.
    claims : sequence of StepClaims
    bound : mapping
        Row to the bound sample, each as enrolled, of the right size.
    proofs : uint8, shape (steps, size)
    """

    node_id: int
    root: bytes
    context: bytes
    claims: Sequence[StepClaims]
    bound: Mapping[int, bytes]
    proofs: Bytes


class Binding(Protocol):
    """The server's side. Any method may raise WireError, which is the node's line, or Exhausted, which is nobody's."""

    @property
    def budget(self) -> float:
        """Share of a sample's dimensions that every device is held to; 1 where that is for each device to say."""
        ...

    @property
    def tells_all(self) -> bool:
        """Whether testing claims tells the server something of samples that stay closed, too."""
        ...

    def sizes(self, layer: IntegerLayer) -> tuple[int, int]:
        """Bytes of a bound sample, and of the proof about a step of that layer."""
        ...

    def enrolment(self, node_id: int, width: int) -> Enrol:
        """What a node is asked to bind its data under."""
        ...

    def register(self, node_id: int, width: int, enrolled: Enrolled) -> None:
        """Take a node's bound data set, if the node has signed for it."""
        ...

    def promise(self, node_id: int, width: int) -> tuple[bytes, bytes]:
        """How a challenge names the parameters that a node's data are bound under; and what shows that it may ask."""
        ...

    def test(self, nodes: Sequence[Tested]) -> list[Exception | None]:
        """Count what these nodes' claims have told, and test whether they are true of the bound samples.

        Returns
        -------
        list of exception or None
            By node: ``Contradiction`` where a claim is not true, or what was enrolled is nothing that could be bound;
            ``Exhausted`` or ``WireError`` where it could not be tested; None where all of it holds.
        """
        ...

    def disclosure(self, node_id: int) -> Disclosure:
        """What is known of a registered node's data so far."""
        ...


class Bond(Protocol):
    """The device's side."""

    @property
    def tells_all(self) -> bool:
        """Whether testing claims tells the server something of samples that stay closed, too; the device counts it."""
        ...

    def accept(self, device: Device, asked: Enrol, width: int) -> tuple[Group, bytes]:
        """The group and the parameters to bind samples of that width under.

        Raises
        ------
        ValueError, ImportError
            If the request holds none that this device binds its data under.
        """
        ...

    def bind(self, device: Device, group: Group, parameters: bytes, rows: npt.NDArray[np.int64]) -> Bytes:
        """Bind every sample, shape (m, size)."""
        ...

    def check(self, device: Device, registration: Registration, asked: Challenge) -> None:
        """Raise WireError where the server has not shown that it may ask about that data set."""
        ...

    def prove(
        self,
        device: Device,
        group: Group,
        asked: Challenge,
        claims: Sequence[StepClaims],
        samples: npt.NDArray[np.integer],
        bound: Mapping[int, bytes],
    ) -> Bytes:
        """Prove each step's claims, shape (steps, size); nothing where the server tests them by itself.

        Parameters
        ----------
        device, group, asked
        claims : sequence of StepClaims
        samples : integers, shape (m, n)
            All samples of the data set.
        bound : mapping
            Row to the bound sample, for all rows of the claims.
        """
        ...
