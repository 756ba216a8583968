"""Nothing without the token, however the request is written; and two pages on one host leave each other alone."""

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette import datastructures
from starlette.testclient import TestClient

from flwr_faa.authority import web
from flwr_faa.ledger import live
from flwr_faa.ledger.history import History
from tests.ledger.ledgers import LIAR, write

TOKEN = "t" * 43
BEARER = {"Authorization": f"Bearer {TOKEN}"}
#: What anybody may have: the form that asks for the token, and what it looks like.
FORM = {"/", "/login.js", "/live.css", "/favicon.svg", "/login"}
PATHS = [
    "/api/state", "/api/state?", "/api/state?since=1", "//api/state", "/api//state", "/./api/state",
    "/login/../api/state",
    "/%61pi/state", "/api/state%3Fx", "/login%2f..%2fapi%2fstate", "/login?/../api/state", "/login;/api/state",
    "/live.css/../api/state", "/api/state#/login", "/login%00/api/state", "http://x/api/state", "http://x/login",
    "https://login/api/state", "*", "/live.js", "/live.html", "/api/state/",
]  # fmt: skip
HOSTS = [
    "x",
    "x/login?",
    "x/login#",
    "/login?",
    "x/live.css?",
    "login",
    "x@y/login?",
    "[::1]/login?",
    "x:80/login?",
    "",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "login"]


@pytest.fixture(autouse=True)
def as_before_starlette_101(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts are not checked, so ``Host: x/login?`` moves the path of ``request.url``."""
    monkeypatch.setattr(datastructures, "_HOST_RE", re.compile(".*", re.DOTALL))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A page on a real port, by uvicorn."""
    import uvicorn

    write(tmp_path, 2).close()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(live.application(tmp_path, TOKEN), http="h11", ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()


def sent(address: tuple[str, int], raw: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(raw)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_no_way_of_writing_a_request_replaces_the_token(page: tuple[str, int]) -> None:
    for path in PATHS:
        for host in HOSTS:
            for method in METHODS if host in ("x", "x/login?") else ["GET"]:
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                reply = sent(page, head.encode())
                assert re.match(rb"HTTP/1.1 (400|401|403|404|405) ", reply), (head, reply[:200])
                assert str(LIAR).encode() not in reply and TOKEN.encode() not in reply and b"since" not in reply
    upgrade = "GET /api/state HTTP/1.1\r\nHost: x/login?\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    assert b" 401 " in sent(page, f"{upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n".encode())
    assert b" 200 " in sent(page, f"GET /api/state HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())


@given(
    path=st.lists(st.sampled_from(["/", "login", "api", "state", "live.css", "..", ".", "%2f", "?", "#", ";", "\x00"])),
    host=st.text("x/login?#@:.[]%", max_size=12),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    root=st.sampled_from(["", "/login", "/live.css"]),
)  # fmt: skip
def test_the_guard_knows_the_path_that_is_served(path: list[str], host: str, method: str, root: str) -> None:
    import asyncio

    status: list[int] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            status.append(int(str(message["status"])))

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    asked = "/" + "".join(path)
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": asked, "raw_path": b"", "root_path": root,
        "query_string": b"", "headers": [(b"host", host.encode())], "client": None, "server": ("x", 80),
        "scheme": "http",
    }  # fmt: skip
    asyncio.run(live.application(Path("nowhere"), TOKEN)(scope, receive, send))  # type: ignore[arg-type]
    assert asked in FORM or status == [401], status


def test_two_pages_on_one_host_do_not_log_each_other_out(tmp_path: Path) -> None:
    """Browsers send a host's cookies to all of its ports."""
    pages = [(folder, token) for folder in ("a", "b") for token in ("t" * 43, "u" * 43)]
    jar: dict[str, str] = {}
    clients = []
    for folder, token in pages:
        write(tmp_path / folder, 1).close()
        clients.append(TestClient(live.application(tmp_path / folder, token)))
        entered = clients[-1].post("/login", headers={"Authorization": f"Bearer {token}"})
        jar |= dict(entered.cookies)
    for client in clients:
        client.cookies.update(jar)
        assert client.get("/api/state").status_code == 200
    assert len(jar) == 4 and all(name.startswith(live.COOKIE) for name in jar)


def test_a_poll_brings_what_is_new(tmp_path: Path) -> None:
    from flwr_faa.ledger.store import Ledger
    from tests.ledger.ledgers import report

    ledger = Ledger(tmp_path, annotate=lambda node: {"name": f"ward {node % 7}"})
    client = TestClient(live.application(tmp_path, TOKEN), headers=BEARER)
    assert client.get("/api/state").json()["rounds"] == []
    for server_round in (1, 2, 3):
        ledger.record(report(server_round))
    reply = client.get("/api/state")
    first, tag = reply.json(), reply.headers["etag"]
    assert first["whole"] and first["running"] is True and [r["round"] for r in first["rounds"]] == [1, 2, 3]
    assert {n["name"] for n in first["nodes"]} == {f"ward {int(n['node']) % 7}" for n in first["nodes"]}
    newest = first["rounds"][-1]["id"]
    again = client.get(f"/api/state?since={newest}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    ledger.record(report(4))
    more = client.get(f"/api/state?since={newest}", headers={"If-None-Match": tag})
    assert not more.json()["whole"] and [r["round"] for r in more.json()["rounds"]] == [4]
    assert {c["round_id"] for c in more.json()["cells"]} == {newest + 1}
    for change in (lambda: ledger.lift(LIAR), ledger.close):
        tag = more.headers["etag"]
        change()
        more = client.get(f"/api/state?since={newest + 1}", headers={"If-None-Match": tag})
        assert more.status_code == 200 and more.json()["rounds"] == more.json()["cells"] == []
    assert more.json()["running"] is False  # the run has ended
    replaced = client.get("/api/state?since=99").json()  # a shorter ledger in the same place
    assert replaced["whole"] and len(replaced["rounds"]) == 4
    assert client.get("/api/state?since=x").status_code == 422


def test_readers_that_ask_at_once_do_not_take_each_other_for_a_server(tmp_path: Path) -> None:
    write(tmp_path, 1).close()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: History(tmp_path).running(), range(400))) == {False}
    server = write(tmp_path, 1)
    assert History(tmp_path).running() is True
    server.close()
    assert History(tmp_path / "nowhere").running() is None


def test_a_page_without_a_ledger_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    for folder in (tmp_path, tmp_path / "nowhere"):
        reply = TestClient(live.application(folder, TOKEN), headers=BEARER).get("/api/state")
        assert reply.status_code == 503 and reply.json()["error"]


def test_only_who_has_the_token_is_vouched_for() -> None:
    vouched: list[int] = []
    web.vouch({"extensions": {"faa.vouch": lambda: vouched.append(1)}})
    web.vouch({})
    assert vouched == [1]
