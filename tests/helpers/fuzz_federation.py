"""``python -m tests.helpers.fuzz_federation --minutes 10``: whole federations with hostile clients among honest ones.

An episode is a run of a few rounds over the in-process grid, with real ClientApps of either API, one of the strategies
and one of the verifiers. Some nodes are hostile: whatever they are asked, to train, to enrol, to show evidence, to
evaluate, they answer with an honest reply that is changed structurally (``mutations.py``), with an older one, with an
error, or not at all. Afterwards every promise of the strategies is checked: the run is over, with a report a round; the
model is finite; no honest node's reply was refused or lost; with a verifier every honest node was accepted in every
round that did not fail closed, without one most of them.

Prints a line for each combination: episodes, failures, the time of a round relative to one without hostile nodes.
Exit code 1 if a promise was broken, a round took more than its share, or memory grew. ``--seed`` and ``--only`` have an
episode again.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.server import strategy as legacy_strategies
from flwr.serverapp import strategy as strategies

from flwr_faa import Policy, protect
from flwr_faa.authority import LocalAuthority
from flwr_faa.report import Outcome
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_lomar import LoMar
from flwr_lomar.legacy import LoMar as LegacyLoMar
from tests.helpers.federation import RUNNERS
from tests.helpers.federation import Outcome as Run
from tests.helpers.mutations import mutate
from tests.helpers.toy import NARROW

NODES, HOSTILE, ROUNDS = 7, 2, 2
APIS, DEFENCES = tuple(RUNNERS), ("FAADL", "LoMar", "protect(FedAvg)", "protect(FedAdam)")
PLAN = replace(NARROW, scale=1 / 16)
VERIFIERS = ("none", "Replay", "Paper", "SpotCheck")
#: A round may take this many times what one without hostile nodes takes, and so many seconds more.
TIMES, SECONDS = 5.0, 2.0
#: Bytes by which memory may grow once every combination has run a few times.
GROWTH = 64 * 2**20
#: What a verifier or a detector may make of an honest node; REJECTED and MISSING are for what it never did.
HONEST = {Outcome.TRUSTED, Outcome.CLEARED, Outcome.REMOVED, Outcome.EXHAUSTED, Outcome.DROPPED}


class Broken(AssertionError):  # noqa: N818 - a promise, not an error
    """A promise of a strategy that an episode broke."""


@dataclass(frozen=True)
class Episode:
    """What is run against what, from one seed."""

    api: str
    defence: str
    verifier: str
    seed: int

    def __str__(self) -> str:
        return f"{self.api} {self.defence} {self.verifier}"


def combinations(seed: int) -> Iterator[Episode]:
    """Every combination of API, strategy and verifier, again and again with other seeds."""
    while True:
        for api, defence, verifier in product(APIS, DEFENCES, VERIFIERS):
            if defence != "LoMar" or verifier == "none":
                yield Episode(api, defence, verifier, seed)
        seed += 1


def run(episode: Episode, folder: Path, hostile: int = HOSTILE) -> Run:
    """Run an episode; the first nodes are hostile."""

    def fault(partition: int) -> Callable[[Message], Message | None]:
        draw, earlier = random.Random(f"{episode} {episode.seed} {partition}"), list[RecordDict]()
        return lambda reply: mutate(reply, draw, earlier)

    # A client of the legacy API sends its loss as a metric; two that differ in it disagree about nothing else.
    more: dict[str, Any] = {"faults": {i: fault(i) for i in range(hostile)}, "nodes": NODES, "rounds": ROUNDS}
    verifier = verifier_of(episode.verifier)
    if episode.verifier == "SpotCheck":
        more["device"] = Device(folder, 1.0, progress=lambda done, total: None)
    own: dict[str, Any] = {"verifier": verifier, "seed": 3, "policy": Policy()}
    if episode.defence == "LoMar":
        own.pop("verifier")
        more["strategy_class"] = LoMar if episode.api == "message" else LegacyLoMar
    elif episode.defence != "FAADL":
        module = strategies if episode.api == "message" else legacy_strategies
        more["strategy_class"] = getattr(module, episode.defence[len("protect(") : -1])
        more["wrap"] = lambda strategy: protect(strategy, **own)
        return RUNNERS[episode.api](PLAN, **more)
    return RUNNERS[episode.api](PLAN, **more, **own)


def verifier_of(name: str) -> Any:
    if name == "none":
        return None
    if name == "Replay":
        return Replay(PLAN)
    if name == "Paper":
        return Paper(PLAN, (1, 8, 8))
    return SpotCheck(PLAN, authority=LocalAuthority("arkworks", 1.0), steps=1, max_value=16)


def check(episode: Episode, done: Run, hostile: int = HOSTILE) -> Counter[str]:
    """Whether every promise held; how often hostile nodes ended how."""
    if len(done.reports) != ROUNDS:
        raise Broken(f"expected {ROUNDS} reports, got {len(done.reports)}")
    if not all(np.isfinite(a).all() for a in done.arrays):
        raise Broken("expected a finite model, got one that is not")
    honest, fates = set(done.grid.node_ids[hostile:]), Counter[str]()
    for report in done.reports:
        mine = {v.node_id: v for v in report.nodes if v.node_id in honest}
        if mine.keys() != honest:
            raise Broken(f"round {report.round}: expected every honest node in it, got {len(mine)} of {len(honest)}")
        for verdict in mine.values():
            if verdict.verdict not in HONEST or verdict.banned:
                raise Broken(f"round {report.round}: an honest node is {verdict.verdict}: {verdict.reason}")
        kept = sum(v.accepted for v in mine.values())
        least = len(honest) if episode.verifier != "none" else len(honest) / 2
        if kept < least and not report.failed_closed:
            raise Broken(f"round {report.round}: {kept} of {len(honest)} honest nodes accepted")
        fates.update(str(v.verdict) for v in report.nodes if v.node_id not in honest)
    return fates


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz for a while and print a line for each combination; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.fuzz_federation")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="combinations whose name holds this text")
    told = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    until = time.monotonic() + 60 * told.minutes
    usual: dict[str, float] = {}
    ran, fates, slowest, bad = Counter[str](), Counter[str](), Counter[str](), list[str]()
    first, turns, seen = 0, 0, told.seed
    for episode in combinations(told.seed):
        if episode.seed != seen:
            gc.collect()
            seen, turns = episode.seed, turns + 1
            first = resident() if turns == 2 else first
            if time.monotonic() > until:
                break
        if told.only not in str(episode):
            continue
        name = str(episode)
        if name not in usual:
            usual[name], _ = _timed(episode, 0)
        try:
            took, found = _timed(episode, HOSTILE)
            fates += found
            slowest[name] = max(slowest[name], took / (TIMES * usual[name] + SECONDS))  # type: ignore[assignment]
        except Exception as error:  # noqa: BLE001 - the find
            bad.append(f"{name} seed {episode.seed}: {error!r}")
            print(bad[-1], file=sys.stderr, flush=True)
            if not isinstance(error, Broken):
                traceback.print_exc()
        ran[name] += 1
    grown = resident() - first if first else 0
    for name, count in ran.items():
        print(f"{name:32} {count:5d} episodes, slowest {slowest[name]:.2f} of its share")
        bad += [f"{name}: an episode took {slowest[name]:.2f} of its share"] * (slowest[name] > 1)
    print("hostile nodes:", ", ".join(f"{fate} {count}" for fate, count in fates.most_common()))
    memory = f"memory {resident() / 2**20:.0f} MB, {grown / 2**20:+.1f} MB since turn 2 of {turns}"
    print(f"{sum(ran.values())} episodes; {memory}")
    bad += [f"memory grew by {grown / 2**20:.1f} MB"] * (grown > GROWTH)
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


def _timed(episode: Episode, hostile: int) -> tuple[float, Counter[str]]:
    """CPU seconds of an episode, so that others at work on this machine count nothing."""
    with TemporaryDirectory() as folder:
        start = time.process_time()
        done = run(episode, Path(folder), hostile)
        took = time.process_time() - start
        return took, check(episode, done, hostile)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    sys.exit(main())
