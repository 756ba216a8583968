"""What the server has decided, kept in a file: written by strategies, read by people."""

from flwr_faa.ledger.store import Ledger

__all__ = ["Ledger"]
