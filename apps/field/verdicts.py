"""What became of every node of a run, from its ``rounds.jsonl``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from flwr_faa.report import Outcome


@dataclass(frozen=True)
class Node:
    """One node over a run.

    Attributes
    ----------
    outcomes : tuple of str
        Its verdict in every round that it was part of.
    rounds : int
        In which its update became part of the model.
    banned : bool
    reason : str
        Of its conviction or ban; else what was last said of it.
    """

    outcomes: tuple[str, ...]
    rounds: int
    banned: bool
    reason: str

    @property
    def convicted(self) -> bool:
        return Outcome.CONVICTED in self.outcomes


def rounds_of(path: Path) -> list[dict[str, Any]]:
    """The reports of a run, those that are whole."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def nodes_of(path: Path) -> dict[int, Node]:
    """All nodes of a run, by node id."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for report in rounds_of(path):
        for row in report["nodes"]:
            rows.setdefault(row["node_id"], []).append(row)
    return {node: _node(of_node) for node, of_node in sorted(rows.items())}


def _node(rows: list[dict[str, Any]]) -> Node:
    telling = next((row for row in rows if row["banned"]), rows[-1])
    outcomes = tuple(row["verdict"] for row in rows)
    return Node(outcomes, sum(row["accepted"] for row in rows), any(row["banned"] for row in rows), telling["reason"])


def table(nodes: Mapping[str, Node]) -> Table:
    """A line for every node, under the name that it is given; the verdicts of a long run are counted."""
    shown = Table("node", "verdicts, round by round", "accepted", "banned", "why")
    for name, node in nodes.items():
        shown.add_row(
            name,
            _told(node.outcomes),
            f"{node.rounds}/{len(node.outcomes)}",
            "yes" if node.banned else "no",
            node.reason,
        )
    return shown


def _told(outcomes: tuple[str, ...]) -> str:
    if len(outcomes) <= 10:
        return " ".join(outcomes)
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items())
