"""Tables of an experiment: ours, the paper's, and the difference; and the worst case of each defence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.lab.papers.data import Figure, Results, figure, interval


@dataclass(frozen=True)
class Place:
    """One place of a table; what is not there is None."""

    ours: Figure | None
    paper: float | None = None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.paper is None else self.ours.mean - self.paper


@dataclass(frozen=True)
class Table:
    """Rows by name, each with one place per column."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Place]]

    @property
    def has_paper(self) -> bool:
        return any(place.paper is not None for row in self.rows.values() for place in row)


def table(of: Results, view: Mapping[str, Any]) -> Table:
    """Return a table as the experiment's file describes it; what the paper has and nobody ran stays, without ours."""
    values, printed = view["values"], view.get("paper", {})
    columns = {
        name(across, label, len(values)): (across, metric)
        for across in of.values(view["columns"])
        for label, metric in values.items()
    }
    columns |= {column: (None, "") for row in printed.values() for column in row if column not in columns}
    rows = {}
    for down in dict.fromkeys([*of.values(view["rows"]), *printed]):
        places = []
        for column, (across, metric) in columns.items():
            here = of.where({**view.get("where", {}), view["rows"]: down, view["columns"]: across})
            places.append(Place(figure(here, metric), printed.get(down, {}).get(column)))
        if any(place.ours or place.paper is not None for place in places):
            rows[str(down)] = places
    return Table(view["title"], list(columns), rows)


def name(across: Any, label: str, count: int) -> str:
    """Return the name of a column."""
    return f"{across} {label}" if count > 1 else str(across)


def worst(of: Results, view: Mapping[str, Any]) -> Table:
    """Show, for each row and column, the least of a metric's means over all other axes, and the least of each row.

    The interval is that of the cell which is worst in the mean.
    """
    others = [axis for axis in of.axes if axis not in (view["rows"], view["columns"])]
    columns = of.values(view["columns"])
    rows = {}
    for down in of.values(view["rows"]):
        places = []
        for across in columns:
            here = of.where({**view.get("where", {}), view["rows"]: down, view["columns"]: across})
            groups = [group for _, group in here.groupby(others, dropna=False)] if others else [here]
            found = [f for group in groups if (f := interval(group.groupby("seed")[view["value"]].mean().dropna()))]
            places.append(Place(min(found, key=lambda f: f.mean, default=None)))
        least = min((p.ours for p in places if p.ours), key=lambda f: f.mean, default=None)
        rows[str(down)] = [*places, Place(least)]
    return Table(view["title"], [*map(str, columns), "worst"], rows)
