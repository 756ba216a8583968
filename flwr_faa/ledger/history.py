"""What a ledger tells, read-only: for the terminal (``faa-ledger``) and for the live page.

The file may come from anybody: every value is converted on its way out of the database, to a number or a printable
text, so that no reader has to. Questions are short: a reader holds no cursor while somebody prints.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr_faa.errors import NoLedgerError
from flwr_faa.ledger import file as ledger_file
from flwr_faa.report import Outcome
from flwr_faa.terminal import printable

_SELECTED = """
SELECT v.rowid AS id, r.id AS round_id, r.at, r.round, r.verifier, v.node_id, v.verdict, v.accepted, v.suspect, v.score,
    r.score_threshold, v.error, v.threshold, v.banned, v.reason, v.notes
FROM verdicts v JOIN rounds r ON r.id = v.round_id
WHERE v.rowid > :after AND (:node IS NULL OR v.node_id = :node) AND v.round_id > :since
ORDER BY v.rowid LIMIT :limit"""
_LATEST = """
SELECT v.rowid AS id, r.id AS round_id, r.at, r.round, r.verifier, v.node_id, v.verdict, v.accepted, v.suspect, v.score,
    r.score_threshold, v.error, v.threshold, v.banned, v.reason, v.notes, n.rounds, n.suspected, n.convicted, n.missing,
    n.banned_in
FROM (SELECT node_id, max(rowid) AS last, count(*) AS rounds, sum(suspect) AS suspected,
        sum(verdict = :convicted) AS convicted, sum(verdict = :missing) AS missing,
        max(CASE WHEN banned THEN rowid END) AS banned_in
    FROM verdicts GROUP BY node_id) n
JOIN verdicts v ON v.rowid = n.last JOIN rounds r ON r.id = v.round_id"""
_ROUNDS = """
SELECT r.id, r.at, r.round, r.verifier, r.score_threshold, r.failed_closed, r.seconds,
    (SELECT sum(accepted) FROM verdicts WHERE round_id = r.id) AS accepted
