"""Where reports go, and what must outlive the server: bans and strikes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr_faa.verdict import Outcome, RoundReport

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP, round INTEGER, verifier TEXT, score_threshold REAL,
    failed_closed INTEGER, seconds TEXT);
CREATE TABLE IF NOT EXISTS verdicts (
    round_id INTEGER REFERENCES rounds(id), node_id TEXT, verdict TEXT, accepted INTEGER, suspect INTEGER, score REAL,
    error REAL, threshold REAL, reason TEXT, banned INTEGER, notes TEXT);
CREATE TABLE IF NOT EXISTS disclosures (
    round_id INTEGER REFERENCES rounds(id), node_id TEXT, data TEXT, samples INTEGER, samples_opened INTEGER,
    max_rank INTEGER, dimension INTEGER, budget INTEGER, remaining INTEGER, enrolments INTEGER, keys_issued INTEGER);
CREATE TABLE IF NOT EXISTS strikes (node_id TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS bans (node_id TEXT PRIMARY KEY, round INTEGER, reason TEXT);
CREATE TABLE IF NOT EXISTS lifts (node_id TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP, reason TEXT);
"""


class Ledger:
    """Reports, strikes and bans in ``ledger.sqlite``, and each report as a line of ``rounds.jsonl``.

    Node ids are 64-bit unsigned, more than SQLite's integers hold, so they are stored as text.

    Parameters
    ----------
    folder : path, optional
        Created if needed. A ledger found there is continued: bans and strikes hold on. Without it everything is kept
        in memory.
    annotate : callable, optional
        ``annotate(node_id)`` returns what else to note about a node, e.g. ``{"device": "pi-3"}``.
    """

    def __init__(
        self, folder: str | Path | None = None, annotate: Callable[[int], Mapping[str, Any]] | None = None
    ) -> None:
        self._lines: Path | None = None
        self._annotate = annotate or (lambda _: {})
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._lines = Path(folder) / "rounds.jsonl"
        # The strategy may live in another thread than the one that made it (Flower's simulation does that); calls
        # never overlap.
        database = ":memory:" if folder is None else str(Path(folder) / "ledger.sqlite")
        self._db = sqlite3.connect(database, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    @property
    def bans(self) -> dict[int, str]:
        """Banned nodes and why."""
        return {int(n): str(r) for n, r in self._db.execute("SELECT node_id, reason FROM bans")}

    @property
    def strikes(self) -> dict[int, int]:
        """Strikes by node."""
        return {int(n): int(c) for n, c in self._db.execute("SELECT node_id, count FROM strikes")}

    def record(self, report: RoundReport) -> None:
        """Write a report with the strikes and bans it brings; all of it or nothing."""
        plain = report.to_json()
        for row in (*plain["nodes"], *plain["disclosures"]):
            row.update(self._annotate(row["node_id"]))
        known = {"node_id", "verdict", "accepted", "suspect", "score", "error", "threshold", "reason", "banned"}
        with self._db:
            head = [plain[k] for k in ("round", "verifier", "score_threshold", "failed_closed")]
            cursor = self._db.execute(
                "INSERT INTO rounds (round, verifier, score_threshold, failed_closed, seconds) VALUES (?, ?, ?, ?, ?)",
                [*head, json.dumps(plain["seconds"])],
            )
            for row in plain["nodes"]:
                notes = json.dumps({k: v for k, v in row.items() if k not in known and v != ""})
                values = row | {"round_id": cursor.lastrowid, "node_id": str(row["node_id"]), "notes": notes}
                self._db.execute(
                    "INSERT INTO verdicts VALUES (:round_id, :node_id, :verdict, :accepted, :suspect, :score, :error,"
                    " :threshold, :reason, :banned, :notes)",
                    values,
                )
                if row["verdict"] == Outcome.MISSING and not row["withheld"]:
                    self._db.execute(
                        "INSERT INTO strikes VALUES (?, 1) ON CONFLICT (node_id) DO UPDATE SET count = count + 1",
                        [str(row["node_id"])],
                    )
                if row["banned"]:
                    ban = [str(row["node_id"]), plain["round"], row["reason"]]
                    self._db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?, ?)", ban)
            for row in plain["disclosures"]:
                self._db.execute(
                    "INSERT INTO disclosures VALUES (:round_id, :node_id, :data, :samples, :samples_opened, :max_rank,"
                    " :dimension, :budget, :remaining, :enrolments, :keys_issued)",
                    row | {"round_id": cursor.lastrowid, "node_id": str(row["node_id"])},
                )
        if self._lines is not None:
            with self._lines.open("a") as lines:
                lines.write(json.dumps(plain) + "\n")

    def lift(self, node_id: int) -> None:
        """Lift a ban and forget the strikes; that it was lifted stays on record, with the reason of the ban."""
        with self._db:
            self._db.execute(
                "INSERT INTO lifts (node_id, reason) SELECT node_id, reason FROM bans WHERE node_id = ?", [str(node_id)]
            )
            self._db.execute("DELETE FROM bans WHERE node_id = ?", [str(node_id)])
            self._db.execute("DELETE FROM strikes WHERE node_id = ?", [str(node_id)])

    def close(self) -> None:
        """Close the database."""
        self._db.close()
