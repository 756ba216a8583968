"""LoMar: a density score for model updates, and who is too odd by it. Built on ``flwr_faa``.

Importing this package is cheap. NumPy, PyOD and Flower load when something that needs them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr_lomar.detector import LoMarDetector
    from flwr_lomar.strategy import LoMar

_HOME = {"LoMar": "flwr_lomar.strategy", "LoMarDetector": "flwr_lomar.detector"}

__all__ = ["LoMar", "LoMarDetector"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
