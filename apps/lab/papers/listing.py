"""``python -m apps.lab experiments``: all experiments, what the papers report, and the time each took here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.lab.papers.experiments import Spec, names, spec
from apps.lab.scenario import CONF

#: Written by ``python -m apps.lab.papers.results``: what each experiment took on the machine of
#: ``docs/results/results.md``.
TIMINGS = CONF.parent / "docs" / "results" / "timings.json"


def main() -> int:
    """Print the list; returns the exit code."""
    timings = json.loads(TIMINGS.read_text()) if TIMINGS.exists() else {}
    table = Table("experiment", "stands for", "shows", "the paper's number", "quick took", box=None, pad_edge=False)
    for name in names():
        one = spec(name)
        table.add_row(name, one.paper, one.title, reported(one), took(timings.get(name)))
    Console().print(table, highlight=False)
    Console().print("\npython -m apps.lab experiment=NAME size=quick|paper seeds=5 jobs=2 [minutes=120] [override ...]")
    return 0


def reported(one: Spec) -> str:
    """Return the paper's own method in its tables, or what its prose says."""
    figures = [
        f"{column} {value:g}"
        for table in one.tables
        for row, values in list(table.get("paper", {}).items())[:1]
        for column, value in values.items()
    ]
    return ", ".join(figures) or one.reported or "a figure without numbers"


def took(timing: Mapping[str, Any] | None) -> str:
    """Return the time that it took, in minutes of one core."""
    if timing is None:
        return "not run"
    return f"{timing['cpu_seconds'] / 60:.1f} min of a core, {timing['runs']} runs, {timing['seeds']} seeds"
