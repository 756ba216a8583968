"""``python -m apps.studies.false_alarms [--write]``: whom detection without verification suspects, and whom it finds.

First it counts false alarms among the honest clients of small federations: MNIST-5k, 50 samples per client on average,
batches of 16, two rounds that nobody attacks (one with a hundred clients, for the time it takes), of all clients or of
twenty drawn of a hundred, judged by the detectors that remove suspects unheard. Then it counts the attackers that the
same detectors find on digits. Beside them stands ``MultiView(threshold=5)``, the earlier default, which verification
still starts with.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from apps.lab.attacks import Attack
from apps.lab.config import load
from apps.lab.datasets import mnist5k
from apps.lab.markdown import markdown, write_region
from apps.lab.models import cnn, mlp
from apps.lab.papers.experiments import meaning
from apps.lab.partitions.split import choose_malicious
from apps.lab.scenario import CONF
from apps.studies.command import attack_of
from apps.studies.lomar_detection.cells import Round, rounds
from flwr_faa import TrainingPlan
from flwr_faa.detection import Detector, MultiView, as_detector
from flwr_faa.pipeline import Pipeline
from flwr_faa.replies.updates import Arrays, Batch, Layout, Reply, read_replies
from flwr_lomar import LoMarDetector

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
#: What removes suspects unheard: ``FAADL()`` and ``LoMar()``.
DEFAULTS: dict[str, Detector] = {"FAADL()": MultiView(), "LoMar()": as_detector(LoMarDetector())}
BEFORE: dict[str, Detector] = {"before": MultiView(threshold=5)}
SHARES = (0.1, 0.2, 0.4)

Counts = dict[tuple[str, ...], np.ndarray]


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


def false_alarms(models: Sequence[str], federations: Sequence[tuple[int, int]], seeds: int) -> Counts:
    """Count suspects and clients, by detector, model, partition and federation."""
    counts: Counts = defaultdict(lambda: np.zeros(2, int))
    for (n, of), model, partition, seed in product(federations, models, PARTITIONS, range(seeds)):
        named = f"n = {n}" if n == of else f"{n} of {of}"
        for batch, (name, kind) in product(honest_rounds(model, partition, n, of, seed), (DEFAULTS | BEFORE).items()):
            counts[name, model, partition, named] += suspected(kind, batch).sum(), n
        print(f"{named}, {model}, {partition}, seed {seed}", flush=True)
    return counts


def found_attackers(clients: Sequence[int], seeds: int, attacks: Sequence[str] = ATTACKS) -> Counts:
    """Count attackers found, attackers, honest suspected, and honest, by detector, partition, clients and attack."""
    counts: Counts = defaultdict(lambda: np.zeros(4, int))
    for n, partition, seed in product(clients, ("iid", "shards"), range(1, seeds + 1)):
        scenario = load(f"dataset=digits clients={n} partition={partition} seed={seed}")
        *_, (one, honest) = rounds(scenario, 1 + seed % 2)
        for attack, share in product(attacks, SHARES):
            malicious = choose_malicious(scenario.partitions, scenario.dataset.train[1], share, seed)
            batch, odd = attacked(one, honest, replace(attack_of(attack), share=share), sorted(malicious))
            clean = ~np.isin(np.arange(n), list(malicious))
            for name, detector in (DEFAULTS | BEFORE).items():
                who = suspected(detector, batch)
                counts[name, partition, str(n), attack] += who[odd].sum(), odd.sum(), who[clean].sum(), clean.sum()
        print(f"{n} clients, {partition}, attacks of seed {seed}", flush=True)
    return counts


def attacked(one: Round, honest: np.ndarray, attack: Attack, malicious: list[int]) -> tuple[Batch, np.ndarray]:
    """Return an attacked round, and which clients send another update than their honest one."""
    updates = one.attacked(honest, attack, malicious)
    ids = tuple(range(len(updates)))
    batch = Batch(ids, updates, np.ones(len(ids)), Layout.of(one.model), {})
    return batch, (updates != honest).any(axis=1)


def alarms_table(counts: Counts, names: Sequence[str]) -> str:
    """Show the percentage of honest clients that are suspected, one table per detector."""
    sizes = list(dict.fromkeys(key[3] for key in counts))
    kinds = list(dict.fromkeys(key[1:3] for key in counts))
    texts = []
    for name in names:
        lines = [
            [model, partition, *(_percent(*counts[name, model, partition, n]) for n in sizes)]
            for model, partition in kinds
        ]
        texts.append(markdown(f"{name}, nobody attacks", ["model", "data", *sizes], lines))
    return "\n".join(texts)


def recall_table(counts: Counts) -> str:
    """Show the percentages of attackers found / honest suspected, one table per partition and n."""
    texts = []
    names = list(dict.fromkeys(key[0] for key in counts))
    for partition, n in dict.fromkeys(key[1:3] for key in counts):
        lines = []
        for attack in dict.fromkeys(key[3] for key in counts):
            cells = [counts[name, partition, n, attack] for name in names]
            lines.append([attack, *(f"{_percent(*c[:2])} / {_percent(*c[2:])}" for c in cells)])
        data = "two labels" if partition == "shards" else partition
        texts.append(markdown(f"{n} clients, {data}: attackers found / honest suspected, %", ["attack", *names], lines))
    return "\n".join(texts)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/results/false-alarms.md."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.studies.false_alarms", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="into docs/results/false-alarms.md")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="few clients, one seed, the MLP")
    chosen = parser.parse_args()
    quick = chosen.quick
    seeds = 1 if quick else chosen.seeds
    alarms = false_alarms(["MLP"] if quick else list(PLANS), ((3, 3), (10, 10)) if quick else FEDERATIONS, seeds)
    recall = found_attackers((10,) if quick else (10, 20), seeds)
    tables = {"alarms": alarms_table(alarms, list(DEFAULTS | BEFORE)), "recall": recall_table(recall)}
    print("\n".join(tables.values()))
    for name, text in tables.items() if chosen.write else ():
        write_region(CONF.parent / "docs" / "results" / "false-alarms.md", name, text)


if __name__ == "__main__":
    main()
