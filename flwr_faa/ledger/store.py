"""Where reports go, and what must outlive the server: bans and strikes."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr_faa import expected, private
from flwr_faa.errors import ArgumentValueError
from flwr_faa.ledger.file import connect, transaction
from flwr_faa.report import Outcome, RoundReport

#: Verdicts that wait in memory, at most, for a file that cannot be written.
MOST_WAITING = 100_000
_COLUMNS = {"node_id", "verdict", "accepted", "suspect", "score", "error", "threshold", "reason", "banned"}

logger = logging.getLogger("flwr")
Plain = dict[str, Any]


class Ledger:
    """Reports, strikes and bans in ``ledger.sqlite``, and each report as a line of ``rounds.jsonl``.

    Both files are for their owner only. If one cannot be written (locked, full disk, a mount that became read-only),
    its reports wait in memory, in order, and are tried again with every round. The run goes on, and bans and strikes
    count from the moment they are recorded.

    Node ids are 64-bit unsigned, more than SQLite's integers hold, so they are stored as text.

    Parameters
    ----------
    folder : path, optional
        Created if needed. A ledger found there is continued: bans and strikes hold on. Without it everything is kept
        in memory.
    annotate : callable, optional
        ``annotate(node_id)`` returns what else to note about a node, e.g. ``{"name": "pi-3", "ward": "B"}``. The
        ``name`` is shown beside the node id, and nothing noted replaces what the report itself says.

    Raises
    ------
    ValueError
        If the ledger cannot be written, or if a newer release wrote it.

    Examples
    --------
    >>> with_names = Ledger("ledger", annotate=lambda node_id: {"name": f"pi-{node_id}"})
    >>> with_names.bans, dict(with_names.strikes)
    (..., {})
    >>> with_names.close()
    """

    def __init__(
        self, folder: str | Path | None = None, annotate: Callable[[int], Mapping[str, Any]] | None = None
    ) -> None:
        if annotate is not None:
            expected.function("annotate", annotate, "a node id")
        if folder is not None:
            expected.folder("folder", folder)
        self._annotate = annotate or _nothing
        self._bans: dict[int, str] = {}  # as last read
        self._strikes: Counter[int] = Counter()
        self._db: sqlite3.Connection | None = None
        self._folder = folder
        if folder is None:
            return
        place = private.folder(Path(folder))
        self._db = connect(place / "ledger.sqlite")
        lines = place / "rounds.jsonl"
        _repair(lines)
        self._rows = _Backlog(str(place / "ledger.sqlite"), lambda plain: _insert(db, plain))
        self._lines = _Backlog(str(lines), lambda plain: _append(lines, plain))
        db = self._db
        # While this lock is held, the live page says that the server is running. It ends with the process.
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        self._end = weakref.finalize(self, _close, db, lock, self._rows, self._lines)

    @property
    def bans(self) -> dict[int, str]:
        """Banned nodes and why."""
        return self._now()[0]

    @property
    def strikes(self) -> dict[int, int]:
        """Strikes by node."""
        return dict(self._now()[1])

    def record(self, report: RoundReport) -> None:
        """Write a report with the strikes and bans it brings; all of it or nothing."""
        plain = report.to_json()
        for rows in (plain["nodes"], plain["disclosures"]):
            rows[:] = [{**self._annotate(row["node_id"]), **row} for row in rows]
        if self._db is None:
            _count(plain, self._bans, self._strikes)
        else:
            self._rows.put(plain)
            self._lines.put(plain)

    def lift(self, node_id: int) -> None:
        """Lift a ban and forget the strikes; that it was lifted stays on record, with the reason of the ban."""
        self._bans.pop(node_id, None)
        self._strikes.pop(node_id, None)
        if self._db is None:
            return
        self._rows.flush()
        node = [str(node_id)]
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO lifts (node_id, reason) SELECT node_id, reason FROM bans WHERE node_id = ?", node
            )
            self._db.execute("DELETE FROM bans WHERE node_id = ?", node)
            self._db.execute("DELETE FROM strikes WHERE node_id = ?", node)

    def close(self) -> None:
        """Close the files, after a last try to write what waits."""
        if self._db is not None:
            self._end()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy opens the same files; one that is kept in memory takes along what it knows.
        state = {"_bans": dict(self._bans), "_strikes": Counter(self._strikes)}
        return Ledger, (self._folder, self._annotate), state

    def _now(self) -> tuple[dict[int, str], Counter[int]]:
        """Return the bans and strikes on disk and in waiting reports. Another process may have lifted some."""
        if self._db is None:
            return dict(self._bans), Counter(self._strikes)
        try:
            bans = {int(n): str(r) for n, r in self._db.execute("SELECT node_id, reason FROM bans")}
            strikes = Counter({int(n): int(c) for n, c in self._db.execute("SELECT node_id, count FROM strikes")})
        except sqlite3.ProgrammingError:
            raise  # it is closed
        except sqlite3.Error as error:
            logger.warning("faa: the ledger cannot be read (%s): bans and strikes are as last known", error)
        else:
            self._bans, self._strikes = bans, strikes
        bans, strikes = dict(self._bans), Counter(self._strikes)
        for plain in self._rows.waiting:
            _count(plain, bans, strikes)
        return bans, strikes


class _Backlog:
    """Reports on their way into a file, in order. A file that cannot be written costs a log line and a later try."""

    def __init__(self, name: str, write: Callable[[Plain], None]) -> None:
        self.waiting: deque[Plain] = deque()
        self._name, self._write = name, write

    def put(self, plain: Plain) -> None:
        """Write a report, behind those that wait."""
        self.waiting.append(plain)
        self.flush()
        kept = 0
        for i in reversed(range(len(self.waiting))):  # the newest in full; of older ones what bans and strikes need
            if (kept := kept + len(self.waiting[i]["nodes"])) > MOST_WAITING and "lost" not in self.waiting[i]:
                whole = self.waiting[i]
                nodes = [row for row in whole["nodes"] if _struck(row) or row["banned"]]
                self.waiting[i] = {**whole, "nodes": nodes, "disclosures": [], "lost": len(whole["nodes"]) - len(nodes)}
                logger.error("faa: round %d waited too long for %s: only bans are kept", whole["round"], self._name)

    def flush(self) -> None:
        """Write what waits, as far as possible."""
        while self.waiting:
            try:
                self._write(self.waiting[0])
            except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError):
                raise  # no later try would help
            except (sqlite3.Error, OSError) as error:
                told = "faa: %s cannot be written (%s): %d reports wait in memory"
                logger.warning(told, self._name, error, len(self.waiting))
                return
            self.waiting.popleft()


def _nothing(node_id: int) -> Mapping[str, Any]:
    return {}


def _struck(row: Plain) -> bool:
    return row["verdict"] == Outcome.MISSING and not row["withheld"]


def _count(plain: Plain, bans: dict[int, str], strikes: Counter[int]) -> None:
    """Add the bans and strikes that a report brings."""
    for row in plain["nodes"]:
        strikes[row["node_id"]] += _struck(row)
        if row["banned"]:
            bans.setdefault(row["node_id"], row["reason"])
    for node in [node for node, count in strikes.items() if not count]:
        del strikes[node]


def _insert(db: sqlite3.Connection, plain: Plain) -> None:
    with transaction(db):
        head = [plain[k] for k in ("round", "verifier", "score_threshold", "failed_closed")]
        round_id = db.execute(
            "INSERT INTO rounds (round, verifier, score_threshold, failed_closed, seconds) VALUES (?, ?, ?, ?, ?)",
            [*head, json.dumps(plain["seconds"])],
        ).lastrowid
        for row in plain["nodes"]:
            node = str(row["node_id"])
            notes = json.dumps({k: v for k, v in row.items() if k not in _COLUMNS and v != ""}, default=str)
            db.execute(
                "INSERT INTO verdicts (round_id, node_id, verdict, accepted, suspect, score, error, threshold, reason,"
                " banned, notes) VALUES (:round_id, :node_id, :verdict, :accepted, :suspect, :score, :error,"
                " :threshold, :reason, :banned, :notes)",
                row | {"round_id": round_id, "node_id": node, "notes": notes},
            )
            if _struck(row):
                db.execute(
                    "INSERT INTO strikes VALUES (?, 1) ON CONFLICT (node_id) DO UPDATE SET count = count + 1", [node]
                )
            if row["banned"]:
                ban = [node, plain["round"], row["reason"]]
                db.execute("INSERT OR IGNORE INTO bans (node_id, round, reason) VALUES (?, ?, ?)", ban)
        for row in plain["disclosures"]:
            db.execute(
                "INSERT INTO disclosures (round_id, node_id, data, samples, samples_opened, max_rank, dimension,"
                " budget, remaining, enrolments, keys_issued) VALUES (:round_id, :node_id, :data, :samples,"
                " :samples_opened, :max_rank, :dimension, :budget, :remaining, :enrolments, :keys_issued)",
                row | {"round_id": round_id, "node_id": str(row["node_id"])},
            )


def _append(path: Path, plain: Plain) -> None:
    rest = json.dumps(plain, default=str).encode() + b"\n"
    with private.file(path).open("ab", buffering=0) as lines:
        size = lines.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[lines.write(rest) :]
        except OSError:  # a full disk takes half a line
            lines.truncate(size)
            raise


def _repair(path: Path) -> None:
    """Take back a last line that a kill has cut off: its report is in the database, or was never recorded."""
    try:
        with private.file(path).open("r+b") as lines:
            end = lines.seek(0, os.SEEK_END)
            position = end
            while position and (lines.seek(position - 1), lines.read(1))[1] != b"\n":
                position -= 1
            if position < end:
                lines.truncate(position)
    except OSError as error:
        raise ArgumentValueError(f"expected a ledger that can be written, got {path}: {error}") from error


def _close(db: sqlite3.Connection, lock: int, *backlogs: _Backlog) -> None:
    for backlog in backlogs:
        backlog.flush()
        if backlog.waiting:
            rounds = [plain["round"] for plain in backlog.waiting]
            logger.error("faa: rounds %d to %d were never written", rounds[0], rounds[-1])
    db.close()
    os.close(lock)
