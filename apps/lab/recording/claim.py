"""A lock on a run's folder, so that only one run writes to it, also among several processes.

The lock is on the folder's ``config.yaml``, since the ledger has a lock of its own on the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from apps.lab.check import ConfigError
from flwr_faa import private


class Claim:
    """Makes a folder if needed, and holds it until it is closed or the process ends, however it ends.

    Parameters
    ----------
    folder : path

    Raises
    ------
    ConfigError
        If another run holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            private.folder(folder)
            self._lock: int | None = os.open(private.file(folder / "config.yaml"), os.O_RDWR)
        except OSError as error:
            raise ConfigError(
                f"expected run.dir to be a folder that can be written to, got {folder}: {error}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigError(f"expected run.dir to be a folder that no other run writes to, got {folder}") from error

    def close(self, keep: bool) -> None:
        """Let go of the folder. Without ``keep`` it is removed if this run made it."""
        if self._lock is None:
            return
        if not keep and self._folder in self._made:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # somebody else's files may be in them by now
                for path in self._made[1:]:
                    path.rmdir()
        os.close(self._lock)
        self._lock = None
