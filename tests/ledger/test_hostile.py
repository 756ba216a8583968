"""Files that somebody else made: no command and no page obeys them, breaks, or prints what a terminal would obey."""

import json
import re
import shutil
import sqlite3
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flwr_faa.authority import cli
from flwr_faa.ledger import cli as ledger_cli
from flwr_faa.ledger import live
from flwr_faa.ledger.file import _VERSIONS
from flwr_faa.terminal import printable
from tests.authority import parties
from tests.ledger.ledgers import LIAR

TOKEN = "t" * 43
EVIL = "\x1b[2J\x1b]8;;http://x\x07[bold red]:smile:\u202egpj.exe\u2066\x9b31m\r\nbanned\u2028\ud800"
TEXT = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Lm", "Mn"]), max_size=30),
    st.sampled_from(["", EVIL.encode(errors="replace").decode(), "[/]", "nan", "inf", "-1", "5" * 30, "5" * 700]),
)
VALUE = st.one_of(
    TEXT, st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=20), st.none(),
    st.sampled_from(["7", "trusted", "convicted", 1, 0]),
)  # fmt: skip
NOTES = st.one_of(
    VALUE,
    st.dictionaries(st.text(max_size=8), VALUE.filter(lambda v: not isinstance(v, bytes)), max_size=3).map(json.dumps),
    st.sampled_from(["[]", "3", "null", "{", "[" * 100_000, '{"name": {"a": ["\\u001b[2J\\ud800"]}, "\\u202e": 1}']),
)
#: Columns by table, as the schema has them.
TABLES = {
    table: [column.split()[0] for column in re.sub(r"\(id\)|PRIMARY KEY", "", columns).split(",")]
    for table, columns in re.findall(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?)\);", _VERSIONS[0], re.DOTALL)
}
COMMANDS = (("nodes",), ("rounds",), ("export",), ("node", LIAR), ("node", 7), ("lift", LIAR))


@st.composite
def contents(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table: any value in any column, but rounds and nodes that are often the same."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table, columns in TABLES.items():
        found[table] = []
        for _ in range(draw(st.integers(0, 3))):
            row = {name: draw(NOTES if name == "notes" else VALUE) for name in columns}
            for name in ("id", "round_id"):
                if name in row and draw(st.integers(0, 4)):
                    row[name] = len(found[table]) + 1 if name == "id" else draw(st.integers(1, 3))
            found[table].append(row)
    return found


def made(folder: Path, rows: dict[str, list[dict[str, Any]]], typed: bool, missing: Set[str] = frozenset()) -> None:
    """Write a ledger file, with the columns' types or none, and without some ``table.column``."""
    db = sqlite3.connect(folder / "ledger.sqlite")
    db.execute("PRAGMA journal_mode = OFF")
    if typed:
        db.executescript(_VERSIONS[0])
    for table, columns in TABLES.items():
        kept = columns if typed else [name for name in columns if f"{table}.{name}" not in missing]
        if not typed:  # every value stays as it is
            db.execute(f"CREATE TABLE {table} ({', '.join([*kept, 'other'])})")
        for row in rows[table]:
            found = [*(row[name] for name in kept), *([] if typed else [None])]
            values = [v.encode(errors="surrogatepass") if isinstance(v, str) else v for v in found]
            cells = ", ".join("CAST(? AS TEXT)" if isinstance(v, str) else "?" for v in found)
            with suppress(sqlite3.IntegrityError):
                db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({cells})", values)  # noqa: S608
    db.commit()
    db.close()


def harmless(text: str) -> bool:
    """Whether a terminal has nothing in it to obey."""
    return all(c == "\n" or c.isprintable() or c in "\r" for c in text.replace("\r\n", "\n"))


def check(result: Result) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 2)
    assert harmless(result.output), [c for c in result.output if not c.isprintable()]
    assert "Traceback" not in result.output


@contextmanager
def folder_of(rows: dict[str, list[dict[str, Any]]], typed: bool, missing: Set[str] = frozenset()) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        made(Path(name), rows, typed, missing)
        yield Path(name)


COLUMN = st.sampled_from([f"{table}.{name}" for table, columns in TABLES.items() for name in columns])


