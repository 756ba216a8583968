"""``python -m apps.studies.remedies``: three ways not to harm honest clients whom nobody can ask, side by side.

A detector that suspects whoever is above |z| = 5 suspects honest clients in most rounds. What can be done with its
suspects: leave them out, as before; give them *less weight*, 5 / |z| of their own; leave them out from *the second
round* in a row on. Or suspect fewer: by a threshold that depends on the numbers of clients and views, and by what
matters (``FAADL()`` and ``LoMar()``, the defaults). Each runs through whole federations, attacked and not: digits, a
small MLP, 20 clients that all take part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks import Attack
from apps.lab.attacks.base import like
from apps.lab.config import load
from apps.lab.journal import Row
from apps.lab.markdown import decimal, markdown
from apps.lab.papers.experiments import meaning
from apps.lab.partitions.split import choose_malicious
from apps.lab.scenario import CONF
from apps.studies.command import attack_of, key_by, options_of, publish, results
from apps.studies.lomar_detection.cells import Round
from flwr_faa.detection import Detector, MultiView, as_detector
from flwr_faa.replies.updates import Arrays, Batch, Layout
from flwr_lomar import LoMarDetector

DOC = CONF.parent / "docs" / "results" / "false-alarms.md"
SEEDS, CLIENTS, ROUNDS = (1, 2, 3), 20, 15
#: What ``FAADL()`` suspected by before its threshold knew how many clients and views there are.
BEFORE = 5.0
#: Names of conf/experiment/axes.yaml; the attacks are those that README.md says are stopped.
PARTITIONS = ("iid", "sizes differ tenfold", "lambda .5", "two labels")
ATTACKS = ("Gaussian", "sign flip", "boosted", "ALIE z=1.5")
SHARES = (0.2, 0.4)

Weights = npt.NDArray[np.floating[Any]]
#: From a round's batch and the scores of the round before, empty in the first, what part of its weight each client
#: keeps, and the scores of this round.
Remedy = Callable[[Batch, Weights], tuple[Weights, Weights]]


def without(detector: Detector) -> Remedy:
    """Return the remedy that leaves a detector's suspects out."""

    def remedy(batch: Batch, _: Weights) -> tuple[Weights, Weights]:
        kept = np.ones(len(batch))
        kept[list(detector.detect(batch, 0).suspects)] = 0.0
        return kept, kept

    return remedy


def less_weight(batch: Batch, _: Weights) -> tuple[Weights, Weights]:
    """Huber's weights: 1 up to the threshold, and threshold / score above it."""
    scores = MultiView(BEFORE).detect(batch, 0).scores
    return BEFORE / np.maximum(scores, BEFORE), scores


def second_round(batch: Batch, last: Weights) -> tuple[Weights, Weights]:
    """Leave out who is above the threshold now and was so in the round before."""
    scores = MultiView(BEFORE).detect(batch, 0).scores
    odd = (scores > BEFORE) & (last > BEFORE) if last.size else np.zeros(len(scores), bool)
    return 1.0 - odd, scores


#: "absent": FedAvg of the same honest clients, the yardstick.
REMEDIES: dict[str, Remedy | None] = {
    "absent": None,
    "FedAvg": lambda batch, last: (np.ones(len(batch)), last),
    "left out above 5": without(MultiView(BEFORE)),
    "less weight": less_weight,
    "second round": second_round,
    "FAADL()": without(MultiView()),
    "LoMar()": without(as_detector(LoMarDetector())),
}


@dataclass(frozen=True)
class Cell:
    """One federation."""

    partition: str
    attack: str
    share: float
    remedy: str
    seed: int
    rounds: int = ROUNDS


key_of = key_by(Cell)


def cells() -> Iterator[Cell]:
    """Return all federations, seed by seed."""
    attacked = [("none", 0.0), *product(ATTACKS, SHARES)]
    for seed, partition, (attack, share), remedy in product(SEEDS, PARTITIONS, attacked, REMEDIES):
        if share or remedy != "absent":
            yield Cell(partition, attack, share, remedy, seed)


