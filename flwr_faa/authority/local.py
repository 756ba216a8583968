"""The authority in the server's process, for simulations: the same code over a store in memory."""

from __future__ import annotations

from flwr_faa.authority.core import SHARE, KeyAuthority
from flwr_faa.authority.store import Store


class LocalAuthority(KeyAuthority):
    """An authority trusted by construction; a deployment runs it elsewhere (``faa-authority serve``).

    Keys live as long as it does. It also serves the paper's mode, which registers nothing.

    Parameters
    ----------
    back_end : {"auto", "charm", "arkworks"}
        See :func:`flwr_faa.crypto.groups.open_group`.
    share : float, default 0.25
        Of a sample's dimensions that may become known.
    """

    def __init__(self, back_end: str = "auto", share: float = SHARE) -> None:
        store = Store()
        self.create(store, back_end, share)
        super().__init__(store, unregistered=True)

    def __repr__(self) -> str:
        return f"LocalAuthority({self.group.name!r})"