@settings(max_examples=60)
@given(contents(), st.booleans(), st.one_of(st.just(set()), st.sets(COLUMN, max_size=2)))
def test_whatever_a_ledger_file_holds(rows: dict[str, list[dict[str, Any]]], typed: bool, missing: set[str]) -> None:
    with folder_of(rows, typed, missing) as folder:
        page = TestClient(live.application(folder, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
        reply = page.get("/api/state")
        assert reply.status_code in (200, 503)
        assert harmless(json.dumps(reply.json(), ensure_ascii=False, allow_nan=False))
        for command, *arguments in COMMANDS:
            check(CliRunner().invoke(ledger_cli.app, [command, str(folder), *map(str, arguments)]))


def test_the_worst_in_every_column() -> None:
    evil = EVIL.encode(errors="replace").decode()
    rows = {table: [dict.fromkeys(columns, evil)] for table, columns in TABLES.items()}
    for table in ("rounds", "verdicts", "disclosures"):
        rows[table][0] |= {"id": 1} if table == "rounds" else {"round_id": 1}
    rows["verdicts"][0]["notes"] = json.dumps({evil: evil, "name": evil, "withheld": evil})
    with folder_of(rows, typed=False) as folder:
        for command, *arguments in COMMANDS[:3]:
            result = CliRunner().invoke(ledger_cli.app, [command, str(folder), *map(str, arguments)])
            check(result)
            assert result.exit_code == 0
            assert "gpj.exe" in result.output and "[bold red]" in result.output  # it is shown, as text
        one = TestClient(live.application(folder, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
        assert one.get("/api/state").json()["nodes"][0]["name"] == printable(evil)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE rounds (id)",
        "CREATE VIEW verdicts AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;"
        "CREATE TABLE rounds (id); CREATE TABLE bans (node_id); CREATE TABLE strikes (node_id);",
        "CREATE TABLE rounds (id, at, round, verifier, score_threshold, failed_closed);"
        "CREATE TABLE verdicts (node_id, reason AS (zeroblob(900000000)));"
        "CREATE TABLE bans (node_id, reason); CREATE TABLE strikes (node_id, count); INSERT INTO verdicts VALUES (1);",
        "",
    ],
)
def test_a_database_of_another_kind_is_one_line(tmp_path: Path, script: str) -> None:
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.executescript(script)
    db.close()
    for command, *arguments in COMMANDS:
        result = CliRunner().invoke(ledger_cli.app, [command, str(tmp_path), *map(str, arguments)])
        check(result)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:5000], lambda raw: raw[:100] + bytes(len(raw) - 100), lambda raw: b"x"]
)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    made(tmp_path, {table: [] for table in TABLES}, typed=True)
    raw = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite").write_bytes(damage(raw))
    for command, *arguments in COMMANDS:
        result = CliRunner().invoke(ledger_cli.app, [command, str(tmp_path), *map(str, arguments)])
        check(result)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1


@given(st.one_of(st.text(), st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"]))))
def test_printable_leaves_nothing_to_obey(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown) <= 503 and printable(shown) == shown


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's directory with a node, keys and a log."""
    directory = tmp_path_factory.mktemp("authority") / "a"
    assert CliRunner().invoke(cli.app, ["init", str(directory)]).exit_code == 0
    store = cli._open(directory)
    core, client = cli.KeyAuthority(store), parties.Signer(5)
    parties.check(core, 5, client.enrol(core))
    store.close()
    return directory


@settings(max_examples=60)
@given(st.data())
def test_whatever_an_authoritys_file_holds(authority: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "a"
        shutil.copytree(authority, directory)
        db = sqlite3.connect(directory / cli.DATABASE)
        db.executescript("DROP TRIGGER log_update;")
        tables = data.draw(
            st.lists(st.sampled_from(["log", "nodes", "sets", "owners", "key_pairs", "samples"]), min_size=1)
        )
        for table in tables:
            column = data.draw(st.sampled_from([row[1] for row in db.execute(f"PRAGMA table_info({table})")]))
            value = data.draw(VALUE)
            with suppress(sqlite3.IntegrityError):
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", [value])  # noqa: S608
        db.commit()
        db.close()
        result = CliRunner().invoke(cli.app, ["show", str(directory)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code in (0, 1, 2)
        assert harmless(result.output), [c for c in result.output if not c.isprintable()]
