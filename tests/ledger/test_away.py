"""A ledger that cannot be written costs log lines and is tried again; bans and strikes hold meanwhile."""

import copy
import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apps.field.keys import certify, node_key
from flwr_faa.ledger import cli as ledger_cli
from flwr_faa.ledger import store as module
from flwr_faa.ledger.history import History
from flwr_faa.ledger.store import Ledger
from tests.authority.parties import run
from tests.ledger.ledgers import banning as report
from tests.ledger.ledgers import write

ROOT = Path(__file__).parents[2]


def rounds_of(folder: Path) -> tuple[list[int], list[int]]:
    """In the database, and in the lines."""
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [r["round"] for r in History(folder).rounds(1_000)], [json.loads(line)["round"] for line in lines]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)  # Flower's logger keeps to itself
    return caplog


def test_a_locked_ledger_does_not_end_the_run(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(tmp_path)
    assert ledger._db is not None
    ledger._db.execute("PRAGMA busy_timeout = 20")
    ledger.record(report(1))
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for server_round in (2, 3):
        ledger.record(report(server_round))
    assert ledger.bans == {101: "differs", 102: "differs", 103: "differs"}  # at once, disk or not
    assert ledger.strikes == {1: 3}
    assert "database is locked" in told.text and "2 reports wait" in told.text
    assert rounds_of(tmp_path) == ([1], [1, 2, 3])
    other.execute("ROLLBACK")
    ledger.record(report(4))
    assert rounds_of(tmp_path) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert (len(ledger.bans), ledger.strikes) == (4, {1: 4})
    ledger.lift(102)
    assert 102 not in ledger.bans and 102 not in Ledger(tmp_path).bans


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger._db is not None
    ledger._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.record(report(1))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        ledger.lift(101)  # a lift that is not on record is an error
    other.execute("ROLLBACK")
    ledger.close()
    assert rounds_of(tmp_path) == ([1], [1])


def test_memory_is_bounded_and_bans_are_never_lost(
    tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    ledger = Ledger(tmp_path)
    assert ledger._db is not None
    ledger._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for server_round in range(1, 21):
        ledger.record(report(server_round))
    assert sum(row["verdict"] == "trusted" for plain in ledger._rows.waiting for row in plain["nodes"]) <= 3
    assert "round 1 waited too long" in told.text
    other.execute("ROLLBACK")
    ledger.record(report(21))
    ledger.close()
    again = Ledger(tmp_path)
    assert (len(again.bans), again.strikes) == (21, {1: 21})
    assert rounds_of(tmp_path) == (list(range(1, 22)), list(range(1, 22)))


FULL = """
import json, resource, sys
from flwr_faa.ledger.store import Ledger
from tests.ledger.ledgers import banning as report
ledger = Ledger(sys.argv[1])
ledger.record(report(1))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
for server_round in range(2, 40):
    ledger.record(report(server_round))
full = [len(ledger.bans), ledger.strikes[1], len(ledger._rows.waiting), len(ledger._lines.waiting)]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ledger.record(report(40))
print(json.dumps([full, len(ledger.bans), ledger.strikes[1]]))
"""


@pytest.mark.parametrize("size", [0, 1_000, 5_000])
def test_a_full_disk_does_not_end_the_run(tmp_path: Path, size: int) -> None:
    """No file may grow beyond a size, which is what a full disk looks like."""
    command = [sys.executable, "-c", FULL, str(tmp_path), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (bans, strikes, rows, lines), *after = json.loads(done.stdout)
    assert (bans, strikes) == (39, 39) and rows > 0 and lines > 0
    assert after == [40, 40]
    assert rounds_of(tmp_path) == (list(range(1, 41)), list(range(1, 41)))
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    try:
        ledger = Ledger(tmp_path / "var" / "faa")
        ledger.record(report(1))
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "var").rglob("*")}
    files = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "rounds.jsonl")
    assert found == {"faa": 0o700, **dict.fromkeys(files, 0o600)}
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # the user's own folder stays as it is
    ledger.close()
    assert {p.name for p in (tmp_path / "var" / "faa").iterdir()} == {"ledger.sqlite", "rounds.jsonl"}


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_so_are_the_authoritys_and_the_federations(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert run("init", tmp_path / "state" / "authority").exit_code == 0
        certify(tmp_path / "state" / "link", ["127.0.0.1"])
        node_key(tmp_path / "state" / "node")
        write(tmp_path / "state" / "ledger", 2)
        exported = ["export", str(tmp_path / "state" / "ledger"), "--out", str(tmp_path / "state" / "verdicts.csv")]
        assert CliRunner().invoke(ledger_cli.app, exported).exit_code == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_log_left_behind_is_not_taken_for_a_new_ledgers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger._db is not None
    ledger._db.execute("PRAGMA wal_autocheckpoint = 0")
    ledger.record(report(1))
    log = (tmp_path / "ledger.sqlite-wal").read_bytes()
    ledger.close()
    (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "ledger.sqlite-wal").write_bytes(log)
    assert Ledger(tmp_path).bans == {}


def test_copies(tmp_path: Path) -> None:
    memory, kept = Ledger(), Ledger(tmp_path)
    for ledger in (memory, kept):
        ledger.record(report(1))
        for twin in (copy.deepcopy(ledger), pickle.loads(pickle.dumps(ledger))):  # noqa: S301 - our own
            assert (twin.bans, twin.strikes) == (ledger.bans, ledger.strikes) == ({101: "differs"}, {1: 1})
    twin = copy.deepcopy(memory)
    twin.record(report(2))
    assert memory.strikes == {1: 1}


def test_what_is_noted_replaces_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, annotate=lambda node: {"name": f"pi-{node}", "verdict": "trusted", "path": Path("x")})
    ledger.record(report(1))
    assert [(v["node_id"], v["name"], v["verdict"]) for v in History(tmp_path).verdicts()] == [
        ("1", "pi-1", "missing"), ("2", "pi-2", "trusted"), ("101", "pi-101", "convicted"),
    ]  # fmt: skip
