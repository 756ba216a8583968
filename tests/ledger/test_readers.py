"""Readers beside a server that records, and after one that was killed: they answer, and nothing on record is lost."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flwr_faa.ledger import live
from flwr_faa.ledger.cli import app
from flwr_faa.ledger.file import VERSION
from flwr_faa.ledger.history import History
from flwr_faa.ledger.store import Ledger
from tests.ledger.ledgers import LIAR, SILENT, report, write

KILLS = 20
TOKEN = "t" * 43
ROOT = Path(__file__).parents[2]
OLD = (Path(__file__).parent / "old.sql").read_text()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def recorded_until_killed(folder: Path, start: int, rounds: int) -> list[int]:
    """What a server that starts with a round says is on record, if it is killed after so many rounds."""
    command = [sys.executable, "-m", "tests.ledger.writer", str(folder), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(rounds)]
        process.kill()
        return [int(line) for line in [*said, *process.stdout] if line.endswith("\n")]


def test_20_kills_with_readers_at_work_lose_nothing_and_silence_no_reader(tmp_path: Path) -> None:
    draw, done, answers = random.Random(1), threading.Event(), [0, 0]
    failures: list[object] = []
    write(tmp_path, 1).close()
    page = TestClient(live.application(tmp_path, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})

    def read(which: int) -> None:
        while not done.is_set() and not failures:
            if which:
                reply = page.get("/api/state")
                ok, told = reply.status_code == 200, reply.text
            else:
                found = History(tmp_path)
                ok, told = bool(found.nodes() and found.rounds(5) and found.verdicts()), "history"
            answers[which] += 1
            if not ok:
                failures.append(told)

    def guarded(which: int) -> None:
        try:
            read(which)
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    readers = [threading.Thread(target=guarded, args=(which,)) for which in range(2)]
    for reader in readers:
        reader.start()
    said, possible = {1}, {1}
    try:
        for kill in range(1, KILLS + 1):
            # So far apart that no server reaches the rounds of the next before it is killed.
            more = recorded_until_killed(tmp_path, 100_000 * kill, draw.randrange(1, 6))
            said |= set(more)
            possible |= {*more, more[-1] + 1}  # this one was on record, but not yet said to be
            on_record = [r["round"] for r in History(tmp_path).rounds(10_000)]
            assert said <= set(on_record) <= possible and on_record == sorted(set(on_record))
            for command in ("nodes", "rounds", "export"):
                shown = run(command, tmp_path)
                assert shown.exit_code == 0, shown.stderr
    finally:
        done.set()
        for reader in readers:
            reader.join(60)
    assert not failures, failures
    assert min(answers) >= KILLS
    server = write(tmp_path, 0)
    on_record = [r["round"] for r in History(tmp_path).rounds(10_000)]
    assert len(History(tmp_path).verdicts()) == 2 * len(on_record) + 1  # the liar's first round is one of them
    assert server.strikes == {SILENT: sum(r % 3 == 0 for r in on_record)}
    for line in (tmp_path / "rounds.jsonl").read_text().splitlines():  # the torn lines are gone
        json.loads(line)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A ledger as kill -9 leaves it: the last rounds are in the write-ahead log only."""
    folder = tmp_path / "killed"
    live_one = write(tmp_path / "server", 3)
    assert live_one._db is not None
    live_one._db.execute("PRAGMA wal_autocheckpoint=0")
    live_one.record(report(4))
    shutil.copytree(tmp_path / "server", folder)
    (folder / "ledger.sqlite-shm").unlink()
    return folder


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """A ledger of release 0.1 that was killed in the middle of a transaction."""
    folder, work = tmp_path / "hot", tmp_path / "work"
    work.mkdir()
    db = sqlite3.connect(work / "ledger.sqlite", isolation_level=None)
    db.executescript(f"PRAGMA cache_size = 1; BEGIN; {OLD} COMMIT;")
    db.execute("BEGIN")
    row = "INSERT INTO verdicts SELECT 1, '5', 'trusted', 1, 0, 0, 0, 0, hex(zeroblob(3000)), 0, '{}'"
    for _ in range(50):  # more than the cache holds: half of it is in the file
        db.execute(row)
    shutil.copytree(work, folder)
    db.close()
    assert (folder / "ledger.sqlite-journal").stat().st_size > 0
    return folder


