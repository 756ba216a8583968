"""``python -m apps.studies.lomar_detection``: how well LoMar tells attackers from honest clients.

Every finished cell is a line of a file, so the command can be stopped and started again. LoMar was tuned on seeds 0 to
9; report others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from apps.lab.journal import Row
from apps.lab.markdown import decimal, markdown
from apps.lab.recording.metrics import GRID
from apps.lab.scenario import CONF
from apps.studies.command import options_of, publish, results
from apps.studies.lomar_detection.cells import CLIENTS, MODELS, PARTITIONS, SHARES, Group, key_of, run_cell

DOCS = CONF.parent / "docs" / "explanation"
KEYS = tuple(f.name for f in fields(Group))
GOAL_TPR, GOAL_FPR = 0.95, 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    parser = options_of("lomar_detection", __doc__, "runs/lomar_table.jsonl", jobs=2)
    parser.add_argument("--seeds", default="100-109", help="from-to")
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    options = parser.parse_args(arguments)
    first, last = (int(s) for s in options.seeds.split("-"))
    # the dear model last, and its seeds one after the other, so that an interrupted run has whole seeds
    groups = [
        Group(model, n, partition, seed)
        for model, seed, n, partition in product(options.models, range(first, last + 1), CLIENTS, PARTITIONS)
    ]
    rows = results(options, (cell for group in groups for cell in group.cells()), run_cell, key_of)
    publish(report(rows), DOCS / "lomar.md", "lomar", options.write)
    if options.write:
        draw([r for r in rows if r["partition"] == "two labels" and r["clients"] == 100], DOCS / "lomar-roc.png")
    return 0


def report(rows: Sequence[Row]) -> str:
    """Return all tables in Markdown."""
    seeds = {m: sorted({r["seed"] for r in rows if r["model"] == m}) for m in MODELS}
    ran = ", ".join(f"{m} {s[0]}-{s[-1]} ({len(s)})" for m, s in seeds.items() if s)
    parts = [f"Seeds: {ran}.", summary(rows), by_attack(rows), failing(rows), full(rows)]
    return "\n".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """Return a table with one line per partition and number of clients."""
    head = ["clients", "partition", "cells", "reach the goal", "AUC", "AUC of the worst cell", "TPR", "FPR"]
    head += ["FPR, nobody attacks", "`paper`: AUC", "TPR", "FPR", "reversed: AUC", "TPR", "FPR"]
    lines = []
    for n, partition in product(sorted(CLIENTS, reverse=True), PARTITIONS):
        group = [r for r in rows if (r["clients"], r["partition"]) == (n, partition)]
        attacked = [c for c in _cells(group) if _mean(c, "auc") is not None and c[0]["share"]]
        quiet = [r for r in group if not r["share"]]
        if not attacked or not quiet:
            continue
        of = {
            preset: [mean(_mean(c, key, preset) or 0.0 for c in attacked) for key in ("auc", "tpr", "fpr")]
            for preset in ("robust", "paper")
        }
        lines.append(
            [
                str(n),
                partition,
                str(len(attacked)),
                str(sum(map(_reached, attacked))),
                f"{of['robust'][0]:.3f}",
                f"{min(_mean(c, 'auc') or 0.0 for c in attacked):.2f}",
                *(f"{x:.3f}" for x in of["robust"][1:]),
                f"{_mean(quiet, 'fpr'):.3f}",
                *(f"{x:.2f}" for x in of["paper"]),
                *(f"{1 - x:.2f}" for x in of["paper"]),
            ]
        )
    goal = f"Goal of a cell (model, attack, share; mean over seeds): TPR >= {GOAL_TPR}, FPR <= {GOAL_FPR}"
    return _markdown(goal, head, lines)


def by_attack(rows: Sequence[Row]) -> str:
    """Return a table with one line per attack: 100 clients, over models and shares."""
    head = ["attack", *(f"{p}: {x}" for p in PARTITIONS for x in ("AUC", "TPR", "FPR"))]
    lines = []
    for attack in _names(rows):
        line = [attack]
        for partition in PARTITIONS:
            group = [r for r in rows if (r["clients"], r["partition"], r["attack"]) == (100, partition, attack)]
            line += [decimal(_mean(group, key), 3) for key in ("auc", "tpr", "fpr")]
        lines.append(line)
    return _markdown("100 clients, by attack: means over models, shares and seeds", head, lines)


def failing(rows: Sequence[Row]) -> str:
    """Show the cells of 100 clients that miss the goal, without the shards."""
    head = ["model", "partition", "attack", *(f"M = {share:.0%}: TPR / FPR" for share in SHARES)]
    lines = []
    for model, partition, attack in product(MODELS, list(PARTITIONS)[:2], _names(rows)):
        group = [
            r
            for r in rows
            if (r["model"], r["clients"], r["partition"], r["attack"]) == (model, 100, partition, attack)
        ]
        cells = {c[0]["share"]: c for c in _cells(group)}
        missed = {s: c for s, c in cells.items() if s and _mean(c, "tpr") is not None and not _reached(c)}
        if missed:
            shown = [
                f"{decimal(_mean(missed[s], 'tpr'), 2)} / {decimal(_mean(missed[s], 'fpr'), 3)}" if s in missed else ""
                for s in SHARES
            ]
            lines.append([model, partition, attack, *shown])
    return _markdown("100 clients, lambda 0 and .5: the cells that miss the goal", head, lines)


def full(rows: Sequence[Row]) -> str:
    """Return every cell: AUC, TPR / FPR, and in brackets the TPR and FPR of the worst seed."""
    head = ["model", "clients", "partition", "attack", *(f"M = {share:.0%}" for share in SHARES)]
    lines = []
    for model, n, partition in product(MODELS, CLIENTS, PARTITIONS):
        group = [r for r in rows if (r["model"], r["clients"], r["partition"]) == (model, n, partition)]
        quiet = [r for r in group if not r["share"]]
        if quiet:
            line = f"FPR {decimal(_mean(quiet, 'fpr'), 3)} ({decimal(_worst(quiet, 'fpr', max), 3)})"
            lines.append([model, str(n), partition, "nobody", line, "", "", ""])
        for attack in _names(group):
            cells = {c[0]["share"]: c for c in _cells(r for r in group if r["attack"] == attack)}
            lines.append([model, str(n), partition, attack, *(_cell(cells.get(share, [])) for share in SHARES)])
    return _markdown("All cells: AUC, TPR / FPR (TPR / FPR of the worst seed)", head, lines)


def _cell(cell: Sequence[Row]) -> str:
    if not cell or _mean(cell, "auc") is None:
        return "-"
    worst = f"({decimal(_worst(cell, 'tpr', min), 2)} / {decimal(_worst(cell, 'fpr', max), 3)})"
    return (
        f"{decimal(_mean(cell, 'auc'), 2)}, {decimal(_mean(cell, 'tpr'), 2)} / {decimal(_mean(cell, 'fpr'), 3)} {worst}"
    )


def _reached(cell: Sequence[Row]) -> bool:
    tpr, fpr = _mean(cell, "tpr"), _mean(cell, "fpr")
    return tpr is not None and fpr is not None and tpr >= GOAL_TPR and fpr <= GOAL_FPR


def _mean(rows: Iterable[Row], key: str, preset: str = "robust") -> float | None:
    found = [r[preset][key] for r in rows if r[preset][key] is not None]
    return mean(found) if found else None


def _worst(rows: Iterable[Row], key: str, worst: Any) -> float | None:
    seeds = [m for r in rows if (m := _mean([r], key)) is not None]
    return worst(seeds) if seeds else None


def _cells(rows: Iterable[Row]) -> list[list[Row]]:
    """Group rows that differ in their seed only."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault((*(row[k] for k in KEYS if k != "seed"), row["attack"], row["share"]), []).append(row)
    return list(cells.values())


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(r["attack"] for r in rows if r["share"]))


def _markdown(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return f"\n{markdown(title, head, lines)}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw ROC curves: one panel per share, one line per attack, means over models and seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(SHARES), figsize=(4 * len(SHARES), 4.6), sharey=True)
    for panel, share in zip(panels, SHARES, strict=True):
        for number, attack in enumerate(_names(rows)):
            of = [r for r in rows if (r["attack"], r["share"]) == (attack, share)]
            curves = [r["robust"]["roc"] for r in of if "roc" in r["robust"]]
            if curves:
                style = ("-", "--", ":")[number // 10 % 3]
                panel.plot(GRID, [mean(c) for c in zip(*curves, strict=True)], style, label=attack)
        panel.set(title=f"M = {share:.0%}", xlabel="false alarms", xlim=(0, 0.5), ylim=(0, 1.02))
    panels[0].set_ylabel("attackers found")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=8, fontsize=8)
    figure.suptitle("LoMar, robust: two-label shards, 100 clients; the mean over models and seeds")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)
