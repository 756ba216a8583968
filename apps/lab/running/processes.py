"""Processes that this one starts: their environment, their ports, and how they and their children are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[3]
#: Between asking to end and killing.
END_SECONDS = 5.0


def environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's programs: an FLWR_HOME of their own, no telemetry, no silent installation.

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


def launch(command: list[str], env: Mapping[str, str], output: IO[Any]) -> subprocess.Popen[bytes]:
    """Start a program in the background, in this checkout."""
    return subprocess.Popen(
        command,
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
    )


def end_on_sigterm() -> None:
    """Make SIGTERM an orderly end of this process, by SystemExit, with the processes it started.

    Only the first one: ``timeout`` and ``make`` send several, and another SystemExit would cut off the cleaning up.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def end(processes: Iterable[subprocess.Popen[Any]]) -> None:
    """Ask processes and all their descendants to end; kill those that have not ended after a while."""
    started = list(processes)
    running = [p.pid for p in started if p.poll() is None]
    mine = [pid for parent in running for pid in [*descendants(parent), parent]]
    deadline = time.monotonic() + END_SECONDS
    try:  # from the first one told on: an interruption may follow at once
        for pid in mine:
            _signal(pid, signal.SIGTERM)
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in mine):
            for process in started:
                process.poll()
            time.sleep(0.1)
    finally:
        for pid in mine:
            _signal(pid, signal.SIGKILL)
        for process in started:
            process.wait()


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill -9 a process and all its descendants at once, as a power cut would."""
    for pid in [process.pid, *descendants(process.pid)]:
        _signal(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process, the youngest first; some of Flower's have a session of their own."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:  # "pid (name) state parent ..."; the name may hold anything
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    generation = [pid]
    while generation := [child for parent in generation for child in children.get(parent, [])]:
        found = generation + found
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)
