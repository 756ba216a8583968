"""The file: what a restart, a failure and a visitor with a will find there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from flwr_faa.authority import BudgetExceeded, LocalAuthority
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.store import Store
from tests.authority.parties import Signer, check, count, facts, functions


def test_a_restart_keeps_everything(tmp_path: Path, client: Signer) -> None:
    path = tmp_path / "authority.db"
    store = Store(path)
    KeyAuthority.create(store)
    first = KeyAuthority(store)
    root = client.enrol(first)
    asked, seed = functions(5), b"s" * 32
    found = check(first, client.node, root, asked, seed, rows=[4])
    before, known = facts(first), first.disclosure(client.node)
    store.close()
    again = KeyAuthority(Store(path))
    assert facts(again) == before
    assert again.disclosure(client.node) == known
    assert again.verify_key == first.verify_key
    assert check(again, client.node, root, asked, seed, rows=[4]) == found
    with pytest.raises(BudgetExceeded):
        check(again, client.node, root, 2)
    with pytest.raises(ValueError, match="expected an empty store"):
        KeyAuthority.create(again.store)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("authority.db", "authority.db-wal", "authority.db-shm"), "0o600")


def test_the_log_is_append_only_and_chained(tmp_path: Path, client: Signer) -> None:
    path = tmp_path / "authority.db"
    store = Store(path)
    KeyAuthority.create(store)
    root = client.enrol(authority := KeyAuthority(store))
    for _ in range(3):
        count(authority, client.node, root)
    assert store.check_log() == 6
    db = sqlite3.connect(path, isolation_level=None)
    for statement in (
        "UPDATE log SET detail = ''",
        "DELETE FROM log",
        "INSERT OR REPLACE INTO log SELECT id, at, event, node, '', hash FROM log WHERE id = 3",
        "INSERT INTO log VALUES (99, '', '', '', '', x'')",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    assert store.check_log() == 6
    for trigger in ("log_update", "log_delete", "log_insert"):  # somebody with the file and a will
        db.execute(f"DROP TRIGGER {trigger}")
    db.execute("UPDATE log SET detail = replace(detail, '1', '0') WHERE id = 4")
    with pytest.raises(ValueError, match="another line 4"):
        store.check_log()


def test_a_failure_leaves_no_half_transaction(authority: LocalAuthority, client: Signer) -> None:
    root = client.enrol(authority)
    before = facts(authority)
    with pytest.raises(KeyboardInterrupt), authority.store.transaction():
        check(authority, client.node, root, rows=[1])
        raise KeyboardInterrupt
    assert facts(authority) == before
    check(authority, client.node, root, rows=[1])


def test_not_an_authoritys_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="faa-authority init"):
        KeyAuthority(Store(tmp_path / "empty.db"))
    with pytest.raises(ValueError, match="budget to be a finite number above 0"):
        LocalAuthority(budget=0.0)
