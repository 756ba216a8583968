"""``python -m apps.studies.faa_table``: whether FAA-DL finds each attacker, convicts no other, and keeps the accuracy.

The table has two-label shards, 20 clients, 20 rounds, and four attacks at four shares. Every finished run is a line of
a file, so the command can be stopped and started again. With ``--paper-seeds 1`` the first seed of every cell is run
with the paper's verifier and real encryption too, and its verdicts are compared with those of replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

from apps.lab.journal import Row
from apps.lab.markdown import Table, markdown
from apps.lab.scenario import CONF
from apps.studies.command import key_by, options_of, publish, results
from apps.studies.faa_table.cells import ATTACKS, HARD, Cell, all_cells, run_cell

DOC = CONF.parent / "docs" / "explanation" / "faa.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit code."""
    parser = options_of("faa_table", __doc__, "runs/table.jsonl", jobs=2)
    parser.add_argument("--seeds", type=int, default=5, help="with replay")
    parser.add_argument("--paper-seeds", type=int, default=0, help="with the paper's verifier, of those")
    options = parser.parse_args(arguments)
    cells = [*all_cells("replay", options.seeds), *all_cells("paper", min(options.paper_seeds, options.seeds))]
    rows = results(options, cells, run_cell, key_by(Cell))
    parts = [main_table(rows), hard_table(rows), *([comparison(rows)] if options.paper_seeds else [])]
    publish("\n".join(markdown(*part) for part in parts), DOC, "faa", options.write)
    return 0


def main_table(rows: Iterable[Row]) -> Table:
    """Return a table with one line per data set, attack and share; both detectors side by side."""
    title = "Two-label shards, 20 clients, 20 rounds; sums, means and the worst gap over seeds"
    figures: dict[str, Callable[[Sequence[Row]], str]] = {
        "recall": lambda g: f"{mean(r['recall'] for r in g):.2f}",
        "honest convicted": lambda g: str(sum(r["honest_convicted"] for r in g)),
        "attackers' updates accepted": lambda g: str(sum(r["attackers_accepted"] for r in g)),
        "accuracy": lambda g: f"{mean(r['final_accuracy'] for r in g):.3f}",
        "worst gap to attack-free (points)": lambda g: f"{max(_gap(r) for r in g):+.1f}",
        "verified a round": lambda g: f"{mean(r['verified_per_round'] for r in g):.1f}",
    }
    beside = ("recall", "attackers' updates accepted", "worst gap to attack-free (points)", "verified a round")
    head = ["data", "attack", "share", *figures, *(f"OCSVM: {name}" for name in beside)]
    chosen = [r for r in rows if r["attack"] in ATTACKS and r["verifier"] == "replay"]
    lines = []
    for (dataset, attack, share), group in _grouped(chosen, "dataset", "attack", "share"):
        of = {d: [r for r in group if r["detector"] == d] for d in ("sequential", "ocsvm")}
        line = [f(of["sequential"]) for f in figures.values()] + [figures[name](of["ocsvm"]) for name in beside]
        lines.append([dataset, attack, f"{share:g}", *line])
    return title, head, lines


def hard_table(rows: Iterable[Row]) -> Table:
    """Return the attacks that hide well: by when every attacker is banned."""
    title = "Attacks that hide well: digits, share .4, 40 rounds"
    head = ["attack", "round of the last ban, by seed", "honest convicted", "accuracy", "worst gap (points)"]
    lines = []
    for (attack,), group in _grouped([r for r in rows if r["attack"] in HARD and r["verifier"] == "replay"], "attack"):
        bans = [r["rounds_to_ban_all"] for r in sorted(group, key=lambda r: r["seed"])]
        shown = ", ".join("never" if b is None else str(b) for b in bans)
        convicted = str(sum(r["honest_convicted"] for r in group))
        accuracy = f"{mean(r['final_accuracy'] for r in group):.3f}"
        lines.append([attack, shown, convicted, accuracy, f"{max(_gap(r) for r in group):+.1f}"])
    return title, head, lines


def comparison(rows: Sequence[Row]) -> Table:
    """Show whether the paper's verifier gives replay's verdicts, round by round and client by client."""
    keys = ("dataset", "attack", "share", "detector", "seed", "rounds")
    replay = {tuple(r[k] for k in keys): r for r in rows if r["verifier"] == "replay"}
    own = [r for r in rows if r["verifier"] == "paper"]
    different = [r for r in own if r["verdicts"] != replay[tuple(r[k] for k in keys)]["verdicts"]]
    lines = [[str(len(own)), str(len(own) - len(different)), f"{mean(r['seconds'] for r in own):.0f}"]]
    return "Real encryption against plain replay", ["runs", "with equal verdicts", "seconds a run"], lines


def _gap(row: Row) -> float:
    return float(100 * (row["attack_free"] - row["final_accuracy"]))


def _grouped(rows: Sequence[Row], *keys: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    order = [*ATTACKS, *HARD]

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(order.index(row[k]) if k == "attack" else row[k] for k in keys)

    groups = [list(group) for _, group in groupby(sorted(rows, key=key), key)]
    return [(tuple(group[0][k] for k in keys), group) for group in groups]
