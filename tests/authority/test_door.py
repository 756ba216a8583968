"""Strangers at the door: silence, slowness and numbers keep nobody else out. Real processes and sockets on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flwr_faa.authority import connect, web
from tests.authority.parties import FUNCTION, KEY, Process, Signer, check, run
from tests.ledger.ledgers import write

TOKEN = "t" * 43
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE
Attack = Callable[[tuple[str, int], bool], socket.socket]


def open_to(address: tuple[str, int], tls: bool) -> socket.socket:
    raw = socket.create_connection(address, timeout=60)
    return TLS.wrap_socket(raw) if tls else raw


def silent_tcp(address: tuple[str, int], tls: bool) -> socket.socket:
    return open_to(address, False)


def silent_tls(address: tuple[str, int], tls: bool) -> socket.socket:
    return open_to(address, tls)


def half_a_handshake(address: tuple[str, int], tls: bool) -> socket.socket:
    connection = open_to(address, False)
    connection.sendall(b"\x16\x03\x01\x02\x00\x01" if tls else b"POST /v1/ab")
    return connection


def slow_headers(address: tuple[str, int], tls: bool) -> socket.socket:
    connection = open_to(address, tls)
    connection.sendall(b"POST /v1/about HTTP/1.1\r\nHost: x\r\nX-A: ")
    return connection


def slow_body(address: tuple[str, int], tls: bool) -> socket.socket:
    connection = open_to(address, tls)
    connection.sendall(b"POST /v1/about HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    return connection


def unsigned(address: tuple[str, int], tls: bool) -> socket.socket:
    """A stranger who speaks HTTP, and keeps the connection."""
    connection = open_to(address, tls)
    connection.sendall(b"GET /live.css HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.recv(100)
    return connection


ATTACKS: list[Attack] = [silent_tcp, silent_tls, half_a_handshake, slow_headers, slow_body, unsigned]


def dripping(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"a")


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Process]:
    assert run("init", tmp_path / "a").exit_code == 0
    process = Process(tmp_path / "a")
    yield process
    process.kill()
    assert "Traceback" not in (tmp_path / "a" / "serve.log").read_text()


def address_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_strangers_hold_connections_and_signed_requests_are_served(
    authority: Process, tmp_path: Path, attack: Attack
) -> None:
    """64 silent TLS connections made the authority answer 503 to everybody for as long as they were held."""
    address, client = address_of(authority.url), Signer(5)
    remote = connect(authority.url, tmp_path / "a" / "server.json")
    root = client.enrol(remote)  # this connection is kept, and not shown out either
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(attack(address, True)) for _ in range(web.STRANGERS + 20)]
        for connection in connections[::10]:
            dripping(connection)
        assert check(remote, 5, root).key
        fresh = connect(authority.url, tmp_path / "a" / "server.json")  # as a server that starts again
        assert check(fresh, 5, root).key
        connections += [held.enter_context(attack(address, True)) for _ in range(20)]
        assert remote.disclosure(5).max_rank == 2 * (FUNCTION + KEY)
        assert open_files(authority) < web.STRANGERS + 60


def test_a_flood_of_strangers_beside_signed_requests(authority: Process, tmp_path: Path) -> None:
    """As many connections as one process can open and drop, from the server's own address."""
    address, client, done = address_of(authority.url), Signer(5), threading.Event()
    remote = connect(authority.url, tmp_path / "a" / "server.json")
    client.enrol(remote)

    def flood() -> None:
        held: list[socket.socket] = []
        while not done.is_set():
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(address, timeout=10))
            if len(held) > 2 * web.STRANGERS:
                held.pop(0).close()
        for connection in held:
            connection.close()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        for _ in range(3):
            remote = connect(authority.url, tmp_path / "a" / "server.json")
            assert remote.disclosure(5).samples == 20
    finally:
        done.set()
        flooding.join()


def test_strangers_are_shown_out_after_a_while_whatever_they_do(authority: Process) -> None:
    """The wait here ends when the authority has closed every connection."""
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(attack(address_of(authority.url), True)) for attack in ATTACKS]
        done = threading.Event()

        def drip() -> None:
            while not done.wait(0.2):
                for connection in connections:
                    dripping(connection)

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            for connection in connections:
                connection.settimeout(4 * web.SECONDS)
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    while connection.recv(1000):
                        pass
        finally:
            done.set()
            dripper.join()


def test_one_address_with_many_strangers_does_not_cost_another_its_place() -> None:
    """The door's own rule, on two loopback addresses: who holds most loses its oldest."""
    import asyncio

    async def scene() -> tuple[bool, int]:
        door = web._Door(socket.create_server(("127.0.0.1", 0), backlog=128))
        door.setblocking(True)
        port, clients = door.getsockname()[1], []
        accepted = []
        for i in range(web.STRANGERS + 50):
            source = ("127.0.0.2", 0) if i == 10 else ("127.0.0.1", 0)
            clients.append(socket.create_connection(("127.0.0.1", port), source_address=source))
            accepted.append(door.accept()[0])
        there = ("127.0.0.2", clients[10].getsockname()[1]) in door._strangers
        count = len(door._strangers)
        for connection in (*clients, *accepted, door):
            connection.close()
        return there, count

    assert asyncio.run(scene()) == (True, web.STRANGERS)
    assert web._whose("2001:db8::1") == web._whose("2001:db8::ffff") != web._whose("2001:db8:0:1::1")
    assert web._whose("::ffff:10.0.0.1") != web._whose("::ffff:10.0.0.2")
    assert web._whose("fe80::1%eth0") == "fe80::"


def test_the_live_page_has_the_same_door(tmp_path: Path) -> None:
    write(tmp_path / "ledger", 2).close()
    (tmp_path / "token").write_text(TOKEN)
    program = "from flwr_faa.ledger.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(tmp_path / "ledger"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--token-file", str(tmp_path / "token")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None
        with contextlib.ExitStack() as held:
            for attack in ATTACKS:
                for _ in range(100):
                    held.enter_context(attack(("127.0.0.1", int(found.group(1))), False))
                token = {"Authorization": f"Bearer {TOKEN}"}
                assert httpx.get(f"{found.group()}/api/state", headers=token, timeout=60).status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)


def open_files(process: Process) -> int:
    return len(os.listdir(f"/proc/{process._process.pid}/fd"))
