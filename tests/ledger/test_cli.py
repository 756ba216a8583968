"""``faa-ledger``: what an operator reads, lifts and exports, and how it says that it cannot."""

import csv
import io
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flwr_faa.ledger.cli import COLUMNS, app
from flwr_faa.ledger.history import History
from flwr_faa.ledger.store import Ledger
from flwr_faa.report import Outcome, RoundReport, Verdict
from tests.ledger.ledgers import COMMAND, HONEST, LIAR, SILENT, write


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, 7)
    return tmp_path


def line(text: str, start: object) -> str:
    return next(row for row in text.splitlines() if str(start) in row)


def test_who_was_suspected_convicted_and_banned_why_and_when(folder: Path) -> None:
    shown = run("nodes", folder)
    assert shown.exit_code == 0, shown.stderr
    banned, watched = line(shown.stdout, LIAR), line(shown.stdout, SILENT)
    assert "banned 20" in banned and "2: convicted" in banned
    assert "watched" in watched
    assert shown.stdout.index(str(LIAR)) < shown.stdout.index(str(SILENT)) < shown.stdout.index(str(HONEST))
    assert "\x1b[2J" not in shown.stdout and "\x07" not in shown.stdout  # a client's text moves no cursor

    one = run("node", folder, LIAR).stdout
    assert "convicted (observed)" in line(one, " 1 ") and "<script>" in one
    assert "failed closed" not in run("rounds", folder, "--last", 2).stdout
    assert "1 convicted" in line(run("rounds", folder).stdout, " 2 ")
    assert "convicted" not in run("rounds", folder, "--last", 2).stdout


def test_a_ban_is_lifted_while_the_server_has_the_ledger_open(tmp_path: Path) -> None:
    server = write(tmp_path, 3)
    assert server.bans.keys() == {LIAR} and server.strikes == {SILENT: 1}
    assert run("lift", tmp_path, LIAR).stdout == f"node {LIAR}: ban and strikes lifted\n"
    assert server.bans == {}
    run("lift", tmp_path, SILENT)
    assert server.strikes == {}
    assert f"ban of node {LIAR} lifted at 20" in run("nodes", tmp_path).stdout
    again = run("lift", tmp_path, LIAR)
    assert again.exit_code == 2
    assert again.stderr == f"faa-ledger: expected a node that is banned or has strikes, got {LIAR}\n"


def banned(*nodes: int, server_round: int) -> RoundReport:
    found = [Verdict(n, Outcome.CONVICTED, False, True, reason="a mistake", banned=True) for n in nodes]
    return RoundReport(server_round, tuple(found), "spotcheck", 1.0)


def test_all_bans_are_lifted_or_those_of_a_round(tmp_path: Path) -> None:
    server = write(tmp_path, 3)
    server.record(banned(21, 22, server_round=4))
    shown = run("lift", tmp_path, "--round", 4)
    assert shown.stdout == "node 21: ban and strikes lifted\nnode 22: ban and strikes lifted\n"
    assert server.bans.keys() == {LIAR} and server.strikes == {SILENT: 1}
    server.record(banned(22, 23, server_round=5))
    assert run("lift", tmp_path, "--all").exit_code == 0
    assert server.bans == {} and server.strikes == {}
    lifted = [row["node_id"] for row in History(tmp_path).lifts()]
    assert sorted(lifted) == sorted(map(str, [21, 22, LIAR, 22, 23]))
    server.record(banned(24, server_round=6))
    for arguments, words in [
        (("--round", 5), "expected a node that was banned in round 5 and still is, got none"),
        ((25,), "expected a node that is banned or has strikes, got 25"),
        ((), "expected one of NODE, --all and --round"),
        ((24, "--all"), "expected one of NODE, --all and --round"),
        (("--all", "--round", 6), "expected one of NODE, --all and --round"),
    ]:
        failed = run("lift", tmp_path, *arguments)
        assert failed.exit_code == 2 and failed.stderr == f"faa-ledger: {words}\n"
    assert server.bans.keys() == {24}
    run("lift", tmp_path, "--all")
    assert run("lift", tmp_path, "--all").stderr.endswith("is banned or has strikes, got none\n")


def test_csv_holds_every_verdict_and_no_formula(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.csv"
    assert run("export", folder, "--out", out).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(History(folder).verdicts()) == 16
    assert {r["node_id"] for r in rows} == {str(HONEST), str(LIAR), str(SILENT)}
    assert {r["reason"] for r in rows if r["node_id"] == str(SILENT)} >= {f"'{COMMAND}"}
    assert [r["withheld"] for r in rows if r["node_id"] == str(LIAR)] == ["removed", ""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nodes", "nowhere"), "expected a ledger's folder, got nowhere"),
        (("node", "{folder}", 5), "expected a node of this ledger, got 5"),
        (("serve", "{folder}", "--host", "0.0.0.0"), "expected TLS, or a loopback address"),
        (("serve", "{folder}", "--certificate", "x"), "got one of them"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: tuple[object, ...], words: str) -> None:
    failed = run(*(str(a).format(folder=folder) for a in arguments))
    assert failed.exit_code == 2
    assert words in failed.stderr and failed.stderr.count("\n") == 1


def test_help_names_every_command() -> None:
    for command in ("nodes", "node", "rounds", "lift", "export", "serve"):
        assert command in run("--help").stdout
        assert run(command, "--help").exit_code == 0


def test_a_ledger_of_an_older_version_can_be_read(tmp_path: Path) -> None:
    ledger = write(tmp_path, 2)
    ledger._db.executescript("DROP TABLE lifts; DROP TABLE IF EXISTS disclosures;")
    assert run("nodes", tmp_path).exit_code == 0
    assert Ledger(tmp_path).bans.keys() == {LIAR}
