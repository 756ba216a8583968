"""Runs of the study: what is run, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks import Backdoor
from apps.lab.config import load
from apps.lab.recording.record import Record
from apps.lab.running.direct import run_directly
from apps.lab.running.fleet import Fleet
from flwr_faa.replies.updates import Arrays

SEEDS = range(1, 6)
SHARES = (0.1, 0.2, 0.3, 0.4)
IMAGES = "dataset=mnist5k model=mlp clients=30 rounds=20"
DIGITS = "dataset=digits model=mlp clients=20 rounds=10"
PARTITIONS = {
    "two labels": "partition=shards",
    "lambda .5": "partition=lambda",
    "Dirichlet .1": "partition=dirichlet partition.alpha=0.1",
    "Dirichlet .5": "partition=dirichlet partition.alpha=0.5",
}
FLIPS = {
    "pure flip": "attack=label_flip",
    "mixed flip": "attack=label_flip attack.tau=null",
    "four pairs": "attack=label_flip_multi",
    "labels +1": "attack=label_shift",
}
#: The heat map's (conf/experiment/harder/heatmap.yaml).
POISONINGS = {
    "sign flip": "attack=sign_flip",
    "sign flip of the update": "attack=sign_flip_update",
    "ALIE": "attack=alie",
    "MinMax": "attack=min_max",
    "MinSum": "attack=min_sum",
    "IPM": "attack=ipm",
    "Mimic": "attack=mimic",
    "inside MultiView": "attack=evade_multiview",
    "inside OCSVM": "attack=evade_ocsvm",
    "inside LoMar": "attack=evade_lomar",
}
KNOWING = {
    "knows the samples": "attack=under_holdout",
    "knows the rule": "attack=under_holdout attack.knows=false",
    "backdoor": "attack=backdoor",
    "backdoor, a tenth": "attack=backdoor attack.part=0.1",
}
ATTACKS = {"nobody": "attack=none", "absent": "attack=absent", **FLIPS, **POISONINGS, **KNOWING}
#: Held-out data, by name.
HELD = {
    "100": "heldout.samples=100",
    "50": "heldout.samples=50",
    "20": "heldout.samples=20",
    "10": "heldout.samples=10",
    "100, 8 labels": "heldout.samples=100 heldout.labels=8",
    "100, 5 labels": "heldout.samples=100 heldout.labels=5",
    "100, 2 labels": "heldout.samples=100 heldout.labels=2",
    "100, half of one label": "heldout.samples=100 heldout.skew=0.5",
    "100, .7 of one label": "heldout.samples=100 heldout.skew=0.7",
    "100, .1 wrong": "heldout.samples=100 heldout.wrong=0.1",
    "100, .3 wrong": "heldout.samples=100 heldout.wrong=0.3",
    "100, .5 wrong": "heldout.samples=100 heldout.wrong=0.5",
    "100, .7 wrong": "heldout.samples=100 heldout.wrong=0.7",
}
#: Beside it: with held-out data, and without.
BESIDE = ("fltrust", "zenopp", "lomar", "median", "trimmed_mean", "multikrum", "fedavg")
#: The heat map's that ask nobody.
PASSIVE = (
    "fedavg", "norm_bounded", "centred_clipping", "trimmed_mean", "median", "geometric_median", "multikrum", "nnm",
    "dnc", "foolsgold", "oc", "lomar",
)  # fmt: skip


@dataclass(frozen=True)
class HoldoutCell:
    """One run."""

    part: str
    partition: str
    attack: str
    share: float
    held: str
    strategy: str
    seed: int

    @property
    def overrides(self) -> str:
        share = f"attack.share={self.share}" if self.share else ""
        size = DIGITS if self.part == "poisoning" else IMAGES
        return (
            f"{size} {PARTITIONS[self.partition]} {ATTACKS[self.attack]} {share} {HELD[self.held]} "
            f"strategy={self.strategy} seed={self.seed}"
        )


def cells() -> Iterator[HoldoutCell]:
    """All runs, the most telling first: a command that is stopped has those."""
    skewed = ("two labels", "lambda .5", "Dirichlet .1")
    flips = list(product(SEEDS, skewed, FLIPS, SHARES))
    # Nobody attacks, and the yardstick: the same honest clients, attackers absent.
    for seed, partition in product(SEEDS, skewed):
        for strategy in ("fedavg", "holdout"):
            yield HoldoutCell("nobody", partition, "nobody", 0.0, "100", strategy, seed)
        for share in SHARES:
            yield HoldoutCell("flips", partition, "absent", share, "100", "fedavg", seed)
    for seed, partition, attack, share in flips:
        yield HoldoutCell("flips", partition, attack, share, "100", "holdout", seed)
    yield from _once()
    yield from _beside(flip for flip in flips if flip[0] == SEEDS[0])
    for seed, partition, strategy in product(SEEDS, skewed, ("fltrust", "zenopp", "lomar")):
        yield HoldoutCell("nobody", partition, "nobody", 0.0, "100", strategy, seed)
    yield from _beside(flips)


def _once() -> Iterator[HoldoutCell]:
    """What one seed shows."""
    seed = SEEDS[0]
    # Held-out data as they should not be.
    for held in HELD:
        yield HoldoutCell("held", "two labels", "nobody", 0.0, held, "holdout", seed)
        yield HoldoutCell("held", "two labels", "pure flip", 0.3, held, "holdout", seed)
    # Who knows it.
    for partition in ("two labels", "Dirichlet .5"):
        yield HoldoutCell("knowing", partition, "absent", 0.3, "100", "fedavg", seed)
        for attack, strategy in product(KNOWING, ("holdout", "fltrust", "fedavg")):
            yield HoldoutCell("knowing", partition, attack, 0.3, "100", strategy, seed)
    # Model poisoning.
    for share, partition, attack in product((0.4, 0.2), ("Dirichlet .1", "Dirichlet .5"), POISONINGS):
        for strategy in ("faa_holdout", "fltrust", "zenopp", *PASSIVE):
            yield HoldoutCell("poisoning", partition, attack, share, "100", strategy, seed)


def _beside(flips: Iterable[tuple[int, str, str, float]]) -> Iterator[HoldoutCell]:
    for (seed, partition, attack, share), strategy in product(flips, BESIDE):
        yield HoldoutCell("flips", partition, attack, share, "100", strategy, seed)


@dataclass(frozen=True, eq=False)
class Watched(Fleet):
    """A fleet that remembers the last global model that was measured."""

    seen: list[Arrays] = field(default_factory=list, repr=False)

    def predict(self, arrays: Arrays) -> npt.NDArray[np.floating[Any]]:
        self.seen[:] = [arrays]
        return super().predict(arrays)


def run_cell(cell: HoldoutCell) -> dict[str, Any]:
    """Run one cell; what is kept of it, ready for JSON.

    Returns
    -------
    dict
        The cell's own fields; ``accuracy`` of the last round; ``malicious_left_out`` and ``honest_left_out``, shares
        of the valid updates over all rounds (None where there were none); ``triggered``, the share of the test images
        of other labels that a trigger has taken for the backdoor's (None without one).
    """
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    scenario = Watched.of(load(cell.overrides))
    record = run_directly(scenario)
    return {
        **asdict(cell),
        "accuracy": record.accuracy[-1],
        "malicious_left_out": _left_out(record, malicious=True),
        "honest_left_out": _left_out(record, malicious=False),
        "triggered": _triggered(scenario),
    }


def key_of(row: Any) -> tuple[Any, ...]:
    """Return the key of a cell, or of a line that came of it."""
    plain = asdict(row) if isinstance(row, HoldoutCell) else row
    return tuple(plain[name] for name in HoldoutCell.__dataclass_fields__)


def _left_out(record: Record, malicious: bool) -> float | None:
    kind = {node: record.census.about(node)["malicious"] for node in record.census.partitions}
    found = [
        not v.accepted for r in record.reports for v in r.nodes if kind[v.node_id] is malicious and v.score is not None
    ]
    return sum(found) / len(found) if found else None


def _triggered(scenario: Fleet) -> float | None:
    attack = scenario.attack
    if not isinstance(attack, Backdoor) or not isinstance(scenario, Watched):
        return None
    samples, labels = scenario.dataset.test
    others = labels != attack.target
    predicted = scenario.plan.predict(scenario.seen[0], attack.stamped(samples[others])).argmax(axis=1)
    return float(np.mean(predicted == attack.target))
