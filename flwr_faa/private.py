"""Files and folders that only their owner can read, from the first moment and whatever the umask is."""

from __future__ import annotations

import os
from pathlib import Path


def folder(path: Path) -> Path:
    """Create a folder, and the parents that it lacks, with mode 0700; return it. One that exists stays as it is."""
    for missing in [p for p in path.parents if not p.exists()][::-1]:
        missing.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def file(path: Path) -> Path:
    """Create an empty file with mode 0600 where there is none; return its path.

    An existing file is not opened: SQLite's locks end as soon as the process closes any descriptor of its file.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path
