"""``python -m apps.studies.holdout``: held-out data against label flips, model poisoning, and attackers who know of it.

MNIST's 5,000 images on 30 clients, 20 rounds; for model poisoning the heat map's setting, digits on 20 clients, 10
rounds. The server's samples come out of the test samples, and no accuracy is measured on them. Every finished run is a
line of a file; started again, the command goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from apps.lab.journal import Row, lines, run_missing
from apps.lab.markdown import Table, markdown, write_region
from apps.lab.scenario import CONF
from apps.studies.holdout.cells import BESIDE, FLIPS, HELD, KNOWING, PASSIVE, SHARES, cells, key_of, run_cell

DOC = CONF.parent / "docs" / "results" / "holdout.md"
#: How far below the same honest clients' FedAvg a cell may be, and what a difference of floats may be off.
POINTS = 0.02 + 1e-9
Rows = Sequence[Row]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    description = __doc__.split("\n", maxsplit=1)[0]
    parser = argparse.ArgumentParser(prog="python -m apps.studies.holdout", description=description)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--parts", nargs="+", help="run these parts alone: nobody, flips, knowing, held, poisoning")
    parser.add_argument("--finished", action="store_true", help="run nothing: tables of the runs there are")
    parser.add_argument("--out", type=Path, default=Path("runs/holdout.jsonl"), help="one line a finished run")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOC.name} too")
    options = parser.parse_args(arguments)
    wanted = {key_of(c): c for c in cells() if c.part in (options.parts or (c.part,))}
    if not options.finished:
        run_missing(wanted, options.out, options.jobs, run_cell, key_of)
    rows = [row for row in lines(options.out) if key_of(row) in wanted]
    text = "\n".join(markdown(*table) for table in tables(rows))
    print(text)
    if options.write:
        write_region(DOC, "holdout", text)
    return 0


def tables(rows: Rows) -> Iterator[Table]:
    """All tables; figures are means over the seeds that there are."""
    flips, nobody = _part(rows, "flips"), _part(rows, "nobody")
    yield from _flips(flips)
    yield _nobody(nobody)
    yield _poisoning(_part(rows, "poisoning"))
    yield _knowing(_part(rows, "knowing"))
    yield _held(_part(rows, "held"))


def _flips(rows: Rows) -> Iterator[Table]:
    """A line a cell, ``Holdout`` against the yardstick; and the others, where they ran."""
    body, gaps = [], []
    for partition, attack, share in _cells(rows):
        own = [r for r in rows if (r["partition"], r["attack"], r["share"]) == (partition, attack, share)]
        ideal = _accuracy(rows, partition=partition, attack="absent", share=share)
        ours = _accuracy(own, strategy="holdout")
        if ideal is None or ours is None:
            continue
        gaps.append(ours - ideal)
        left = [
            _mean(r[k] for r in own if r["strategy"] == "holdout") for k in ("malicious_left_out", "honest_left_out")
        ]
        seeds = len([r for r in own if r["strategy"] == "holdout"])
        others = [_accuracy(own, strategy=s) for s in BESIDE]
        body.append(
            [partition, attack, f"{share:g}", str(seeds), _three(ideal), _three(ours), f"{100 * (ours - ideal):+.1f}",
             *map(_two, left), *map(_three, others)]
        )  # fmt: skip
    if gaps:
        reached = sum(gap >= -POINTS for gap in gaps)
        yield (
            f"Label flips: {reached} of {len(gaps)} cells within two points of the same honest clients' FedAvg, or "
            f"above it; the worst {100 * min(gaps):+.1f}, on average {100 * mean(gaps):+.1f} points",
            ["data", "attack", "share", "seeds", "ideal", "Holdout", "points", "attackers left out", "honest left out",
             *BESIDE],
            body,
        )  # fmt: skip


def _nobody(rows: Rows) -> Table:
    body = []
    for partition in dict.fromkeys(r["partition"] for r in rows):
        own = [r for r in rows if r["partition"] == partition]
        for strategy in dict.fromkeys(r["strategy"] for r in own):
            found = [r for r in own if r["strategy"] == strategy]
            seeds = {r["seed"] for r in found}
            plain = _accuracy([r for r in own if r["seed"] in seeds], strategy="fedavg")
            accuracy, left = _accuracy(found), _mean(r["honest_left_out"] for r in found)
            gap = "-" if accuracy is None or plain is None else f"{100 * (accuracy - plain):+.1f}"
            body.append([partition, strategy, str(len(found)), _three(accuracy), gap, _two(left)])
    return "Nobody attacks", ["data", "rule", "seeds", "accuracy", "points to FedAvg", "honest left out"], body


def _poisoning(rows: Rows) -> Table:
    """The worst cell of each rule over the cells that all of them have."""
    rules = ("faa_holdout", "fltrust", "zenopp", *PASSIVE)
    by_cell: dict[tuple[object, ...], dict[str, float]] = {}
    for r in rows:
        by_cell.setdefault((r["partition"], r["attack"], r["share"], r["seed"]), {})[r["strategy"]] = r["accuracy"]
    whole = {cell: of for cell, of in by_cell.items() if of.keys() >= set(rules)}
    body = []
    for rule in rules if whole else ():
        worst = min(whole, key=lambda cell: (whole[cell][rule], str(cell)))
        where = f"{worst[1]}, {worst[0]}, share {worst[2]:g}"
        body.append([rule, _three(whole[worst][rule]), where, _three(mean(of[rule] for of in whole.values()))])
    title = f"Model poisoning without client-side verification: {len(whole)} cells of the heat map, one seed"
    if whole:
        ours, *others = (min(of[rule] for of in whole.values()) for rule in rules)
        title += f"; the worst is {100 * (ours - max(others)):+.1f} points to the best worst of the others"
    return title, ["rule", "worst cell", "which", "mean"], body


def _knowing(rows: Rows) -> Table:
    body = []
    for attack in KNOWING:
        for partition, share in dict.fromkeys((r["partition"], r["share"]) for r in rows if r["attack"] == attack):
            ideal = _accuracy(rows, partition=partition, attack="absent", share=share)
            for strategy in ("fedavg", "fltrust", "holdout"):
                chosen = [
                    r for r in rows
                    if (r["attack"], r["partition"], r["share"], r["strategy"]) == (attack, partition, share, strategy)
                ]  # fmt: skip
                if chosen:
                    left = _two(_mean(r["malicious_left_out"] for r in chosen))
                    hit = _two(_mean(r["triggered"] for r in chosen))
                    figures = [_three(ideal), _three(_accuracy(chosen)), hit, left]
                    body.append([attack, partition, f"{share:g}", strategy, *figures])
    head = ["attacker", "data", "share", "rule", "ideal", "accuracy", "trigger works", "attackers left out"]
    return "Attackers that know of it", head, body


def _held(rows: Rows) -> Table:
    body = []
    for held in HELD:
        figures = []
        for attack in ("nobody", "pure flip"):
            own = [r for r in rows if r["held"] == held and r["attack"] == attack]
            figures += [_three(_accuracy(own)), _two(_mean(r["honest_left_out"] for r in own))]
        if figures != ["-"] * 4:
            body.append([held, *figures])
    head = ["held-out samples", "nobody attacks", "honest left out", "pure flip, share .3", "honest left out"]
    return "Held-out data as they should not be, two labels a client", head, body


def _cells(rows: Rows) -> list[tuple[str, str, float]]:
    """Return partition, attack and share of all cells, in the order of the tables."""
    partitions = dict.fromkeys(r["partition"] for r in rows)
    return [(p, a, s) for p in partitions for a in FLIPS for s in SHARES]


def _part(rows: Rows, part: str) -> Rows:
    return [row for row in rows if row["part"] == part]


def _accuracy(rows: Rows, **having: object) -> float | None:
    return _mean(r["accuracy"] for r in rows if all(r[k] == v for k, v in having.items()))


def _mean(values: Iterator[float | None] | Sequence[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return mean(found) if found else None


def _shown(digits: int) -> Callable[[float | None], str]:
    return lambda value: "-" if value is None else f"{value:.{digits}f}"


_two, _three = _shown(2), _shown(3)
