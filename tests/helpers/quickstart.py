"""The script that makes and checks the quickstarts, loaded from its folder, whose name is not a module's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: Path) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location("quickstart_check", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = load(Path(__file__).resolve().parents[2] / "apps/quickstart-check/check.py")