READ = (("nodes",), ("rounds",), ("export",), ("node", LIAR))


def _as_a_reader(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command, run by somebody who may read the folder and write nothing there."""
    program = "from flwr_faa.ledger.cli import main; main()"
    command = [sys.executable, "-c", program, arguments[0], folder, *arguments[1:]]
    if os.geteuid() == 0:  # root obeys modes without these capabilities
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all", *command]
    text = [str(part) for part in command]
    return subprocess.run(text, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


@pytest.fixture
def sealed() -> Iterator[list[Path]]:
    """Folders to be closed for writing, and opened again."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        folder.chmod(0o700)


def seal(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o400)
    folder.chmod(0o500)


@pytest.mark.parametrize("state", ["killed", "hot", "closed"])
def test_who_may_not_write_reads_all_the_same(
    state: str, request: pytest.FixtureRequest, tmp_path: Path, sealed: list[Path]
) -> None:
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("expected setpriv, without which root may write everywhere")
    if state == "closed":
        write(tmp_path / "closed", 4).close()
    folder = tmp_path / "closed" if state == "closed" else request.getfixturevalue(state)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    sealed.append(folder)
    seal(folder)
    for arguments in READ:
        done = _as_a_reader(folder, *arguments)
        assert done.returncode == 0, done.stderr
        assert "convicted" in done.stdout
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    opened = _as_a_reader(folder, "lift", LIAR)  # at once, in one line
    assert opened.returncode == 2 and opened.stderr.count("\n") == 1
    assert "expected a ledger that can be written, got" in opened.stderr


@pytest.mark.parametrize("state", ["killed", "hot"])
def test_readers_after_a_kill(state: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(state)
    for arguments in READ:
        shown = run(arguments[0], folder, *arguments[1:])
        assert shown.exit_code == 0, shown.stderr
    found = History(folder)
    assert [r["round"] for r in found.rounds(9)] == ([1, 2, 3, 4] if state == "killed" else [1])
    assert {n.node_id for n in found.nodes()} >= {str(LIAR)}
    assert "5" not in {n.node_id for n in found.nodes()}  # what was never committed
    page = TestClient(live.application(folder, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
    assert page.get("/api/state").status_code == 200
    assert run("lift", folder, LIAR).exit_code == 0


def test_a_ledger_of_release_01_is_read_as_it_is_and_brought_up_to_date_by_a_server(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript(OLD)
    db.close()
    path.chmod(0o644)
    (tmp_path / "rounds.jsonl").touch(0o644)
    before = path.read_bytes()
    for arguments in READ:
        assert run(arguments[0], tmp_path, *arguments[1:]).exit_code == 0
    assert path.read_bytes() == before
    ledger = Ledger(tmp_path)
    assert (ledger.bans, ledger.strikes) == ({LIAR: "differs"}, {SILENT: 1})
    ledger.record(report(2))
    ledger.close()
    assert [r["round"] for r in History(tmp_path).rounds(9)] == [1, 2]
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(ValueError, match=f"version {VERSION} or older, got version {VERSION + 1}"):
        Ledger(tmp_path)


def test_a_reader_that_pauses_holds_nothing_up(tmp_path: Path) -> None:
    """An export of 300,000 verdicts held its cursor for 18 seconds, and the federation ended after five."""
    server = write(tmp_path, 1_100)
    paused = History(tmp_path).each_verdict()
    first = next(paused)
    db = sqlite3.connect(tmp_path / "ledger.sqlite", timeout=0)
    db.execute("PRAGMA busy_timeout = 0")
    db.execute("BEGIN EXCLUSIVE")  # nobody, not even a reader, has it open
    db.execute("ROLLBACK")
    assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # nor the log
    db.close()
    server.record(report(1_101))
    rest = [first, *paused]
    assert len(rest) == 2 * 1_101 + 2 and len({v["id"] for v in rest}) == len(rest)


def test_a_copy_of_the_one_file_is_a_whole_ledger(tmp_path: Path) -> None:
    server = write(tmp_path / "server", 7)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "server" / "ledger.sqlite", copy)
    assert len(History(copy).rounds(99)) == 7
    server.close()
