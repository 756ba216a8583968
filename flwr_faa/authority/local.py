"""The authority behind its interface, and the one that runs in the server's process.

FAA-DL, Algorithm 1, lines 1-3: the trusted third party runs ``Setup`` and ``KeyDer``. In process it is trusted by
construction; a deployment runs it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flwr_faa.authority.registration import Account, Disclosure, Refused, Registration
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.groups import Group, open_group

#: Share of a sample's dimensions that may be disclosed over its lifetime. A judgement, not a theorem.
BUDGET = 0.25


class Authority(Protocol):
    """What server and clients need of the trusted third party."""

    @property
    def group(self) -> Group:
        """Where all its keys live."""
        ...

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        """The key under which a node encrypts vectors of this width."""
        ...

    def register(self, node_id: int, registration: Registration) -> None:
        """Take note of a node's encrypted data set; the same one again changes nothing, another one is counted.

        Raises
        ------
        Refused
            Malformed, not signed by the node, or signed with another key than before.
        """
        ...

    def functional_keys(
        self,
        node_id: int,
        functions: Sequence[Sequence[int]],
        *,
        root: bytes | None = None,
        rows: Sequence[int] = (),
        disclosed: Sequence[Sequence[int]] = (),
    ) -> list[ipfe.FunctionalKey]:
        """Keys that open these inner products of what the node encrypted.

        Parameters
        ----------
        node_id : int
        functions : sequence of integer vectors
        root : bytes, optional
            The registered data set that they are for; without it nothing is counted (the ``paper`` mode).
        rows : sequence of int
            The samples concerned.
        disclosed : sequence of integer vectors
            Functions whose values the node tells in the clear. They count like keys.

        Raises
        ------
        BudgetExceeded
            Some sample's budget does not cover it; no key is issued.
        Refused
            No such registered data set or sample.
        """
        ...

    def disclosure(self, node_id: int) -> Disclosure:
        """How much of the node's registered data set is known. Raises Refused if there is none."""
        ...


class LocalAuthority:
    """An authority in the server's process, for simulations. Keys are drawn per node and live as long as it does.

    Parameters
    ----------
    back_end : {"auto", "charm", "arkworks"}
        See :func:`flwr_faa.crypto.groups.open_group`.
    budget : float
        Share of a sample's dimensions that may be disclosed over its lifetime; 1 is all of it.
    """

    def __init__(self, back_end: str = "auto", budget: float = BUDGET) -> None:
        if not 0 < budget <= 1:
            raise ValueError(f"expected a budget above 0 and at most 1, got {budget}")
        self.group, self.budget = open_group(back_end), budget
        self._keys: dict[tuple[int, int], tuple[ipfe.PublicKey, ipfe.MasterKey]] = {}
        self._registered: dict[int, list[Registration]] = {}
        self._accounts: dict[tuple[int, bytes], Account] = {}

    def __repr__(self) -> str:
        return f"LocalAuthority({self.group.name!r}, budget={self.budget})"

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        return self._of(node_id, width)[0]

    def register(self, node_id: int, registration: Registration) -> None:
        if not 1 <= registration.width <= ipfe.MAX_WIDTH:
            raise Refused(f"expected a width of 1 to {ipfe.MAX_WIDTH}, got {registration.width}")
        public, width = self.public_key(node_id, registration.width), registration.width
        registration.check(node_id, public.to_bytes(), width)
        known = self._registered.setdefault(node_id, [])
        if known and known[-1].verify_key != registration.verify_key:
            raise Refused(f"expected the key that node {node_id} registered with before, got another")
        if not known or known[-1].root != registration.root:
            known.append(registration)
        # An account is found again by its root: going back to an old data set does not reset it.
        budget = int(self.budget * width)
        self._accounts.setdefault((node_id, registration.root), Account(width, budget, [0] * registration.samples))

    def functional_keys(
        self,
        node_id: int,
        functions: Sequence[Sequence[int]],
        *,
        root: bytes | None = None,
        rows: Sequence[int] = (),
        disclosed: Sequence[Sequence[int]] = (),
    ) -> list[ipfe.FunctionalKey]:
        if root is not None:
            registration = self._registration(node_id)
            if registration.root != root:
                raise Refused(f"expected the data set that node {node_id} registered, got another")
            if any(len(y) != registration.width for y in (*functions, *disclosed)):
                raise Refused(f"expected functions of {registration.width} values, got others")
            self._accounts[node_id, root].spend(tuple(rows), len(functions) + len(disclosed))
        return [ipfe.derive_key(self._of(node_id, len(y))[1], y) for y in functions]

    def disclosure(self, node_id: int) -> Disclosure:
        root = self._registration(node_id).root
        return self._accounts[node_id, root].report(len(self._registered[node_id]))

    def _registration(self, node_id: int) -> Registration:
        if not self._registered.get(node_id):
            raise Refused(f"expected a registered data set of node {node_id}, got none")
        return self._registered[node_id][-1]

    def _of(self, node_id: int, width: int) -> tuple[ipfe.PublicKey, ipfe.MasterKey]:
        if (node_id, width) not in self._keys:
            self._keys[node_id, width] = ipfe.setup(self.group, width)
        return self._keys[node_id, width]
