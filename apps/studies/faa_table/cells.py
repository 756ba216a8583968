"""The cells of the table: what is run, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Any

from apps.lab.config import load
from apps.lab.papers.experiments import meaning
from apps.lab.recording.record import Record
from apps.lab.running.local_run import run_locally

#: Names of conf/experiment/axes.yaml.
ATTACKS = ("Gaussian .1", "sign flip", "ALIE z_max", "ALIE z=1.5")
#: These hide well: what counts is the round in which the last attacker is banned.
HARD = ("sign flip of the update", "ALIE z_max, jitter")
DATASETS, SHARES, DETECTORS = ("digits", "mnist5k"), (0.1, 0.2, 0.3, 0.4), ("sequential", "ocsvm")


@dataclass(frozen=True)
class Cell:
    """One run."""

    dataset: str
    attack: str
    share: float
    detector: str
    verifier: str
    seed: int
    rounds: int

    @property
    def overrides(self) -> str:
        return (
            f"dataset={self.dataset} partition=shards {meaning('attack', self.attack)} attack.share={self.share} "
            f"seed={self.seed} rounds={self.rounds} strategy=faa detector={self.detector} verification={self.verifier}"
        )


def all_cells(verifier: str, seeds: int) -> Iterator[Cell]:
    """Yield every cell of the table, runs with the same yardstick next to each other.

    The OCSVM stands beside the default for its recall, which does not depend on the verifier: replay will do.
    """
    numbers, detectors = range(1, seeds + 1), DETECTORS if verifier == "replay" else DETECTORS[:1]
    for dataset, share, seed, attack, detector in product(DATASETS, SHARES, numbers, ATTACKS, detectors):
        yield Cell(dataset, attack, share, detector, verifier, seed, 20)
    for seed, attack in product(numbers, HARD):
        yield Cell("digits", attack, 0.4, "sequential", verifier, seed, 40)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run one cell and return what is kept of it, ready for JSON."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    record = run_locally(load(cell.overrides))
    kept = (
        "recall",
        "honest_convicted",
        "attackers_accepted",
        "final_accuracy",
        "verified_per_round",
        "rounds_to_ban_all",
    )
    return {
        **asdict(cell),
        **{key: record.summary[key] for key in kept},
        "attack_free": _attack_free(cell.dataset, cell.share, cell.seed, cell.rounds),
        "seconds": record.summary["seconds"]["total"],
        "verdicts": _digest(record),
    }


@cache
def _attack_free(dataset: str, share: float, seed: int, rounds: int) -> float:
    """Return the final accuracy of FedAvg of the same honest clients."""
    cell = Cell(dataset, "sign flip", share, "sequential", "none", seed, rounds)
    return run_locally(load(cell.overrides).with_choices(strategy="fedavg", attack="absent")).accuracy[-1]


def _digest(record: Record) -> str:
    """Return a text that is equal for two runs with the same verdict on every partition in every round."""
    partitions = record.census.partitions
    rounds = [sorted((partitions[v.node_id], v.verdict, v.accepted, v.banned) for v in r.nodes) for r in record.reports]
    return hashlib.blake2b(json.dumps(rounds).encode(), digest_size=8).hexdigest()
