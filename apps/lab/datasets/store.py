"""Where data are kept: ``FAA_DATA``, by default a folder in the user's cache, with one ``.npz`` file per data set.

Reading such a file needs numpy alone, and never unpickles.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from apps.lab.datasets.base import Dataset
from flwr_faa.verification.training import Data

HELP = "see docs/how-to/data.md"


class DataMissingError(FileNotFoundError):
    """A data set is neither here nor to be fetched. The message says what to put where."""


def root() -> Path:
    """Return the environment's ``FAA_DATA``, or ``flwr-anomaly/data`` in the user's cache."""
    if named := os.environ.get("FAA_DATA"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flwr-anomaly" / "data"


def stored(name: str, make: Callable[[Path], Dataset], expected: str) -> Dataset:
    """Return a data set from its ``.npz`` file, which is made first if it is not there.

    Processes that want the same set at once wait for the first of them.

    Parameters
    ----------
    name : str
        Of the file.
    make : callable
        Fetches and converts the set; gets the folder to look and to work in.
    expected : str
        What to put by hand, and where in the folder; for the error.

    Raises
    ------
    DataMissingError
        If it cannot be made.
    """
    folder = root()
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                try:
                    dataset = make(folder)
                except (OSError, RuntimeError, ValueError, ImportError) as why:
                    raise DataMissingError(
                        f"expected {path.name}, or {expected}, in {folder} (FAA_DATA), or a way to fetch it; {HELP}. "
                        f"Got {type(why).__name__}: {why}"
                    ) from why
                _write(path, {"train": dataset.train, "test": dataset.test})
    return _read(path, path.stat().st_mtime_ns)


def _write(path: Path, parts: Mapping[str, Data]) -> None:
    """Write a file, or nothing: a killed process leaves no half file under the final name."""
    arrays: dict[str, Any] = {}
    for part, (samples, labels) in parts.items():
        arrays |= {f"{part}_samples": samples, f"{part}_labels": labels}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    draft.replace(path)


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> Dataset:
    """Read a set; the last two stay in memory. ``changed`` tells a new file from the old one."""
    with np.load(path, allow_pickle=False) as file:
        train, test = ((file[f"{part}_samples"], file[f"{part}_labels"]) for part in ("train", "test"))
    return Dataset(train, test)
