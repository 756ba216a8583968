"""Data bound by inner-product encryption: the server's side, with an authority that issues keys, and the device's.

The paper's functional encryption: every coordinate of a sample is encrypted under a key of the authority's. Claims are
tested in the exponent, by one functional key a step. It is for a random combination, which server (sigma, over the
samples) and authority (rho, over the functions) draw after the claims are in: false ones pass with probability at most
2^-23 + 2^-24.
The key opens its combination of every ciphertext of the node, so it is counted for all its samples.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flwr_faa.authority import Authority, Disclosure, Refused, Registration, SignedPublicKey, Stated
from flwr_faa.authority.base import CheckKey, weights
from flwr_faa.authority.registration import verify_signature
from flwr_faa.crypto import groups, ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.exact import Integers
from flwr_faa.crypto.group import Group
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.base import Exhausted, outcome
from flwr_faa.verification.refusals import translated
from flwr_faa.verification.spotcheck.binding.base import Bytes, Tested
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Challenge, Enrol, Enrolled
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.wire import WireError

if TYPE_CHECKING:
    from flwr_faa.verification.spotcheck.device import Device

#: Bits of the server's weights sigma; the authority's rho have 24. An attempt costs the node its membership. With Charm
#: sigma decides what a check costs: 23 bits are five windows of ``groups.combine``.
SIGMA_BITS = 23
#: Samples encrypted at a time: enough for the window tables to pay.
_CHUNK = 100


class EncryptedBinding:
    """The server's side.

    Parameters
    ----------
    authority : Authority
    """

    tells_all = True

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self._receipts: dict[int, bytes] = {}
        self._owed: dict[int, list[Stated]] = {}

    @property
    def budget(self) -> float:
        with translated():
            return self.authority.budget

    def sizes(self, layer: IntegerLayer) -> tuple[int, int]:
        return (layer.width + 1) * self.authority.group.point_size, 0

    def enrolment(self, node_id: int, width: int) -> Enrol:
        with translated():
            key = self.authority.signed_public_key(node_id, width)
            return Enrol("encryption", node_id, self.authority.group.name, key.to_bytes())

    def register(self, node_id: int, width: int, enrolled: Enrolled) -> None:
        with translated():
            self._settle(node_id)
            self._receipts[node_id] = self.authority.register(node_id, enrolled.registration)

    def promise(self, node_id: int, width: int) -> tuple[bytes, bytes]:
        with translated():
            public = self.authority.public_key(node_id, width)
        return hashlib.sha256(public.to_bytes()).digest(), self._receipts[node_id]

    def test(self, nodes: Sequence[Tested]) -> list[Exception | None]:
        return [outcome(partial(self._test, node)) for node in nodes]

    def _test(self, node: Tested) -> None:
        node_id, bound, group, rows = node.node_id, node.bound, self.authority.group, sorted(node.bound)
        try:
            points = groups.decode(group, b"".join([bound[row] for row in rows]), subgroup=False)
        except ValueError as error:
            raise Contradiction(f"the enrolled data are no ciphertexts: {error}") from error
        n = len(points) // len(rows)
        ciphertexts = {row: ipfe.Ciphertext(group, tuple(points[i * n : (i + 1) * n])) for i, row in enumerate(rows)}
        asks, tested = [Ask.about(node.root, step) for step in node.claims], []
        for i, ask in enumerate(asks):
            try:
                with translated():
                    key = self.authority.check_key(node_id, ask.stated, ask.seed)
            except Exhausted:
                self._owed.setdefault(node_id, []).extend(later.stated for later in asks[i:])
                raise
            tested.append(ask.claim(ciphertexts, key))
        if not ipfe.claims_hold(tested):
            raise Contradiction("a claim about the first layer is not true of the enrolled data")

    def disclosure(self, node_id: int) -> Disclosure:
        with translated():
            self._settle(node_id)
            return self.authority.disclosure(node_id)

    def _settle(self, node_id: int) -> None:
        """Have claims counted that were stated while the authority was away."""
        owed = self._owed.get(node_id, [])
        while owed:
            with suppress(Refused):  # the node has moved on to another data set, or the budget is spent
                self.authority.count(node_id, owed[0])
            owed.pop(0)


@dataclass(frozen=True, eq=False)
class Ask:
    """One step's claims, as the authority is asked for a key that tests them.

    Attributes
    ----------
    stated : Stated
        The functions, and the rows of the step's batch.
    values : integers, shape (b, k)
        Their values as claimed, by row.
    sigma : list of int
        The server's weight of each row.
    seed : bytes
        The server's part in the weights of the functions.
    """

    stated: Stated
    values: npt.NDArray[Any]
    sigma: list[int]
    seed: bytes

    @classmethod
    def about(cls, root: bytes, step: StepClaims) -> Ask:
        """Draw the weights and the seed, now that the claims are in."""
        functions, values = step.layer.functions(step.kernels, step.outputs)
        units = 0 if step.layer.spatial else step.layer.outputs  # a convolution has disclosed everything already
        stated = Stated(root, step.rows, functions, units, bool(step.layer.spatial))
        return cls(stated, values, positive(len(values), SIGMA_BITS).tolist(), secrets.token_bytes(32))

    def claim(self, ciphertexts: Mapping[int, ipfe.Ciphertext], key: CheckKey) -> ipfe.Claim:
        """What the key is to test: the values, combined as it is, of the rows' weighted sum."""
        combined = zip(
            self.sigma, combine_values(weights(key.seed, len(self.stated.functions)), self.values), strict=True
        )
        rows = [ciphertexts[row] for row in self.stated.rows]
        return ipfe.Claim(rows, self.sigma, key.key, sum(s * v for s, v in combined))


