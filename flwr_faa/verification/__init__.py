"""Verification: the training contract, what travels, and the verifiers. The verifiers load when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr_faa.verification.paper import Paper
    from flwr_faa.verification.plan import TrainingPlan
    from flwr_faa.verification.replay import Replay
    from flwr_faa.verification.spotcheck.verifier import SpotCheck

_HOME = {
    "Paper": "flwr_faa.verification.paper",
    "Replay": "flwr_faa.verification.replay",
    "SpotCheck": "flwr_faa.verification.spotcheck.verifier",
    "TrainingPlan": "flwr_faa.verification.plan",
}

__all__ = ["Paper", "Replay", "SpotCheck", "TrainingPlan"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
