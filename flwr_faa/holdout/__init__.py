"""Held-out data on the server: they tell which updates help, and nothing of who is guilty."""

from flwr_faa.holdout.base import Holdout

__all__ = ["Holdout"]
