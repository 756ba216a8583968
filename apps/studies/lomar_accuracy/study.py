"""``python -m apps.studies.lomar_accuracy``: what accuracy LoMar ends with, beside the rules it is to be compared with.

Every run has MNIST's 5,000 images and 15 rounds of four steps. A finished run is a line of a file, so the command can
be stopped and started again. The question is whether ``robust`` is anywhere more than a point below the best of Krum,
FoolsGold, median and trimmed mean. A cell's figures are means over the seeds; Krum and trimmed mean are told the true
share of attackers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, product
from statistics import mean
from typing import Any

from apps.lab.journal import Row
from apps.lab.markdown import Table, decimal, markdown
from apps.lab.scenario import CONF
from apps.studies.command import options_of, publish, results
from apps.studies.lomar_accuracy.cells import ATTACKS, AccuracyCell, key_of, run_accuracy
from apps.studies.lomar_detection.cells import PARTITIONS

BEST_OF = ("krum", "foolsgold", "median", "trimmed_mean")
STRATEGIES = ("lomar", "lomar_paper", *BEST_OF, "fedavg")
#: For context, on the first seed.
OTHERS = ("multikrum", "fg_krum", "geometric_median")
FIRST = 100
#: A cell more than this below the best of the four fails; a point, and what a difference of floats may be off.
POINT = 0.01 + 1e-9
DOC = CONF.parent / "docs" / "results" / "lomar-accuracy.md"

Cells = Mapping[tuple[Any, ...], Mapping[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    parser = options_of("lomar_accuracy", __doc__, "runs/lomar_accuracy.jsonl")
    parser.add_argument("--seeds", type=int, default=3, help=f"from {FIRST} on")
    parser.add_argument("--strategies", nargs="+", help="run these alone, and print nothing")
    options = parser.parse_args(arguments)
    wanted = [c for c in cells(options.seeds) if c.strategy in (options.strategies or (c.strategy,))]
    rows = results(options, wanted, run_accuracy, key_of)
    if not options.strategies:
        publish("\n".join(markdown(*part) for part in tables(rows)), DOC, "lomar-accuracy", options.write)
    return 0


def cells(seeds: int) -> Iterator[AccuracyCell]:
    """Yield all runs, seed by seed: when the command is stopped, as few cells as possible lack a seed."""
    for seed in range(FIRST, FIRST + seeds):
        strategies = (*STRATEGIES, *OTHERS) if seed == FIRST else STRATEGIES
        for (model, clients, attack, share), partition in product(_settings(), PARTITIONS):
            for strategy in strategies:
                yield AccuracyCell("mnist5k", model, clients, partition, attack, share, strategy, seed, 15)


def _settings() -> Iterator[tuple[str, int, str, float]]:
    """Yield model, clients, attack and share. The stealthy attack trains its clients one by one, so among few."""
    quick = [attack for attack in ATTACKS if attack not in ("none", "flip, stealthy")]
    for model, clients in (("logistic", 100), ("logistic", 20), ("mlp", 20)):
        yield model, clients, "none", 0.0
    for share, attack in product((0.4, 0.1), quick):
        yield "logistic", 100, attack, share
    for attack in (*quick, "flip, stealthy"):
        yield "logistic", 20, attack, 0.2
    for attack in quick:
        yield "mlp", 20, attack, 0.2


def by_cell(rows: Iterable[Row], figure: str = "accuracy") -> Cells:
    """Return the mean of a figure over the seeds, by (model, clients, partition, attack, share) and strategy."""
    names = ("model", "clients", "partition", "attack", "share")
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        if row[figure] is not None:
            cell = found.setdefault(tuple(row[n] for n in names), {})
            cell.setdefault(row["strategy"], []).append(row[figure])
    return {cell: {s: mean(values) for s, values in of.items()} for cell, of in found.items()}


def gap(cell: Mapping[str, float]) -> float:
    """Return the accuracy of ``lomar`` minus the best of the four."""
    return cell["lomar"] - max(cell[s] for s in BEST_OF)


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the tables by attack and by setting, and the cells that fail, of the cells that are complete."""
    needed = {"lomar", *BEST_OF, "fedavg", "lomar_paper"}
    accuracy = {cell: of for cell, of in by_cell(rows).items() if of.keys() >= needed}
    seeds = sorted({row["seed"] for row in rows})
    every = len({key_of(replace(c, strategy="", seed=0)) for c in cells(1)})
    title = f"{len(accuracy)} of {every} cells, seeds {seeds[0]} to {seeds[-1]}, mnist5k, 15 rounds"
    yield _summary(f"By attack; {title}", accuracy, ["attack"], lambda cell: (cell[3],), list(ATTACKS))
    groups = [f"{model} {n} {p}" for model, n in (("logistic", 100), ("logistic", 20), ("mlp", 20)) for p in PARTITIONS]
    setting: Callable[[tuple[Any, ...]], tuple[str, ...]] = lambda cell: (f"{cell[0]} {cell[1]} {cell[2]}",)  # noqa: E731
    yield _summary(f"By setting; {title}", accuracy, ["model, clients, data"], setting, groups)
    failing = sorted((gap(of), cell) for cell, of in accuracy.items() if gap(of) < -POINT)
    names = [*STRATEGIES, *(s for s in OTHERS if any(s in of for of in accuracy.values()))]
    yield (
        f"The {len(failing)} of {len(accuracy)} cells in which `lomar` is more than a point below the best of the four",
        ["gap (points)", "model", "clients", "data", "attack", "M", *names],
        [[f"{100 * g:+.1f}", *map(str, cell), *(decimal(accuracy[cell].get(s)) for s in names)] for g, cell in failing],
    )


def _summary(
    title: str,
    accuracy: Cells,
    head: Sequence[str],
    name: Callable[[tuple[Any, ...]], tuple[str, ...]],
    order: list[str],
) -> Table:
    """Return a group's mean accuracies, and the gap: mean, worst, and how many cells are beyond a point."""
    table, others = [], [s for s in OTHERS if any(s in of for of in accuracy.values())]
    for (label,), group in groupby(sorted(accuracy, key=lambda c: order.index(name(c)[0])), name):
        own = [accuracy[cell] for cell in group]
        gaps = [gap(of) for of in own]
        means: list[float | None] = [mean(of[s] for of in own) for s in STRATEGIES]
        there = [[of[s] for of in own if s in of] for s in others]
        means += [mean(values) if values else None for values in there]
        failing = sum(g < -POINT for g in gaps)
        figures = [f"{100 * mean(gaps):+.1f}", f"{100 * min(gaps):+.1f}", f"{failing} of {len(own)}"]
        table.append([label, *map(decimal, means), *figures])
    return title, [*head, *STRATEGIES, *others, "mean gap (points)", "worst gap", "cells beyond a point"], table
