"""``python -m apps.studies.false_alarms [--write]``: whom detection without verification suspects, and whom it finds.

First it counts false alarms among the honest clients of small federations: MNIST-5k, 50 samples per client on average,
batches of 16, two rounds that nobody attacks (one with a hundred clients, for the time it takes), of all clients or of
twenty drawn of a hundred, judged by the detectors that remove suspects unheard. Then it counts the attackers that the
same detectors find on digits. Beside them stands ``MultiView(threshold=5)``, the earlier default, which verification
still starts with.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from apps.lab.attacks import Attack
from apps.lab.config import load
from apps.lab.datasets import mnist5k
from apps.lab.journal import Row
from apps.lab.markdown import markdown
from apps.lab.models import cnn, mlp
from apps.lab.papers.experiments import meaning
from apps.lab.partitions.split import choose_malicious
from apps.lab.scenario import CONF
from apps.studies.command import attack_of, key_by, options_of, publish, results
from apps.studies.lomar_detection.cells import Round, rounds
from flwr_faa import TrainingPlan
from flwr_faa.detection import Detector, MultiView, as_detector
from flwr_faa.pipeline import Pipeline
from flwr_faa.replies.updates import Arrays, Batch, Layout, Reply, read_replies
from flwr_lomar import LoMarDetector

DOC = CONF.parent / "docs" / "results" / "false-alarms.md"
SEEDS, ROUNDS, SAMPLES = 5, 2, 50
#: How many clients take part in a round, and of how many.
FEDERATIONS = ((3, 3), (5, 5), (10, 10), (20, 20), (20, 100), (100, 100))
SHAPE, CLASSES = (1, 28, 28), 10
PLANS = {
    "MLP": TrainingPlan(partial(mlp, SHAPE, CLASSES), 0.1, 16),
    "BatchNorm CNN": TrainingPlan(partial(cnn, SHAPE, CLASSES, True), 0.05, 16),
}
#: Names of conf/experiment/axes.yaml.
PARTITIONS = ("iid", "sizes differ tenfold", "lambda .5", "two labels")
FLIPS, ALIES = ("sign flip", "sign flip of the update"), ("ALIE z_max", "ALIE z=1.5", "jittered ALIE")
ATTACKS = ("Gaussian", *FLIPS, *ALIES, "boosted", "label flip, pure")
#: What removes suspects unheard, ``FAADL()`` and ``LoMar()``; and what did before.
DEFAULTS: dict[str, Detector] = {"FAADL()": MultiView(), "LoMar()": as_detector(LoMarDetector())}
DETECTORS = DEFAULTS | {"before": MultiView(threshold=5)}
SHARES = (0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Cell:
    """A federation: nobody attacks its rounds, or every attack is tried on its last."""

    attacked: bool
    model: str
    partition: str
    drawn: int
    clients: int
    seed: int

    @property
    def named(self) -> str:
        """How many clients take part."""
        return f"n = {self.clients}" if self.drawn == self.clients else f"{self.drawn} of {self.clients}"


key_of = key_by(Cell)


def cells(seeds: int, quick: bool = False) -> Iterator[Cell]:
    """Return all federations, the small ones first."""
    models, federations = (list(PLANS), FEDERATIONS) if not quick else (["MLP"], ((3, 3), (10, 10)))
    for (drawn, clients), model, partition, seed in product(federations, models, PARTITIONS, range(seeds)):
        yield Cell(False, model, partition, drawn, clients, seed)
    for n, partition, seed in product((10,) if quick else (10, 20), ("iid", "two labels"), range(1, seeds + 1)):
        yield Cell(True, "MLP", partition, n, n, seed)


def run(cell: Cell) -> Row:
    """Count what the detectors say.

    Returns
    -------
    dict
        The cell's fields and ``counts``, a list for each detector, or, attacked, for each detector and attack:
        suspects and honest clients; attacked also attackers found and attackers.
    """
    return {**asdict(cell), "counts": _attacked(cell) if cell.attacked else _quiet(cell)}


def _quiet(cell: Cell) -> dict[str, list[int]]:
    found = {name: np.zeros(2, int) for name in DETECTORS}
    for batch in honest_rounds(cell.model, cell.partition, cell.drawn, cell.clients, cell.seed):
        for name, detector in DETECTORS.items():
            found[name] += suspected(detector, batch).sum(), cell.drawn
    return {name: [int(n) for n in counted] for name, counted in found.items()}


def _attacked(cell: Cell, attacks: Sequence[str] = ATTACKS) -> dict[str, dict[str, list[int]]]:
    partition = meaning("partition", cell.partition)
    scenario = load(f"dataset=digits clients={cell.clients} {partition} seed={cell.seed}")
    *_, (one, honest) = rounds(scenario, 1 + cell.seed % 2)
    found = {name: {attack: np.zeros(4, int) for attack in attacks} for name in DETECTORS}
    for attack, share in product(attacks, SHARES):
        malicious = choose_malicious(scenario.partitions, scenario.dataset.train[1], share, cell.seed)
        batch, odd = attacked(one, honest, replace(attack_of(attack), share=share), sorted(malicious))
        clean = ~np.isin(np.arange(cell.clients), list(malicious))
        for name, detector in DETECTORS.items():
            who = suspected(detector, batch)
            found[name][attack] += who[clean].sum(), clean.sum(), who[odd].sum(), odd.sum()
    return {name: {attack: [int(n) for n in c] for attack, c in of.items()} for name, of in found.items()}


def honest_rounds(model: str, partition: str, drawn: int, clients: int, seed: int) -> Iterator[Batch]:
    """Yield rounds of a federation that nobody attacks."""
    plan, (samples, labels) = PLANS[model], mnist5k().train
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[: SAMPLES * clients]
    cut = load(str(meaning("partition", partition))).cut
    parts = [rows[part] for part in cut(labels[rows], clients, seed)]
    arrays: Arrays = plan.initial_arrays(seed)
    for number in range(1, (ROUNDS if drawn < 100 else 1) + 1):
        nonce = 1000 * seed + number
        own = {i: (samples[parts[i]], labels[parts[i]]) for i in sorted(rng.permutation(clients)[:drawn])}
        replies = [Reply(i, plan.train(arrays, data, nonce), len(data[1])) for i, data in own.items()]
        yield read_replies(replies, arrays)
        arrays, _ = Pipeline(MultiView(), observe=True).run(number, replies, arrays, lambda challenges: {})


def suspected(detector: Detector, batch: Batch) -> np.ndarray:
    """Return whom a detector suspects, one boolean per row."""
    found = np.zeros(len(batch), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found[list(detector.detect(batch, 0).suspects)] = True
    return found


def attacked(one: Round, honest: np.ndarray, attack: Attack, malicious: list[int]) -> tuple[Batch, np.ndarray]:
    """Return an attacked round, and which clients send another update than their honest one."""
    updates = one.attacked(honest, attack, malicious)
    ids = tuple(range(len(updates)))
    batch = Batch(ids, updates, np.ones(len(ids)), Layout.of(one.model), {})
    return batch, (updates != honest).any(axis=1)


def alarms_table(rows: Sequence[Row]) -> str:
    """Show the percentage of honest clients that are suspected, one table per detector."""
    counts: dict[Any, np.ndarray] = defaultdict(lambda: np.zeros(2, int))
    for row, name in product(rows, DETECTORS):
        cell = Cell(**{key: row[key] for key in Cell.__dataclass_fields__})
        counts[name, cell.model, cell.partition, cell.named] += row["counts"][name]
    sizes = list(dict.fromkeys(key[3] for key in counts))
    kinds = list(dict.fromkeys(key[1:3] for key in counts))
    texts = []
    for name in DETECTORS:
        lines = [
            [model, partition, *(_percent(*counts[name, model, partition, n]) for n in sizes)]
            for model, partition in kinds
        ]
        title = f"{name}, nobody attacks, {_seeds(rows)}"
        texts.append(markdown(title, ["model", "data", *sizes], lines))
    return "\n".join(texts)


def recall_table(rows: Sequence[Row]) -> str:
    """Show the percentages of attackers found / honest suspected, one table per partition and n."""
    texts = []
    for n, partition in dict.fromkeys((row["clients"], row["partition"]) for row in rows):
        own = [row["counts"] for row in rows if (row["clients"], row["partition"]) == (n, partition)]
        lines = []
        for attack in own[0]["before"]:
            sums = [np.sum([of[name][attack] for of in own], axis=0) for name in DETECTORS]
            lines.append([attack, *(f"{_percent(*s[2:])} / {_percent(*s[:2])}" for s in sums)])
        title = f"{n} clients, {partition}, {_seeds(rows)}: attackers found / honest suspected, %"
        texts.append(markdown(title, ["attack", *DETECTORS], lines))
    return "\n".join(texts)


def _seeds(rows: Sequence[Row]) -> str:
    count = len({row["seed"] for row in rows})
    return f"{count} seed{'s' * (count > 1)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, print the tables, and with ``--write`` put them into the page; return the exit code."""
    parser = options_of("false_alarms", __doc__, "runs/false_alarms.jsonl")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="few clients, one seed, the MLP")
    options = parser.parse_args(arguments)
    found = results(options, cells(1 if options.quick else options.seeds, options.quick), run, key_of)
    publish(alarms_table([row for row in found if not row["attacked"]]), DOC, "alarms", options.write)
    publish(recall_table([row for row in found if row["attacked"]]), DOC, "recall", options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
