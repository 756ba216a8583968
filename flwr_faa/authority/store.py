"""The authority's memory: one SQLite file, which a kill at any moment leaves as it was before or after a request.

Write-ahead log, ``synchronous=FULL``: a transaction is on the disk when it has returned, and the authority lets a key
go only then. Nothing that may change is kept outside the file, so several processes may serve one.

The log table is append-only (triggers) and chained: each line holds the SHA-256 of the one before and of itself.
That shows any line changed, dropped or slipped in afterwards, short of forging all that follow it. Whoever can write
the file can do that, and holds the master keys too; a copy of the last hash, kept elsewhere, shows even that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr_faa.authority.budget import DIGEST, Digests
from flwr_faa.errors import ArgumentValueError

_VERSION = b"2"
_GENESIS = bytes(32)

# Node ids are 64-bit unsigned, more than SQLite's integers hold: text.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS key_pairs (
    node TEXT, width INTEGER, public BLOB NOT NULL, master BLOB NOT NULL, PRIMARY KEY (node, width));
CREATE TABLE IF NOT EXISTS nodes (node TEXT PRIMARY KEY, owner BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS owners (owner BLOB PRIMARY KEY, sets INTEGER NOT NULL, issued INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS keyed (owner BLOB, digest BLOB, PRIMARY KEY (owner, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sets (
    id INTEGER PRIMARY KEY, owner BLOB NOT NULL, node TEXT NOT NULL, root BLOB NOT NULL, samples INTEGER NOT NULL,
    width INTEGER NOT NULL, top INTEGER NOT NULL, carried INTEGER NOT NULL, peak INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS samples (set_id INTEGER, row INTEGER, stated BLOB NOT NULL, PRIMARY KEY (set_id, row));
CREATE TABLE IF NOT EXISTS nonces (nonce BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, node TEXT NOT NULL, detail TEXT NOT NULL,
    hash BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS log_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS log_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS log_insert BEFORE INSERT ON log
    WHEN NEW.id IS NOT (SELECT COALESCE(MAX(id), 0) + 1 FROM log)
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
"""


@dataclass(frozen=True)
class SampleSet:
    """A registered data set, as kept."""

    id: int
    owner: bytes
    node: str
    root: bytes
    samples: int
    width: int
    top: int
    carried: int
    peak: int


@dataclass(frozen=True)
class Line:
    """A line of the log."""

    id: int
    at: str
    event: str
    node: str
    detail: str
    hash: bytes

    def chained(self, before: bytes) -> bytes:
        """Return the hash that belongs to this line after one with that hash."""
        text = json.dumps([self.id, self.at, self.event, self.node, self.detail])
        return hashlib.sha256(before + text.encode()).digest()


