"""The authority behind its interface, and the one that runs in the server's process.

FAA-DL, Algorithm 1, lines 1-3: the trusted third party runs ``Setup`` and ``KeyDer``. In process it is trusted by
construction; a deployment runs it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flwr_faa.crypto import ipfe
from flwr_faa.crypto.groups import Group, open_group


class Authority(Protocol):
    """What server and clients need of the trusted third party."""

    @property
    def group(self) -> Group:
        """Where all its keys live."""
        ...

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        """The key under which a node encrypts vectors of this width."""
        ...

    def functional_keys(self, node_id: int, functions: Sequence[Sequence[int]]) -> list[ipfe.FunctionalKey]:
        """Keys that open these inner products of what the node encrypted."""
        ...


class LocalAuthority:
    """An authority in the server's process, for simulations. Keys are drawn per node and live as long as it does.

    Parameters
    ----------
    back_end : {"auto", "charm", "arkworks"}
        See :func:`flwr_faa.crypto.groups.open_group`.
    """

    def __init__(self, back_end: str = "auto") -> None:
        self.group = open_group(back_end)
        self._keys: dict[tuple[int, int], tuple[ipfe.PublicKey, ipfe.MasterKey]] = {}

    def __repr__(self) -> str:
        return f"LocalAuthority({self.group.name!r})"

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        return self._of(node_id, width)[0]

    def functional_keys(self, node_id: int, functions: Sequence[Sequence[int]]) -> list[ipfe.FunctionalKey]:
        return [ipfe.derive_key(self._of(node_id, len(y))[1], y) for y in functions]

    def _of(self, node_id: int, width: int) -> tuple[ipfe.PublicKey, ipfe.MasterKey]:
        if (node_id, width) not in self._keys:
            self._keys[node_id, width] = ipfe.setup(self.group, width)
        return self._keys[node_id, width]
