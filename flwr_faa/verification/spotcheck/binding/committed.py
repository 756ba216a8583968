"""Data bound by commitments: the server's side and the device's (``claim_proofs.py`` is the protocol).

There is no third party. The device counts what it discloses, and refuses what goes beyond its budget. When it enrols
it says how much it will tell at most, and how much of that it has told before. From then on the server keeps a count of
its own, so that it asks for nothing that an honest device would refuse. A device that lies about this gains what one
gains whose budget is spent: it is left out of every round in which it is suspected.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flwr_faa.authority.registration import Disclosure, Registration
from flwr_faa.crypto import linear
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.base import outcome
from flwr_faa.verification.refusals import translated
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.binding.base import Bytes, Tested
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer, sizes_of
from flwr_faa.verification.spotcheck.messages import Challenge, Enrol, Enrolled
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.wire import WireError

if TYPE_CHECKING:
    from flwr_faa.verification.spotcheck.device import Device


@dataclass
class _Account:
    """What the server knows that is known of a node's samples, in dimensions.

    ``before`` is the most of any sample when the set was registered, ``told`` what every row has been opened for since.
    """

    enrolled: Enrolled
    before: int
    enrolments: int
    told: Counter[int] = field(default_factory=Counter)

    @property
    def known(self) -> int:
        return min(self.enrolled.registration.width, self.before + max(self.told.values(), default=0))


class CommittedBinding:
    """The server's side.

    Parameters
    ----------
    back_end : {"arkworks", "charm", "auto"}
        The group. Every installation has arkworks; charm must be on all devices.
    """

    #: The device refuses, not the server.
    budget = 1.0
    tells_all = False

    def __init__(self, back_end: str = "arkworks") -> None:
        self.group = open_group(back_end)
        self._accounts: dict[int, _Account] = {}

    def sizes(self, layer: IntegerLayer) -> tuple[int, int]:
        return self.group.point_size, claim_proofs.proof_size(self.group, layer)

    def enrolment(self, node_id: int, width: int) -> Enrol:
        return Enrol("commitments", node_id, self.group.name, claim_proofs.parameters(self.group, node_id, width))

    def register(self, node_id: int, width: int, enrolled: Enrolled) -> None:
        old, registration = self._accounts.get(node_id), enrolled.registration
        with translated():
            registration.check(node_id, claim_proofs.parameters(self.group, node_id, width))
        if old is not None and old.enrolled.registration.verify_key != registration.verify_key:
            raise WireError(f"expected the device that enrolled as node {node_id} before, got another")
        before = enrolled.spent if old is None else max(enrolled.spent, old.known)
        self._accounts[node_id] = _Account(enrolled, before, 1 if old is None else old.enrolments + 1)

    def promise(self, node_id: int, width: int) -> tuple[bytes, bytes]:
        return hashlib.sha256(claim_proofs.parameters(self.group, node_id, width)).digest(), b""

    def test(self, nodes: Sequence[Tested]) -> list[Exception | None]:
        """One multi-scalar product for all steps of all nodes, and halves of it only where it fails."""
        found: list[Exception | None] = []
        equations: list[linear.Equation | None] = []
        for node in nodes:
            read = outcome(partial(self._equations, node))
            found.append(read if isinstance(read, Exception) else None)
            equations += [] if isinstance(read, Exception) else read
        held = iter(linear.hold(equations))
        for i, node in enumerate(nodes):
            if found[i] is None and (wrong := [step.step for step in node.claims if not next(held)]):
                found[i] = Contradiction(
                    f"a claim about the first layer is not true of the enrolled data (steps {wrong})"
                )
        return found

    def _equations(self, node: Tested) -> list[linear.Equation | None]:
        account = self._accounts[node.node_id]
        for step in node.claims:
            told = step.layer.told(sizes_of(step.kernels), len(step.rows), account.enrolled.registration.top)
            account.told.update(dict.fromkeys(step.rows, told.opened))
        try:
            return claim_proofs.equations(self.group, node.context, node.claims, node.bound, node.proofs)
        except ValueError as error:
            raise Contradiction(f"its commitments or proofs are none: {error}") from error

    def disclosure(self, node_id: int) -> Disclosure:
        account = self._accounts[node_id]
        registration, allowed = account.enrolled.registration, account.enrolled.allowed
        return Disclosure(
            registration.width, registration.samples, len(account.told), account.known, allowed,
            max(0, allowed - account.known), account.enrolments,
        )  # fmt: skip


class CommittedBond:
    """The device's side. What it needs beside the data is its identity: blindings are derived from that."""

    tells_all = False

    def accept(self, device: Device, asked: Enrol, width: int) -> tuple[Group, bytes]:
        group = open_group(asked.group)
        own = claim_proofs.parameters(group, asked.node_id, width)
        if asked.parameters != own:
            raise ArgumentValueError(f"expected commitments by this release to {width} values, got other parameters")
        return group, own

    def bind(self, device: Device, group: Group, parameters: bytes, rows: npt.NDArray[np.int64]) -> Bytes:
        secret, key = device.secret(b"faa/blindings"), hashlib.sha256(parameters).digest()
        return claim_proofs.commit(group, secret, key, rows)

    def check(self, device: Device, registration: Registration, asked: Challenge) -> None:
        pass  # no third party that could be deceived: what is told is counted by the device alone

    def prove(
        self,
        device: Device,
        group: Group,
        asked: Challenge,
        claims: Sequence[StepClaims],
        samples: npt.NDArray[np.integer],
        bound: Mapping[int, bytes],
    ) -> Bytes:
        context = asked.context(device.identity().public_key().public_bytes_raw(), len(samples))
        return claim_proofs.prove(group, device.secret(b"faa/blindings"), asked.key, context, claims, samples, bound)
