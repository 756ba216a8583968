"""The peers' rules: ByzFL, byzpy, krum and qora-fl, in an environment of their own that sees this project's packages.

None of them is a dependency. They are installed into the user's cache, without what they depend on: NumPy and torch are
the project's, so all rules run on the same ones. What does not install or import is named with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("byzfl", "byzpy", "krum", "qora-fl")
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flwr-anomaly" / "peers"
Rules = dict[str, Callable[[], object]]


def environment() -> Path:
    """Return the interpreter of the peers' environment, which is made if it is not there (a minute)."""
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True, clear=True)
        found = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        Path(found.stdout.strip(), "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for package in PACKAGES:
            # krum asks for Python 3.12, which its rules do without.
            wanted = ["install", "--quiet", "--no-deps", "--ignore-requires-python", package]
            if subprocess.run([python, "-m", "pip", *wanted], check=False).returncode:
                print(f"{package} did not install", file=sys.stderr)
    return python


def rules(x: npt.NDArray[np.float32], f: int) -> tuple[Rules, dict[str, str]]:
    """Return the peers' rules on a matrix, one update a row, of which f may be malicious; and who is missing, and why.

    Each gets the updates in the form that it works on; nothing is copied for it.
    """
    found, missing = Rules(), dict[str, str]()
    for package, make in (("byzfl", _byzfl), ("byzpy", _byzpy), ("krum", _krum), ("qora-fl", _qora)):
        try:
            found |= {f"{package} {version(package)} {name}": act for name, act in make(x, f).items()}
        except (ImportError, OSError, SyntaxError) as error:
            missing[package] = f"{type(error).__name__}: {error}"
    return found, missing


def _byzfl(x: npt.NDArray[np.float32], f: int) -> Rules:
    byzfl, torch = import_module("byzfl"), import_module("torch")
    t = torch.from_numpy(x)
    return {
        "Krum": lambda: byzfl.Krum(f=f)(t),
        "MultiKrum": lambda: byzfl.MultiKrum(f=f)(t),
        "median": lambda: byzfl.Median()(t),
        "trimmed mean": lambda: byzfl.TrMean(f=f)(t),
    }


def _byzpy(x: npt.NDArray[np.float32], f: int) -> Rules:
    geometric = import_module("byzpy.aggregators.geometric_wise")
    coordinates, torch = import_module("byzpy.aggregators.coordinate_wise"), import_module("torch")
    arrays, tensors = list(x), list(torch.from_numpy(x))
    return {
        "Krum": lambda: geometric.Krum(f=f).aggregate(arrays),
        "MultiKrum": lambda: geometric.MultiKrum(f=f, q=len(x) - f).aggregate(arrays),
        "median": lambda: coordinates.CoordinateWiseMedian().aggregate(tensors),
        "trimmed mean": lambda: coordinates.CoordinateWiseTrimmedMean(f=f).aggregate(tensors),
    }


def _krum(x: npt.NDArray[np.float32], f: int) -> Rules:
    def rule(name: str) -> Any:
        return getattr(import_module(f"krum.primitives.aggregators.{name.lower()}"), name)

    krum, multikrum = rule("Krum"), rule("MultiKrum")
    median = import_module("krum.primitives.aggregators.median").Median
    trimmed = import_module("krum.primitives.aggregators.trimmed_mean").TrimmedMean
    t, n = import_module("torch").from_numpy(x), len(x)
    return {
        "Krum": lambda: krum.aggregate(t, n=n, f=f),
        "MultiKrum": lambda: multikrum.aggregate(t, n=n, f=f, m=n - f - 2),
        "median": lambda: median.aggregate(t),
        "trimmed mean": lambda: trimmed.aggregate(t, n=n, f=f),
    }


def _qora(x: npt.NDArray[np.float32], f: int) -> Rules:
    qora, rows = import_module("qora"), [row[None] for row in x]
    names = {
        "Krum": f"krum:{f}",
        "MultiKrum": f"multi_krum:{f}:{len(x) - 2 * f - 2}",
        "median": "median",
        "trimmed mean": "trimmed_mean",
    }
    return {
        name: lambda method=method: qora.ByzantineAggregator(method, f / len(x)).aggregate(rows)  # type: ignore[misc]
        for name, method in names.items()
    }
