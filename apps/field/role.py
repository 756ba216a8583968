"""What the roles share: becoming one of Flower's programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from apps.lab.running.processes import environment


def become(command: list[str], home: Path) -> NoReturn:
    """Replace this process by a program, so that a signal to this process ends that program."""
    sys.stdout.flush()
    os.execvpe(command[0], command, environment(home))
