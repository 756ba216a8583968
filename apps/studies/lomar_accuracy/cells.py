"""Cells of LoMar's tables of final accuracy: what is run, and what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from apps.lab.config import load
from apps.lab.papers.experiments import meaning
from apps.lab.recording.record import Record
from apps.lab.running.direct import run_directly
from apps.lab.running.fleet import Fleet
from apps.studies.command import key_by

#: Names of conf/experiment/axes.yaml.
FLIPS = ("flip, pure", "flip, mixed", "flip, boosted", "flip, stealthy")
ATTACKS = ("none", *FLIPS, "Gaussian", "sign flip", "ALIE z_max", "clones")
#: Four steps a round on the 4,000 training images, whichever the number of clients.
STEPS = {20: "", 100: "model.batch_size=20 model.epochs=2"}


@dataclass(frozen=True)
class AccuracyCell:
    """One run."""

    dataset: str
    model: str
    clients: int
    partition: str
    attack: str
    share: float
    strategy: str
    seed: int
    rounds: int

    @property
    def overrides(self) -> str:
        partition, attack = meaning("partition", self.partition), meaning("attack", self.attack)
        return (
            f"dataset={self.dataset} model={self.model} {STEPS[self.clients]} clients={self.clients} {partition} "
            f"{attack} attack.share={self.share} strategy={self.strategy} seed={self.seed} rounds={self.rounds}"
        )


key_of = key_by(AccuracyCell)


def run(cell: AccuracyCell) -> Record:
    """Run one cell."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return run_directly(Fleet.of(load(cell.overrides)))


def run_accuracy(cell: AccuracyCell) -> dict[str, Any]:
    """Run one cell and return what is kept of it, ready for JSON.

    Returns
    -------
    dict
        The cell's own fields; ``accuracy`` and ``source``, of the last round, the second on the label that is flipped
        (None where none is); ``malicious_left_out`` and ``honest_left_out``, shares of the valid updates that were not
        averaged, over all rounds (None where there were none); ``honest_banned``, how many clients.
    """
    record = run(cell)
    banned = {v.node_id for v in verdicts(record, malicious=False) if v.banned}
    return {
        **asdict(cell),
        "accuracy": record.accuracy[-1],
        "source": record.labels[-1]["source"] if record.labels else None,
        "malicious_left_out": _left_out(record, malicious=True),
        "honest_left_out": _left_out(record, malicious=False),
        "honest_banned": len(banned),
    }


def verdicts(record: Record, malicious: bool) -> Iterable[Any]:
    """Return the verdicts on the valid updates of one kind of client, over all rounds."""
    kind = {node: record.census.about(node)["malicious"] for node in record.census.partitions}
    return (v for r in record.reports for v in r.nodes if kind[v.node_id] is malicious and v.score is not None)


def _left_out(record: Record, malicious: bool) -> float | None:
    left_out = [not v.accepted for v in verdicts(record, malicious)]
    return sum(left_out) / len(left_out) if left_out else None
