"""FAA-DL for Flower: detect poisoned updates, verify the suspicion, remove them, and say afterwards why.

Importing this package is cheap: torch, pyod and Flower load when something that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr_faa.client import VerifiableClient, verifiable
    from flwr_faa.errors import FlwrAnomalyError
    from flwr_faa.holdout.base import Holdout
    from flwr_faa.ledger.store import Ledger
    from flwr_faa.policy import Policy
    from flwr_faa.protection import protect
    from flwr_faa.strategy import FAADL
    from flwr_faa.verification.plan import TrainingPlan
    from flwr_faa.verification.spotcheck.device import Device
    from flwr_faa.verification.spotcheck.verifier import SpotCheck

__version__ = "0.2.0"

_HOME = {
    "Device": "flwr_faa.verification.spotcheck.device",
    "FAADL": "flwr_faa.strategy",
    "FlwrAnomalyError": "flwr_faa.errors",
    "Holdout": "flwr_faa.holdout.base",
    "Ledger": "flwr_faa.ledger.store",
    "Policy": "flwr_faa.policy",
    "SpotCheck": "flwr_faa.verification.spotcheck.verifier",
    "TrainingPlan": "flwr_faa.verification.plan",
    "VerifiableClient": "flwr_faa.client",
    "protect": "flwr_faa.protection",
    "verifiable": "flwr_faa.client",
}

__all__ = [
    "Device",
    "FAADL",
    "FlwrAnomalyError",
    "Holdout",
    "Ledger",
    "Policy",
    "SpotCheck",
    "TrainingPlan",
    "VerifiableClient",
    "protect",
    "verifiable",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
