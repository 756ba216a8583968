"""The ledger's file: its schema and versions, how a server opens it and how a reader does.

Write-ahead log: readers and the server do not wait for each other. ``synchronous=FULL``: a report is on the disk when
it has been recorded. Each commit is carried over into ``ledger.sqlite`` at once (``wal_autocheckpoint=1``), so a copy
of that one file is a whole ledger.

A change of the schema is one more script in ``_VERSIONS``. A server brings an older file up to date when it opens it;
a reader never does, and must do without what an older file lacks.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from flwr_faa import private
from flwr_faa.errors import ArgumentValueError

#: The script that leads to version 1, to version 2, and so on. Files of release 0.1 say that they are version 0.
_VERSIONS = (
    """
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
CREATE INDEX verdicts_by_round ON verdicts (round_id, verdict, accepted);
CREATE INDEX verdicts_by_node ON verdicts (node_id, suspect, verdict, banned);
CREATE INDEX disclosures_by_node ON disclosures (node_id);
""",
)
VERSION = len(_VERSIONS)
#: Bytes of the largest value that is read; a report's longest text is far below.
_LONGEST = 10_000_000


def connect(path: Path) -> sqlite3.Connection:
    """Open a server's ledger for writing: created for its owner only, or brought up to date.

    Raises
    ------
    ValueError
        If it cannot be written, or if a newer release wrote it.
    """
    side = [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]
    if not path.exists():
        for orphan in side:  # of a file that has been deleted: SQLite would take it for this one's
            orphan.unlink(missing_ok=True)
    try:
        private.file(path)
        # The strategy may live in another thread than the one that made it (Flower's simulation does that).
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise ArgumentValueError(f"expected a ledger that can be written, got {path}: {error}") from error
    try:
        _upgrade(db, path)
    except sqlite3.OperationalError as error:
        db.close()
        raise ArgumentValueError(f"expected a ledger that can be written, got {path}: {error}") from error
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all of a block or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has SQLite roll back by itself
            db.execute("ROLLBACK")
        raise


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading, whatever state a killed server left it in.

    What a kill leaves is a log or a journal beside the file, which the next one to open it has to work off. A reader
    who may write there does so. One who may not works on a copy.
    """
    uri = f"file:{quote(str(path.resolve()))}?mode="
    for mode in ("ro", "rw"):  # read-only opening cannot roll back the journal that release 0.1 kept
        if (db := _readable(uri + mode)) is not None:
            break
    else:
        with (
            tempfile.TemporaryDirectory(prefix="faa-ledger-") as folder,
            closing(sqlite3.connect(_copy(path, Path(folder)))) as copy,
        ):
            yield _limited(copy)
        return
    with closing(db):
        yield _limited(db)


def _upgrade(db: sqlite3.Connection, path: Path) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise ArgumentValueError(f"expected a ledger of version {VERSION} or older, got version {version}: {path}")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=1")
    try:
        db.execute("PRAGMA journal_mode=WAL")
        with transaction(db):  # also where there is nothing to upgrade: it shows whether this file can be written
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            for script in _VERSIONS[version:]:
                for statement in script.split(";"):
                    db.execute(statement)
            if version < VERSION:
                db.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.OperationalError as error:
        if version < VERSION or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise  # one that is up to date and only locked will be free again
    if version == 0:  # release 0.1 left the modes to the umask
        for old in (path, path.with_name("rounds.jsonl")):
            if old.exists():
                os.chmod(old, 0o600)


def _readable(uri: str) -> sqlite3.Connection | None:
    db = sqlite3.connect(uri, uri=True)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return None
        raise
    except BaseException:
        db.close()
        raise
    return db


def _copy(path: Path, folder: Path) -> Path:
    files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-journal"))]
    for _ in range(10):
        before = [_state(file) for file in files]
        for file, state in zip(files, before, strict=True):
            (folder / file.name).unlink(missing_ok=True)
            if state is not None:
                shutil.copyfile(file, folder / file.name)
        if before == [_state(file) for file in files]:
            return folder / path.name
    raise sqlite3.OperationalError("expected a ledger at rest, got one that changes while it is copied")


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _limited(db: sqlite3.Connection) -> sqlite3.Connection:
    """Set bounds for a file that somebody else may have made."""
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA query_only = ON")
    return db
