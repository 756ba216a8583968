"""``python -m apps.studies.lomar_combined``: FAA-DL in which a high score is a veto, and how high is high.

Verification clears a client that trained honestly, whatever its labels; a score leaves out every client that is odd,
malicious or not. With ``faa_lomar`` the evidence decides about the moderately odd and the score about the extreme: a
client that is cleared and yet scores above ``drop_above`` stays out of the round. There are two tables, of 20 clients
each:

* seeds 0 to 9: which limit leaves out how many, read off the scores of runs of ``faa`` in which nobody is left out;
* seeds 100 to 104: LoMar alone, FAA-DL alone, and both.

Every finished run is a line of a file, so the command can be stopped and started again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, product
from statistics import mean
from typing import Any

from apps.lab.journal import Row
from apps.lab.markdown import Table, decimal, markdown
from apps.studies.command import options_of, publish, results
from apps.studies.lomar_accuracy.cells import AccuracyCell, key_of, run, run_accuracy, verdicts
from apps.studies.lomar_accuracy.study import DOC
from apps.studies.lomar_detection.cells import PARTITIONS

DATASETS, SHARE, ROUNDS = ("digits", "mnist5k"), 0.2, 10
#: Candidates for ``drop_above``, in the detector's unit.
LIMITS = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 50.0)
DETECTORS = ("lomar", "sequential")
#: What stands behind ``strategy=``, by name in the table.
ROWS = {
    "LoMar alone": "lomar",
    "FAA-DL alone": "faa",
    "both": "faa_lomar",
    "both, LoMar as detector": "faa_lomar detector=lomar strategy.policy.drop_above=10",
}
ATTACKED = ("none", "flip, pure", "flip, mixed", "sign flip", "ALIE z_max")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    parser = options_of("lomar_combined", __doc__, "runs/lomar_combined")
    parser.add_argument("--tune", type=int, default=10, help="seeds from 0 on")
    parser.add_argument("--prove", type=int, default=5, help="seeds from 100 on")
    options = parser.parse_args(arguments)
    folder, parts = options.out, list[Table]()
    if options.tune:
        options.out = folder / "scores.jsonl"
        scored = results(options, tuning(options.tune), run_scores, key_of)
        parts += [limits_table(detector, scored) for detector in DETECTORS]
    if options.prove:
        options.out = folder / "runs.jsonl"
        parts.append(proof_table(results(options, proof(options.prove), run_accuracy, key_of)))
    publish("\n".join(markdown(*part) for part in parts), DOC, "lomar-combined", options.write)
    return 0


def tuning(seeds: int) -> Iterator[AccuracyCell]:
    """Yield runs in which everything is scored and only the convicted are left out."""
    attacks = (("none", 0.0), ("flip, pure", SHARE), ("flip, mixed", SHARE))
    for seed, dataset, partition, (attack, share), detector in product(
        range(seeds), DATASETS, PARTITIONS, attacks, DETECTORS
    ):
        strategy = f"faa detector={detector}"
        yield AccuracyCell(dataset, "logistic", 20, partition, attack, share, strategy, seed, ROUNDS)


def proof(seeds: int) -> Iterator[AccuracyCell]:
    """Yield the runs that are to be compared."""
    for seed, dataset, partition, attack in product(range(100, 100 + seeds), DATASETS, PARTITIONS, ATTACKED):
        share = 0.0 if attack == "none" else SHARE
        for strategy in ROWS.values():
            yield AccuracyCell(dataset, "logistic", 20, partition, attack, share, strategy, seed, ROUNDS)


def run_scores(cell: AccuracyCell) -> dict[str, Any]:
    """Run one cell; beside its fields, the shares of honest and malicious updates that score above each limit."""
    record = run(cell)
    shares = {}
    for name, malicious in (("honest", False), ("malicious", True)):
        scores = [v.score for v in verdicts(record, malicious)]
        shares[name] = [sum(s > limit for s in scores) / len(scores) for limit in LIMITS] if scores else None
    return {**asdict(cell), **shares, "threshold": record.reports[0].score_threshold}


def limits_table(detector: str, rows: Sequence[Row]) -> Table:
    """Show who would be left out at each limit; the best limit keeps both kinds furthest apart in the worst case."""
    own = [r for r in rows if r["strategy"] == f"faa detector={detector}"]
    seeds = 1 + max(r["seed"] for r in own)
    table = []
    for partition, dataset in dict.fromkeys((r["partition"], r["dataset"]) for r in own):
        here = [r for r in own if (r["partition"], r["dataset"]) == (partition, dataset)]
        kinds = {
            "honest, nobody attacks": [r["honest"] for r in here if r["attack"] == "none"],
            "honest, attacked": [r["honest"] for r in here if r["attack"] != "none"],
            "pure flippers": [r["malicious"] for r in here if r["attack"] == "flip, pure"],
            "mixed flippers": [r["malicious"] for r in here if r["attack"] == "flip, mixed"],
        }
        for kind, found in kinds.items():
            table.append([dataset, partition, kind, *(f"{mean(column):.3f}" for column in zip(*found, strict=True))])
    columns = list(zip(*([float(x) for x in line[3:]] for line in table), strict=True))
    honest = [max(x for x, line in zip(column, table, strict=True) if "honest" in line[2]) for column in columns]
    pure = [min(x for x, line in zip(column, table, strict=True) if "pure" in line[2]) for column in columns]
    for kind, found in (("honest, most", honest), ("pure flippers, fewest", pure)):
        table.append(["all", "all", kind, *(f"{x:.3f}" for x in found)])
    apart = [f"{p - h:.3f}" for p, h in zip(pure, honest, strict=True)]
    table.append(["all", "all", "fewest pure less most honest", *apart])
    threshold = mean(r["threshold"] for r in own)
    title = f"Share of updates that score above a limit; detector={detector} (suspects above {threshold:.3g})"
    return (
        f"{title}, seeds 0 to {seeds - 1}, {len(own)} runs",
        ["data", "partition", "updates", *(f"{x:g}" for x in LIMITS)],
        table,
    )


def proof_table(rows: Sequence[Row]) -> Table:
    """Show attacks, partitions and defences, of the cells in which every defence is finished."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[k] for k in ("seed", "dataset", "partition", "attack")), []).append(row)
    rows = [row for cell in cells.values() if len(cell) == max(map(len, cells.values())) for row in cell]
    names = {strategy: name for name, strategy in ROWS.items()}
    order = [list(ATTACKED), list(PARTITIONS), list(names)]

    def group_of(row: Row) -> tuple[int, ...]:
        found = (row["attack"], row["partition"], row["strategy"])
        return tuple(values.index(value) for values, value in zip(order, found, strict=True))

    table = []
    for (attack, partition, strategy), group in groupby(sorted(rows, key=group_of), group_of):
        own = list(group)
        figures = [_mean(own, name) for name in ("malicious_left_out", "honest_left_out", "accuracy", "source")]
        banned = str(sum(r["honest_banned"] for r in own))
        labels = [order[0][attack], order[1][partition], names[order[2][strategy]]]
        table.append([*labels, *figures, banned])
    seeds = sorted({row["seed"] for row in rows})
    title = (
        f"20 clients, M = {SHARE:g}, means over digits, mnist5k and seeds {seeds[0]} to {seeds[-1]}: {len(rows)} runs"
    )
    head = ["attack", "partition", "defence", "malicious left out", "honest left out", "accuracy", "accuracy on 7"]
    return title, [*head, "honest banned"], table


def _mean(rows: Sequence[Row], figure: str) -> str:
    values = [row[figure] for row in rows if row[figure] is not None]
    return decimal(mean(values) if values else None)


if __name__ == "__main__":
    sys.exit(main())
