"""What the roles share: Flower's environment, and becoming one of its programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def environment(home: Path) -> dict[str, str]:
    """For Flower's programs: their own FLWR_HOME, no telemetry, nothing installed behind one's back.

    Parameters
    ----------
    home : Path
        Flower keeps apps and connections there.
    """
    programs = Path(sys.executable).parent  # the SuperLink and SuperNodes start others by name
    return {
        **os.environ,
        "FLWR_HOME": str(home.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }


def become(command: list[str], home: Path) -> NoReturn:
    """Replace this process by a program, so that who ends this one ends that one."""
    sys.stdout.flush()
    env = environment(home)
    os.execvpe(command[0], command, env)
