"""The authority in the server's process, for simulations: the same code over a store in memory."""

from __future__ import annotations

from flwr_faa.authority.budget import BUDGET
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.store import Store


class LocalAuthority(KeyAuthority):
    """An authority trusted by construction; a deployment runs it elsewhere (``faa-authority serve``).

    Keys live as long as it does. It also serves the paper's mode, which registers nothing; and simulated nodes, which
    share the key of their one machine, have a budget each.

    Parameters
    ----------
    back_end : {"auto", "charm", "arkworks"}
        See :func:`flwr_faa.crypto.backends.open_group`.
    budget : float, default 0.25
        Share of a sample's dimensions that may become known over its lifetime; 1 is all of it.
    """

    def __init__(self, back_end: str = "auto", budget: float = BUDGET) -> None:
        store = Store()
        self.create(store, back_end, budget)
        super().__init__(store, unregistered=True, simulation=True)

    def __repr__(self) -> str:
        return f"LocalAuthority({self.group.name!r}, budget={self.budget})"