FROM rounds r WHERE r.id > :since ORDER BY r.id DESC LIMIT :last"""
_KNOWN = "SELECT * FROM disclosures WHERE rowid IN (SELECT max(rowid) FROM disclosures GROUP BY node_id)"
_WHEN = "SELECT v.node_id, r.at FROM verdicts v JOIN rounds r ON r.id = v.round_id WHERE v.rowid = ?"
#: Verdicts fetched at a time.
_PAGE = 2_000
_TEXTS = {
    "at", "verifier", "node_id", "verdict", "reason", "notes", "seconds", "data", "name", "type", "withheld",
}  # fmt: skip
#: What older and newer files may lack.
_DISCLOSED = dict.fromkeys(
    ("samples", "samples_opened", "max_rank", "dimension", "budget", "remaining", "enrolments", "keys_issued"), 0
)
_MEASURED = {"score", "score_threshold", "error", "threshold"}
Row = dict[str, Any]


@dataclass(frozen=True)
class NodeHistory:
    """The history of one node over all rounds.

    Attributes
    ----------
    node_id : str
    name : str
        What ``Ledger(annotate=)`` calls it; empty if it gives no name.
    rounds, suspected, convicted, missing : int
        Rounds that it took part in, was named by the detector, contradicted by its evidence, gave none.
    strikes : int
        Those that count towards a ban.
    ban : str
        Why it is banned; empty if it is not.
    banned_at : str
        Time (UTC) of the report that banned it; empty if it is not.
    last : mapping
        Its last verdict, as ``History.verdicts`` has it.
    disclosure : mapping or None
        What is known of its data as of the last round that counted (see ``flwr_faa.report``); None if nothing is.
    """

    node_id: str
    name: str
    rounds: int
    suspected: int
    convicted: int
    missing: int
    strikes: int
    ban: str
    banned_at: str
    last: Mapping[str, Any]
    disclosure: Mapping[str, Any] | None

    @property
    def state(self) -> str:
        """``banned``, ``watched`` (it was suspected or is struck), or ``good``."""
        return "banned" if self.ban else "watched" if self.strikes or self.suspected else "good"


@dataclass(frozen=True)
class History:
    """A ledger's folder, opened for every question anew and never written to.

    Parameters
    ----------
    folder : path
        Where ``Ledger(folder)`` writes, maybe right now.

    Raises
    ------
    NoLedgerError
        From every method, if there is no ledger.
    sqlite3.Error
        From every method, if the file is none.
    """

    folder: Path

    def rounds(self, last: int, since: int = 0) -> list[Row]:
        """Return the last rounds after the one with the id ``since``, oldest first, with their nodes by outcome."""
        with self._open() as db:
            found = db.execute(_ROUNDS, {"since": since, "last": last}).fetchall()[::-1]
            for row in found:
                counted = "SELECT verdict, count(*) AS nodes FROM verdicts WHERE round_id = ? GROUP BY verdict"
                row["outcomes"] = {r["verdict"]: r["nodes"] for r in db.execute(counted, [row["id"]])}
                row["nodes"] = sum(row["outcomes"].values())
        return found

    def verdicts(self, node_id: object = None, last: int | None = None, since: int = 0) -> list[Row]:
        """Return verdicts, oldest first: all, one node's, those of the last rounds, or those after the id ``since``."""
        if last is not None:
            with self._open() as db:
                newest = db.execute("SELECT max(id) AS id FROM rounds").fetchone()["id"]
            since = max(since, newest - last)
        return list(self.each_verdict(node_id, since))

    def each_verdict(self, node_id: object = None, since: int = 0) -> Iterator[Row]:
        """Yield one verdict after the other, fetched page by page: between two pages nothing is open."""
        with self._open() as db:
            first = db.execute("SELECT min(rowid) AS id FROM verdicts WHERE round_id > ?", [since]).fetchone()["id"]
        node = None if node_id is None else str(node_id)
        wanted = {"node": node, "since": since, "limit": _PAGE, "after": first - 1}
        while True:
            with self._open() as db:
                rows = db.execute(_SELECTED, wanted).fetchall()
            yield from map(_verdict, rows)
            if len(rows) < _PAGE or rows[-1]["id"] <= wanted["after"]:
                return
            wanted["after"] = rows[-1]["id"]

    def nodes(self) -> list[NodeHistory]:
        """Return every node that was ever reported on: the banned first, then the watched, then by node id."""
        with self._open() as db:
            bans = {r["node_id"]: r["reason"] or "banned" for r in db.execute("SELECT node_id, reason FROM bans")}
            strikes = {r["node_id"]: r["count"] for r in db.execute("SELECT node_id, count FROM strikes")}
            rows = db.execute(_LATEST, {"convicted": Outcome.CONVICTED, "missing": Outcome.MISSING}).fetchall()
            known = {r["node_id"]: _DISCLOSED | r for r in db.execute(_KNOWN)} if _has(db, "disclosures") else {}
            when = {r["node_id"]: r["at"] for row in rows for r in db.execute(_WHEN, [row["banned_in"]])}
        found = []
        for row in rows:
            node = row["node_id"]
            rounds, suspected, convicted, missing = (
                row.pop(n) for n in ("rounds", "suspected", "convicted", "missing")
            )
            last = _verdict(row)
            found.append(
                NodeHistory(
                    node, last["name"], rounds, suspected, convicted, missing, strikes.get(node, 0), bans.get(node, ""),
                    when.get(node, "") if node in bans else "", last, known.get(node),
                )
            )  # fmt: skip
        states = ("banned", "watched", "good")
        return sorted(found, key=lambda n: (states.index(n.state), len(n.node_id), n.node_id))

    def banned_in(self, server_round: int) -> list[str]:
        """Return the ids of the nodes that were banned in the round of that number, of whichever run, and still are."""
        with self._open() as db:
            banned = db.execute("SELECT node_id FROM bans WHERE round = ? ORDER BY rowid", [server_round]).fetchall()
        return [row["node_id"] for row in banned]

    def lifts(self) -> list[Row]:
        """Return the bans that were lifted, and when."""
        with self._open() as db:
            return db.execute("SELECT node_id, at, reason FROM lifts").fetchall() if _has(db, "lifts") else []

    def mark(self) -> str:
        """Return a text that changes whenever the ledger does."""
        with self._open() as db:
            parts = ["rounds", "verdicts", "bans", "strikes", *(["lifts"] if _has(db, "lifts") else [])]
            marks = [db.execute(f"SELECT max(rowid) AS id FROM {part}").fetchone()["id"] for part in parts]  # noqa: S608
            struck = db.execute("SELECT count(*) AS nodes, sum(count) AS count FROM strikes").fetchone()
            banned = db.execute("SELECT count(*) AS nodes FROM bans").fetchone()
        return ".".join(map(str, [*marks, struck["nodes"], struck["count"], banned["nodes"]]))

    def running(self) -> bool | None:
        """Return whether a server has the ledger open right now; None where that cannot be told."""
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            for attempt in range(5):
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return False
                except BlockingIOError:  # by a server, or for a moment by another reader that asks the same
                    time.sleep(0.001 * attempt)
            return True
        except OSError:
            return None
        finally:
            os.close(folder)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / "ledger.sqlite"
        if not path.is_file():
            raise NoLedgerError(f"expected a ledger's folder, got {self.folder} without ledger.sqlite")
        with ledger_file.reading(path) as db:
            db.text_factory = lambda raw: raw.decode(errors="replace")
            db.row_factory = _row
            for table in ("rounds", "verdicts", "bans", "strikes"):
                if not _has(db, table):
                    raise sqlite3.DatabaseError(f"expected a ledger, got a file without the table {table!r}: {path}")
            yield db


def _has(db: sqlite3.Connection, table: str) -> bool:
    return (
        db.execute("SELECT name FROM sqlite_master WHERE name = ? AND type = 'table'", [table]).fetchone() is not None
    )


def _row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    names = [printable(column[0]) for column in cursor.description]
    return {name: _converted(name, value) for name, value in zip(names, values, strict=True)}


def _converted(name: str, value: object) -> object:
    """Convert a column to what it should hold: a text, a measured number or None, or a count."""
    if name == "notes":
        return value if isinstance(value, str) else "{}"  # read by _verdict
    if name in _TEXTS:
        return "" if value is None else printable(value.decode(errors="replace") if isinstance(value, bytes) else value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None if name in _MEASURED else 0
    if not math.isfinite(number):
        return None if name in _MEASURED else 0
    if name in _MEASURED:
        return number
    count = value if isinstance(value, int) else int(number)
    return count if -(2**63) <= count < 2**63 else 0  # ids go back into the next question


def _verdict(row: Row) -> Row:
    try:
        notes = json.loads(row.pop("notes"))
        told = {printable(k): printable(v) for k, v in notes.items()}
    except (ValueError, AttributeError, RecursionError):
        told = {}
    name, withheld = told.pop("name", ""), told.pop("withheld", "")
    return {**row, "name": name, "withheld": withheld, "notes": told}
