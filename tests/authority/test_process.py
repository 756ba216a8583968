"""``faa-authority`` as its own process: TLS, restarts, and kill -9 at any moment."""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flwr_faa.authority import AuthorityUnavailable, BudgetExceeded, Refused, connect
from flwr_faa.authority.certificate import self_signed
from flwr_faa.authority.client import RemoteAuthority
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.credential import Credential
from flwr_faa.authority.store import Store
from flwr_faa.crypto import ipfe
from tests.authority.parties import FUNCTION, KEY, WIDTH, Process, Signer, check, functions, run

#: Requests of the drill; a fifth of them meet a kill.
REQUESTS = int(os.environ.get("FAA_KILL_REQUESTS", "300"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return initialised(tmp_path / "authority")


def initialised(path: Path, *options: str) -> Path:
    result = run("init", path, *options)
    assert result.exit_code == 0, result.stderr
    assert Credential.read(path / "server.json").authority.hex() in result.stdout
    return path


@pytest.fixture
def started() -> Iterator[list[Process]]:
    """Processes to be ended whatever happens."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.kill()


def test_keys_are_such_as_every_device_can_use(directory: Path) -> None:
    """Charm is an extra that a Raspberry Pi does not have, whatever is installed where the authority is made."""
    store = Store(directory / "authority.db")
    assert KeyAuthority(store).group.name == "arkworks"
    store.close()


def test_a_session_over_tls_and_a_restart(directory: Path, started: list[Process]) -> None:
    started.append(process := Process(directory))
    assert process.url.startswith("https://127.0.0.1:")
    remote, client = connect(process.url, directory / "server.json"), Signer(2**63)
    root = client.enrol(remote)
    asked, seed = functions(5), b"s" * 32
    found = check(remote, client.node, root, asked, seed, rows=[0, 7])
    public, known = remote.signed_public_key(client.node, WIDTH), remote.disclosure(client.node)
    assert process.stop() in (0, -15)

    started.append(again := Process(directory))
    remote = connect(again.url, directory / "server.json")
    assert remote.disclosure(client.node) == known
    assert remote.signed_public_key(client.node, WIDTH) == public
    assert check(remote, client.node, root, asked, seed, rows=[0, 7]) == found
    with pytest.raises(BudgetExceeded):
        check(remote, client.node, root, 2)

    secrets_of = [str(found.key.secret), found.seed.hex(), Credential.read(directory / "server.json").key.hex()]
    log = (directory / "serve.log").read_text()
    assert "expected at most 8 of 32" in log
    assert not any(secret in log for secret in secrets_of)

    shown = run("show", directory)
    assert shown.exit_code == 0, shown.stderr
    for words in ("9223372036854775808", "7/32", "chain intact", "refused", remote.verify_key.hex()):
        assert words in shown.stdout


def test_another_certificate_or_no_tls_is_not_spoken_to(directory: Path, started: list[Process]) -> None:
    started.append(process := Process(directory))
    credential = Credential.read(directory / "server.json")
    impostor = dataclasses.replace(credential, certificate=self_signed(["127.0.0.1"])[1].decode())
    with pytest.raises(AuthorityUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        RemoteAuthority(process.url, impostor).disclosure(1)
    with pytest.raises(AuthorityUnavailable, match="no answer"):
        RemoteAuthority(process.url.replace("https", "http"), credential).disclosure(1)
    with pytest.raises(Refused, match="a node with keys"):
        RemoteAuthority(process.url, credential).disclosure(1)


def test_clear_text_is_refused_off_loopback(directory: Path, started: list[Process]) -> None:
    for host in ("0.0.0.0", "::", socket.gethostname()):
        result = run("serve", directory, "--port", "0", "--host", host, "--clear-text")
        assert result.exit_code == 2 and "expected TLS, or a loopback" in result.stderr
    started.append(process := Process(directory, "--clear-text", "--paper"))
    assert process.url.startswith("http://127.0.0.1:")
    remote = connect(process.url, directory / "server.json")
    assert len(remote.functional_keys(1, [[1] * 8])) == 1


def test_garbage_on_the_wire(directory: Path, started: list[Process]) -> None:
    started.append(process := Process(directory, "--clear-text"))
    address, draw = ("127.0.0.1", httpx.URL(process.url).port), random.Random(1)
    beginnings = [
        b"",
        b"POST /v1/about HTTP/1.1\r\n",
        b"GET / HTTP/9.9\r\nHost: [\r\n\r\n",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0",
    ]
    ends = [
        b"",
        b"\r\n\r\n",
        b"content-length: -1\r\n\r\n",
        b"content-length: 9\r\n\r\n",
        b"x:" + b"y" * 99_999 + b"\r\n\r\n",
    ]
    for _ in range(100):
        with socket.create_connection(address, timeout=10) as connection:
            try:
                connection.sendall(
                    draw.choice(beginnings) + draw.randbytes(draw.choice([0, 0, 50])) + draw.choice(ends)
                )
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1000)
            except ConnectionError:
                continue
        assert not answer or answer.split()[1].startswith(b"4"), answer
    assert connect(process.url, directory / "server.json").group
    assert "Traceback" not in (directory / "serve.log").read_text()


def test_two_processes_over_one_file_share_the_count(directory: Path, started: list[Process]) -> None:
    started += [Process(directory), Process(directory)]
    remotes = [connect(process.url, directory / "server.json") for process in started]
    client = Signer(1)
    root = client.enrol(remotes[0], width=200)

    def ask(i: int) -> bool:
        try:
            return bool(check(remotes[i % 2], 1, root, functions(1, 200)))
        except BudgetExceeded:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(ask, range(40))) == 16  # of three dimensions, of 50
    assert {remote.disclosure(1).max_rank for remote in remotes} == {16 * (FUNCTION + KEY)}


def test_given_certificates_and_mistakes(tmp_path: Path) -> None:
    key, certificate = self_signed(["authority.example.org"])
    (tmp_path / "k").write_bytes(key)
    (tmp_path / "c").write_bytes(certificate)
    path = initialised(tmp_path / "a", "--certificate", str(tmp_path / "c"), "--certificate-key", str(tmp_path / "k"))
    assert (path / "tls.crt").read_bytes() == certificate
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o600}
    for arguments, words in (
        (("init", path), "a directory without an authority"),
        (("init", tmp_path / "b", "--certificate", tmp_path / "c"), "got one of them"),
        (("init", tmp_path / "d", "--budget", "2"), "budget to be a finite number above 0"),
        (("serve", tmp_path / "none"), "faa-authority init"),
        (("show", tmp_path / "none"), "faa-authority init"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and words in " ".join(result.stderr.replace("│", " ").split()), result.stderr


def test_show_says_so_if_the_log_was_changed(directory: Path) -> None:
    db = sqlite3.connect(directory / "authority.db")
    db.executescript("DROP TRIGGER log_update; UPDATE log SET at = 'yesterday'")
    db.close()
    result = run("show", directory)
    assert result.exit_code == 1 and "the log has been changed" in result.stdout


def test_importing_the_authority_is_cheap() -> None:
    heavy = ["fastapi", "starlette", "uvicorn", "httpx", "pydantic", "torch", "pyod", "sklearn", "typer", "rich"]
    code = f"import sys, flwr_faa.authority; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_at_any_moment_loses_no_count(tmp_path: Path, started: list[Process]) -> None:
    """Every key that arrives is counted, and every function once, though some are asked for again and again.

    ``FAA_KILL_REQUESTS=1000 pytest -s`` for more, with the figures.
    """
    directory, client, draw = initialised(tmp_path / "a", "--budget", "1"), Signer(1), random.Random(REQUESTS)
    started.append(Process(directory))
    port = httpx.URL(started[-1].url).port
    remote = connect(started[-1].url, directory / "server.json")
    width = KEY * REQUESTS + FUNCTION
    root = client.enrol(remote, samples=REQUESTS, width=width)
    public = remote.public_key(1, width)
    killed = set(draw.sample(range(REQUESTS), REQUESTS // 5))
    unanswered = behind = 0
    took = 0.03
    for i in range(REQUESTS):
        asked, seed = functions(1, width), secrets.token_bytes(32)
        process = started[-1]
        killer = threading.Timer(draw.uniform(0, 1.2 * took), process.kill)
        if i in killed:
            killer.start()
        start = time.perf_counter()
        while True:
            try:
                key = check(remote, 1, root, asked, seed, rows=[i]).key
                break
            except AuthorityUnavailable:
                assert i in killed
                unanswered += 1
                killer.join()
                behind += counted(directory) == KEY * (i + 1)  # on disk, though the answer was lost
                started.append(Process(directory, "--port", str(port)))
        if i in killed:
            killer.join()
            if started[-1] is process:  # it had answered before it was killed
                started.append(Process(directory, "--port", str(port)))
        else:
            took = time.perf_counter() - start
        assert counted(directory) == KEY * (i + 1)
    found = remote.disclosure(1)
    assert found.max_rank == width  # a key a request, and one value stated of each sample
    assert found.samples_opened == REQUESTS <= found.keys_issued <= REQUESTS + 2 * unanswered
    assert holds(public, key)
    store = Store(directory / "authority.db")
    lines = store.check_log()
    print(
        f"\n{REQUESTS} requests, {len(killed)} kills: {unanswered} while being answered, {behind} of these after the "
        f"count was on disk; {(found.max_rank - FUNCTION) // KEY} keys counted, {found.keys_issued} issues, "
        f"{lines} lines of log"
    )


def counted(directory: Path) -> int:
    """Dimensions that keys tell, as another process sees the file."""
    db = sqlite3.connect(directory / "authority.db")
    try:
        return int(db.execute("SELECT COUNT(*) FROM keyed").fetchone()[0])
    finally:
        db.close()


def holds(public: ipfe.PublicKey, key: ipfe.FunctionalKey) -> bool:
    x = [1] * public.n
    return ipfe.claim_holds([ipfe.encrypt(public, x)], [1], key, sum(key.y))
