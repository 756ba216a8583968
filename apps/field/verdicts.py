"""What became of every node of a run, from its ``rounds.jsonl``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
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
    """Return the complete reports of a run; a line that is being written is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class Follower:
    """Prints a line for each round of a run, when the round is over.

    Parameters
    ----------
    path : Path
        ``rounds.jsonl``; what stands in it already is of an earlier run.
    say : callable
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._read = path.stat().st_size if path.exists() else 0

    def __call__(self) -> None:
        """Print the lines of new rounds."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size == self._read:
            return
        if size < self._read:  # the run has begun the file anew
            self._read = 0
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in whole.splitlines():
            self._say(told(json.loads(line)))


def told(report: Mapping[str, Any]) -> str:
    """Describe a round in one line: how many were accepted, and the others by what became of them."""
    others: dict[str, list[str]] = {}
    for row in report["nodes"]:
        if not row["accepted"]:
            others.setdefault(row["verdict"], []).append(str(row["node_id"]))
    out = "".join(f"; {verdict}: {', '.join(nodes)}" for verdict, nodes in sorted(others.items()))
    closed = "; failed closed, the model stays" if report["failed_closed"] else ""
    accepted = sum(row["accepted"] for row in report["nodes"])
    return f"round {report['round']}: {accepted} of {len(report['nodes'])} accepted{out}{closed}"


def nodes_of(path: Path) -> dict[int, Node]:
    """Return all nodes of a run, by node id."""
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
    """Return a table with one line per node, by the name given; the verdicts of a long run are counted."""
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
