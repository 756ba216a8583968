"""``benchmarks/arm64.sh join``: a SuperNode on emulated arm64 takes part in a round, and answers a challenge.

One round of logistic regression over real processes in which everybody is challenged, with two SuperNodes of this
machine beside the emulated one. Prints the table of verdicts, how long the emulated node took over each message, and
the peak memory of its processes, emulator included; exit code 1 unless it was cleared.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from apps.field.federation import Federation
from apps.field.verdicts import nodes_of, rounds_of, table
from apps.lab.running.processes import descendants, end_on_sigterm, launch
from flwr_faa.report import Outcome

EMULATED = "emulated"
#: For a phase of the round: the emulated node imports everything anew for every message.
SECONDS = 1200
PROGRAMS = re.compile(r"flower-supernode|flower-superexec|flwr-clientapp")
MESSAGE = re.compile(r"(Receiving|Sending): ([\w.]+) message")


class Mixed(Federation):
    """One whose last SuperNode runs in another system; the federation's folder lies in that system's root."""

    @property
    def root(self) -> Path:
        """Where that system lies."""
        return self.folder.parent

    def _start(self, name: str, arguments: Sequence[str], more: Mapping[str, str], role: str = "") -> None:
        if name != EMULATED:
            return super()._start(name, arguments, more, role)
        shell = [
            "/usr/bin/env",
            "-i",
            "-C",
            "/src",
            "HOME=/root",
            "PATH=/opt/faa/bin:/usr/bin:/bin",
            "OMP_NUM_THREADS=1",
        ]
        emulator = f"QEMU_CPU={os.environ['QEMU_CPU']}"
        inside = [word.removeprefix(str(self.root)) for word in arguments]
        with self.log(name).open("ab") as log:
            command = ["chroot", str(self.root), *shell, emulator, "python3", "-m", f"apps.field.{role}", *inside]
            self._processes[name] = launch(command, dict(os.environ), log)

    def programs(self) -> dict[int, str]:
        """Return the programs that run in that system, by pid."""
        parent = self._processes[EMULATED].pid
        found = {pid: PROGRAMS.findall(_read(pid, "cmdline")) for pid in [parent, *descendants(parent)]}
        return {pid: names[-1] for pid, names in found.items() if names}


class Watch:
    """When the emulated node received and sent what, and how much memory its programs took at most."""

    def __init__(self, field: Mixed) -> None:
        self.field = field
        self.peaks: dict[str, int] = {}
        self.messages: list[tuple[float, str, str]] = []

    def __call__(self) -> None:
        found = MESSAGE.findall(self.field.said(EMULATED))
        self.messages += [(time.monotonic(), *words) for words in found[len(self.messages) :]]
        for pid, name in self.field.programs().items():
            if peak := re.search(r"VmHWM:\s+(\d+) kB", _read(pid, "status")):
                self.peaks[name] = max(self.peaks.get(name, 0), int(peak[1]) // 1024)


def main(root: Path) -> int:
    """Run the round; return the exit code."""
    end_on_sigterm()
    console = Console(width=160, highlight=False)
    lab = "dataset=digits partition=iid model=logistic"
    with Mixed(root / "field", {"a": "", "b": "", EMULATED: ""}, lab, 60, 1.0) as field:
        began = time.monotonic()
        field.start_nodes()
        console.print(f"connected after {time.monotonic() - began:.0f} s")
        watch = Watch(field)
        told = f"api=message strategy=fe rounds=1 timeout={SECONDS} verification.enrol_timeout={SECONDS}"
        path = field.run("round", told, 4 * SECONDS, watch)
        nodes = {field.names[i]: node for i, node in nodes_of(path).items()}
        console.print(table(dict(sorted(nodes.items()))))
        for (start, _, kind), (end, _, _) in zip(watch.messages[::2], watch.messages[1::2], strict=False):
            console.print(f"{EMULATED}: {kind} answered after {end - start:.0f} s")
        for name, peak in sorted(watch.peaks.items()):
            console.print(f"{EMULATED}: {name} took at most {peak} MB")
        cleared = [Outcome.CLEARED in node.outcomes for name, node in nodes.items() if name == EMULATED]
        return 0 if len(rounds_of(path)) == 1 and cleared == [True] else 1


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