def combine_values(rho: Sequence[int], values: npt.NDArray[Any]) -> list[int]:
    """``values @ rho``, exactly."""
    return [sum(r * v for r, v in zip(rho, row, strict=True)) for row in values.tolist()]


def positive(count: int, bits: int) -> Integers:
    """Random integers in [1, 2^bits), from the operating system. Not zero: that would overlook a single wrong entry."""
    draw = np.frombuffer(secrets.token_bytes(8 * count), "<u8") % (2**bits - 1)
    return np.asarray(draw.astype(np.int64) + 1)


class EncryptedBond:
    """The device's side."""

    tells_all = True

    def accept(self, device: Device, asked: Enrol, width: int) -> tuple[Group, bytes]:
        signed, group = SignedPublicKey.from_bytes(asked.parameters), open_group(asked.group)
        if device.authority is not None:
            signed.verify(device.authority, asked.node_id, group, width)
        elif (n := ipfe.PublicKey.from_bytes(group, signed.public).n) != width:
            raise ArgumentValueError(f"expected a public key for {width} values, got one for {n}")
        return group, signed.public

    def bind(self, device: Device, group: Group, parameters: bytes, rows: npt.NDArray[np.int64]) -> Bytes:
        public, done = ipfe.PublicKey.from_bytes(group, parameters), []
        for start in range(0, len(rows), _CHUNK):
            for ciphertext in ipfe.encrypt_rows(public, rows[start : start + _CHUNK]):
                done.append(np.frombuffer(groups.encode(group, ciphertext.points), np.uint8))
            device.progress(min(start + _CHUNK, len(rows)), len(rows))
        return np.stack(done)

    def check(self, device: Device, registration: Registration, asked: Challenge) -> None:
        """Make sure that the pinned authority has registered this set under this device's own key.

        Raises
        ------
        WireError
            Nothing must leave the device: keys for its ciphertexts may be counted for somebody else.
        """
        message = registration.receipt(asked.key)
        if device.authority is not None and not verify_signature(device.authority, asked.receipt, message):
            raise WireError("expected the authority's receipt for this device's data, got another: refused")

    def prove(
        self,
        device: Device,
        group: Group,
        asked: Challenge,
        claims: Sequence[StepClaims],
        samples: npt.NDArray[np.integer],
        bound: Mapping[int, bytes],
    ) -> Bytes:
        return np.zeros((len(claims), 0), np.uint8)  # the server tests them by itself