def run(cell: Cell) -> Row:
    """Run a federation.

    Returns
    -------
    dict
        The cell's fields; ``accuracy`` of the last round on the test samples; ``honest_lost`` and ``attackers_lost``,
        which part of their weight the two kinds of client lost over all rounds (None where there are none).
    """
    partition = meaning("partition", cell.partition)
    scenario = load(f"dataset=digits model=mlp clients={CLIENTS} {partition} seed={cell.seed}")
    labels, sizes = scenario.dataset.train[1], np.array([len(rows) for rows in scenario.partitions], float)
    chosen = choose_malicious(scenario.partitions, labels, cell.share, cell.seed) if cell.share else frozenset()
    malicious = np.isin(np.arange(CLIENTS), list(chosen))
    attack = replace(attack_of(cell.attack), share=cell.share) if cell.share else Attack()
    remedy = REMEDIES[cell.remedy]
    model: Arrays = scenario.plan.initial_arrays(cell.seed)
    layout, kept = Layout.of(model), list[Weights]()
    scores: Weights = np.empty(0)
    for number in range(1, cell.rounds + 1):
        one = Round(scenario, number, model)
        updates = one.honest()
        if remedy is None:
            kept.append(1.0 - malicious)
        else:
            updates = one.attacked(updates, attack, sorted(chosen))
            now, scores = remedy(Batch(tuple(range(CLIENTS)), updates, sizes, layout, {}), scores)
            kept.append(now)
        # FedAvg's weights, by samples, of what is left.
        alpha = sizes * kept[-1] / (sizes @ kept[-1])
        step = alpha @ np.where(alpha[:, None] > 0, updates, 0.0)
        model = [like(w + step[part].reshape(w.shape), w) for w, part in zip(model, layout.layers, strict=True)]
    samples, labels = scenario.dataset.test
    lost = 1.0 - np.mean(kept, axis=0)
    return {
        **asdict(cell),
        "accuracy": float(np.mean(scenario.plan.predict(model, samples).argmax(axis=1) == labels)),
        "honest_lost": float(lost[~malicious].mean()),
        "attackers_lost": float(lost[malicious].mean()) if chosen else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; return the exit code."""
    options = options_of("remedies", __doc__, "runs/remedies.jsonl").parse_args(arguments)
    publish("\n".join(tables(results(options, cells(), run, key_of))), DOC, "remedies", options.write)
    return 0


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what honest clients lose when nobody attacks, and what accuracy is left when somebody does."""
    shown = [name for name in REMEDIES if name != "absent"]

    def percent(figure: str, digits: int = 1, **having: Any) -> str:
        found = [row[figure] for row in rows if all(row[key] == value for key, value in having.items())]
        return decimal(100 * mean(found) if found else None, digits)

    def pair(lost: str, digits: int, **having: Any) -> str:
        return f"{percent('accuracy', **having)} / {percent(lost, digits, **having)}"

    partitions = list(dict.fromkeys(row["partition"] for row in rows))
    count = len({row["seed"] for row in rows})
    seeds = f"{count} seed{'s' * (count != 1)}"
    body = [[p, *(pair("honest_lost", 1, share=0.0, partition=p, remedy=r) for r in shown)] for p in partitions]
    yield markdown(f"Nobody attacks, {seeds}: accuracy / weight that honest clients lose, %", ["data", *shown], body)
    for partition in partitions:
        body = []
        for attack, share in dict.fromkeys((row["attack"], row["share"]) for row in rows if row["share"]):
            cell = {"partition": partition, "attack": attack, "share": share}
            figures = [pair("attackers_lost", 0, remedy=name, **cell) for name in shown]
            body.append([attack, f"{share:g}", percent("accuracy", remedy="absent", **cell), *figures])
        title = f"{partition}, attacked, {seeds}: accuracy / weight that attackers lose, %"
        yield markdown(title, ["attack", "share", "attackers absent", *shown], body)


if __name__ == "__main__":
    sys.exit(main())