class Store:
    """Keys, sets, counts and log. Every method that writes must be called in a ``transaction``.

    Parameters
    ----------
    path : Path, optional
        The file, created for its owner's eyes only. Without it everything is kept in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:  # SQLite gives its side files the mode of this one
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock, self._depth = threading.RLock(), 0
        self._db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        with self.transaction():
            version = self.meta("version")
            if version is None:
                self.set_meta("version", _VERSION)
            elif version != _VERSION:
                raise ArgumentValueError(
                    f"expected an authority's file of version {_VERSION.decode()}, got {version!r}"
                )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of a block or nothing, one block at a time over all processes; it is on disk after the outermost."""
        with self._lock:
            point, outer = f"level{self._depth}", self._depth == 0
            self._db.execute("BEGIN IMMEDIATE" if outer else f"SAVEPOINT {point}")
            self._depth += 1
            try:
                yield
                self._db.execute("COMMIT" if outer else f"RELEASE {point}")
            except BaseException:
                if self._db.in_transaction:  # a full disk has SQLite roll back by itself
                    self._db.execute("ROLLBACK" if outer else f"ROLLBACK TO {point}")
                raise
            finally:
                self._depth -= 1

    def meta(self, name: str) -> bytes | None:
        """Return a setting, or None."""
        row = self._one("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else bytes(row[0])

    def set_meta(self, name: str, value: bytes) -> None:
        """Keep a setting."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def key_pair(self, node: int, width: int) -> tuple[bytes, bytes] | None:
        """Return the public and the master key, encoded; None if never drawn."""
        row = self._one("SELECT public, master FROM key_pairs WHERE node = ? AND width = ?", str(node), width)
        return None if row is None else (row[0], row[1])

    def add_key_pair(self, node: int, width: int, public: bytes, master: bytes) -> None:
        """Keep a fresh one."""
        self._db.execute("INSERT INTO key_pairs VALUES (?, ?, ?, ?)", (str(node), width, public, master))

    def widths(self, node: int) -> list[int]:
        """Return the widths for which this node has keys."""
        return [width for (width,) in self._db.execute("SELECT width FROM key_pairs WHERE node = ?", (str(node),))]

    def nodes(self) -> list[int]:
        """Return all nodes with keys."""
        return sorted(int(node) for (node,) in self._db.execute("SELECT DISTINCT node FROM key_pairs"))

    def owner(self, node: int) -> bytes | None:
        """Return the client's key that this node belongs to."""
        row = self._one("SELECT owner FROM nodes WHERE node = ?", str(node))
        return None if row is None else bytes(row[0])

    def pin(self, node: int, owner: bytes) -> None:
        """Let this node belong to that key from now on."""
        self._db.execute("INSERT OR IGNORE INTO nodes VALUES (?, ?)", (str(node), owner))

    def current(self, owner: bytes) -> SampleSet | None:
        """Return the owner's set registered last: the only one that keys are issued for."""
        row = self._one("SELECT * FROM sets WHERE owner = ? ORDER BY id DESC LIMIT 1", owner)
        return None if row is None else SampleSet(*row)

    def add_set(self, owner: bytes, node: int, root: bytes, samples: int, width: int, top: int, carried: int) -> None:
        """Keep a registration, in place of the one before."""
        self._db.execute(
            "INSERT INTO sets (owner, node, root, samples, width, top, carried, peak) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            (owner, str(node), root, samples, width, top, carried),
        )
        self._tally(owner, sets=1)

    def counts(self, owner: bytes) -> tuple[int, int]:
        """Return how many sets are registered and how many keys issued."""
        return self._one("SELECT sets, issued FROM owners WHERE owner = ?", owner) or (0, 0)

    def keyed(self, owner: bytes) -> Digests:
        """Return the functions that have a key."""
        return frozenset(d for (d,) in self._db.execute("SELECT digest FROM keyed WHERE owner = ?", (owner,)))

    def issue(self, owner: bytes, digests: Digests, keys: int) -> None:
        """Count keys."""
        self._db.executemany("INSERT OR IGNORE INTO keyed VALUES (?, ?)", [(owner, d) for d in sorted(digests)])
        self._tally(owner, issued=keys)

    def stated(self, set_id: int, rows: Sequence[int]) -> dict[int, Digests]:
        """Return the functions whose values have been stated, by row."""
        found = {}
        for row in rows:
            blob = self._one("SELECT stated FROM samples WHERE set_id = ? AND row = ?", set_id, row) or (b"",)
            found[row] = frozenset(blob[0][i : i + DIGEST] for i in range(0, len(blob[0]), DIGEST))
        return found

    def state(self, set_id: int, stated: Mapping[int, Digests], peak: int) -> None:
        """Keep what has been stated by now, row by row."""
        rows = [(set_id, row, b"".join(sorted(found))) for row, found in stated.items()]
        self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", rows)
        self._db.execute("UPDATE sets SET peak = ? WHERE id = ?", (peak, set_id))

    def opened(self, set_id: int) -> int:
        """Return how many samples were named in some request."""
        return int(self._one("SELECT count(*) FROM samples WHERE set_id = ?", set_id)[0])

    def burn(self, nonce: bytes, at: int, now: int, window: int) -> bool:
        """Take a nonce, once; False for one taken before, or too old to tell. Times in milliseconds."""
        floor = int(self.meta("nonces forgotten until") or b"0")
        if at <= floor or self._one("SELECT 1 FROM nonces WHERE nonce = ?", nonce):
            return False
        self._db.execute("INSERT INTO nonces VALUES (?, ?)", (nonce, at))
        # Whatever is forgotten stays refused by its time, even if the clock is turned back.
        limit = now - 2 * window
        if self._db.execute("DELETE FROM nonces WHERE at <= ?", (limit,)).rowcount:
            self.set_meta("nonces forgotten until", str(max(floor, limit)).encode())
        return True

    def log(self, event: str, node: int | None, **detail: Any) -> None:
        """Append a line."""
        last = self._one("SELECT id, hash FROM log ORDER BY id DESC LIMIT 1") or (0, _GENESIS)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps(detail, sort_keys=True)
        line = Line(last[0] + 1, at, event, "" if node is None else str(node), text, b"")
        values = (line.id, line.at, line.event, line.node, line.detail, line.chained(last[1]))
        self._db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", values)

    def lines(self, last: int) -> list[Line]:
        """Return the last lines of the log, oldest first."""
        rows = self._db.execute("SELECT * FROM log ORDER BY id DESC LIMIT ?", (last,)).fetchall()
        return [Line(*row) for row in reversed(rows)]

    def check_log(self) -> int:
        """Count the lines, each of which must fit the one before; raise ValueError for the first that does not."""
        before, count = _GENESIS, 0
        for row in self._db.execute("SELECT * FROM log ORDER BY id"):
            line, count = Line(*row), count + 1
            if line.id != count or line.hash != line.chained(before):
                raise ArgumentValueError(f"expected an unchanged log, got another line {count}")
            before = line.hash
        return count

    def _tally(self, owner: bytes, sets: int = 0, issued: int = 0) -> None:
        self._db.execute("INSERT OR IGNORE INTO owners VALUES (?, 0, 0)", (owner,))
        change = "UPDATE owners SET sets = sets + ?, issued = issued + ? WHERE owner = ?"
        self._db.execute(change, (sets, issued, owner))

    def _one(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()
