"""``python -m tests.verification.fuzz --minutes 10``: hostile messages to every reader, with their cost.

Aims at what ``targets.py`` lists, in turn, and prints for each how many messages it was sent, how many it refused, and
the slowest relative to the honest message's time and its own length. Exit code 1 if anything but the declared exception
came out, if a message took longer than its share, or if memory grew.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.verification.hostile import hostile, message, raw
from tests.verification.targets import Target, targets

#: CPU time: a message may take so many times what the honest one takes, and seconds a byte that it has more.
TIMES, SECONDS_A_BYTE = 10.0, 1e-4
#: Bytes by which memory may grow once every reader has been aimed at for a while.
GROWTH = 48 * 2**20
_BATCH = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz for a while and print a line for each reader; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.verification.fuzz")
    parser.add_argument("--minutes", type=float, default=10)
    until = time.monotonic() + 60 * parser.parse_args(arguments).minutes
    with TemporaryDirectory() as folder:
        aims = targets(Path(folder))
        counts = {name: [0.0, 0.0, 0.0] for name in aims}
        bad: list[str] = []
        first, turn = 0, 0
        while turn == 0 or time.monotonic() < until:
            for name, target in aims.items():
                start = time.process_time()
                whole = message(target.kind, [(n, raw(v)) for n, v in sorted(target.honest.items())])
                target.send(whole)
                usual = time.process_time() - start
                send = timed(target, usual, len(whole), counts[name])
                bare = settings(
                    max_examples=_BATCH if turn else 20, database=None, deadline=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                try:
                    seed(turn)(bare(given(hostile(target.kind, target.honest) | st.binary(max_size=99))(send)))()
                except Exception as error:  # noqa: BLE001 - the find
                    bad.append(f"{name}: {error!r}")
            turn += 1
            gc.collect()
            first = first or (resident() if turn == 3 else 0)
        grown = resident() - first if first else 0
    for name, (sent, refused, slowest) in counts.items():
        print(f"{name:24} {sent:7.0f} messages, {refused:7.0f} refused, slowest {slowest:.2f} of its share")
        bad += [f"{name}: a message took {slowest:.2f} of its share"] * (slowest > 1)
    print(f"memory: {resident() / 2**20:.0f} MB, {grown / 2**20:+.1f} MB since the third turn of {turn}")
    bad += [f"memory grew by {grown / 2**20:.1f} MB"] * (grown > GROWTH)
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


def timed(target: Target, usual: float, size: int, count: list[float]) -> Callable[[bytes], None]:
    """Sends a message and counts it: sent, refused, and the most of its share of time that any took."""

    def send(data: bytes) -> None:
        start = time.process_time()
        refused = target.survives(data) is None
        share = TIMES * usual + SECONDS_A_BYTE * max(0, len(data) - size) + 0.5
        count[0] += 1
        count[1] += refused
        count[2] = max(count[2], (time.process_time() - start) / share)

    return send


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    sys.exit(main())
