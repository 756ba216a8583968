"""The protocol: who is served, what is refused, and that nothing sent to it can break it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.authority import AuthorityUnavailable, BudgetExceeded, Refused, connect, web
from flwr_faa.authority import service as protocol
from flwr_faa.authority.client import RemoteAuthority
from flwr_faa.authority.credential import DIGEST, NONCE, SIGNATURE, TIME, Credential, loopback
from flwr_faa.authority.service import MAX_BODY, WINDOW, Service, SignedReply
from flwr_faa.crypto import ipfe
from tests.authority.parties import KEY, WIDTH, Signer, check, count, functions
from tests.authority.world import KEYS, ROOT, Web, World


def test_the_seam_over_http(world: World) -> None:
    remote, client = world.remote(), Signer(2**64 - 1)
    assert remote.group is world.authority.group
    root = client.enrol(remote, b"s" * 32)
    asked, seed, x = functions(3), b"s" * 32, list(range(WIDTH))
    found = check(remote, client.node, root, asked, seed, rows=[3, 4])
    assert found == check(world.authority, client.node, root, asked, seed, rows=[3, 4])
    ciphertext = ipfe.encrypt(remote.public_key(client.node, WIDTH), x)
    assert ipfe.claim_holds([ciphertext], [1], found.key, sum(a * b for a, b in zip(x, found.key.y, strict=True)))
    assert remote.disclosure(client.node) == world.authority.disclosure(client.node)
    assert remote.disclosure(client.node).max_rank == 3 + KEY
    assert remote.signed_public_key(client.node, WIDTH) == world.authority.signed_public_key(client.node, WIDTH)
    for more in ({"units": 1}, {"whole": True}):
        with pytest.raises(BudgetExceeded, match=r"expected at most 8 of 32 .* \(node 18446744073709551615\)"):
            check(remote, client.node, root, **more)
    count(remote, client.node, root, rows=[5])
    assert remote.disclosure(client.node).samples_opened == 3
    with pytest.raises(Refused, match="never registered data"):
        remote.functional_keys(client.node, functions(1))
    with pytest.raises(Refused, match="expected a node with keys"):
        remote.disclosure(5)


@pytest.mark.parametrize("missing", [TIME, NONCE, DIGEST, SIGNATURE])
def test_unsigned_requests_are_refused(world: World, missing: str) -> None:
    before, body = world.facts(), world.keys()
    headers = world.credential.sign(KEYS, body)
    for bad in ({k: v for k, v in headers.items() if k != missing}, headers | {missing: "zz"}, headers | {missing: ""}):
        response = world.post(body, bad)
        assert response.status_code == 401 and "expected" in response.json()["reason"]
    assert world.facts() == before


def test_strangers_are_refused_and_cannot_fill_the_log(world: World) -> None:
    lines, before = world.authority.store.check_log(), world.facts()
    stranger = dataclasses.replace(world.credential, key=bytes(32))
    elsewhere = dataclasses.replace(world.credential, authority=bytes(32))
    for wrong in (stranger, elsewhere):
        body = world.keys()
        assert world.post(body, wrong.sign(KEYS, body)).status_code == 401
    with pytest.raises(AuthorityUnavailable, match=r"got 401 .*unsigned"):
        world.remote(stranger).disclosure(9)
    assert (world.facts(), world.authority.store.check_log()) == (before, lines)


def test_replayed_requests_are_refused_even_after_a_restart(world: World) -> None:
    body = world.keys()
    headers = world.credential.sign(KEYS, body)
    assert world.post(body, headers).status_code == 200
    before, lines = world.facts(), world.authority.store.check_log()
    for _ in range(2):
        response = world.post(body, headers)
        assert response.status_code == 409 and response.json()["error"] == "replayed"
        world.start()
    assert world.facts() == before
    assert world.authority.store.check_log() == lines + 2


def test_a_forgotten_nonce_stays_refused_if_the_clock_goes_back(world: World) -> None:
    body = world.keys()
    headers, start = world.credential.sign(KEYS, body), world.now
    assert world.post(body, headers).status_code == 200
    world.now += 4 * WINDOW / 1000
    later = str(int(world.now * 1000))
    for path in ("/v1/about", "/v1/about"):
        signed = world.credential.sign(path, b"{}") | {TIME: later}
        message = protocol.request_message(world.credential.authority, path, signed)
        signed[SIGNATURE] = Ed25519PrivateKey.from_private_bytes(world.credential.key).sign(message).hex()
        assert world.post(b"{}", signed, path).status_code == 200
    assert world.authority.store._one("SELECT COUNT(*) FROM nonces")[0] == 2
    world.now = start
    assert world.post(body, headers).status_code == 409


def test_stale_requests_are_refused(world: World) -> None:
    for seconds in (-WINDOW / 1000 - 5, WINDOW / 1000 + 5):
        body = world.keys()
        headers = world.credential.sign(KEYS, body)
        world.now = time.time() + seconds
        assert world.post(body, headers).json()["error"] == "stale"
        with pytest.raises(AuthorityUnavailable, match="expected a request of the last 300 s"):
            world.remote().disclosure(9)


def test_a_signature_is_for_one_body_and_one_path(world: World) -> None:
    before, body = world.facts(), world.keys()
    assert world.post(world.keys(), world.credential.sign(KEYS, body)).json()["error"] == "malformed"
    assert world.post(body, world.credential.sign("/v1/register", body)).status_code == 401
    assert world.facts() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": -1},
        {"node_id": 2**64},
        {"node_id": "9"},
        {"node_id": 9.0},
        {"functions": [[1.0] * WIDTH]},
        {"functions": [["1"] * WIDTH]},
        {"functions": [[True] * WIDTH]},
        {"functions": None},
        {"units": True},
        {"whole": 1},
        {"seed": "s" * 64},
        {"seed": "ab"},
        {"root": "R" * 64},
        {"root": "ab"},
        {"rows": [None]},
        {"rows": {"0": 1}},
        {"more": 1},
    ],
)
def test_malformed_bodies_are_refused_logged_and_change_nothing(world: World, changes: dict) -> None:
    before, lines = world.facts(), world.authority.store.check_log()
    response = world.post(world.keys(**changes))
    assert response.status_code == 400 and response.json()["error"] == "malformed"
    assert world.facts() == before
    assert world.authority.store.check_log() == lines + 1


def test_what_is_not_json_is_refused(world: World) -> None:
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        world.keys()[:-1],
        b'{"node_id":' + b"9" * 9999 + b"}",
    ]
    for body in [*bodies, world.keys(functions=[[]] * 2**18)]:
        assert world.post(body).status_code == 400


def test_large_bodies_are_refused_unread(world: World) -> None:
    assert world.post(bytes(MAX_BODY + 1)).status_code == 413
    headers = {k: v for k, v in world.credential.sign(KEYS, b"").items() if k != SIGNATURE}
    assert world.post(bytes(MAX_BODY + 1), headers).status_code == 401


def test_other_paths_and_methods(world: World) -> None:
    assert world.web.post("/", content=b"").status_code == 404
    assert world.web.post("/v1/about/", content=b"").status_code == 404
    assert world.web.get("/v1/about").status_code == 405
    assert world.web.get("/docs").status_code == 405


def test_a_body_that_never_comes_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(protocol, "_SECONDS", 0.01)
    before = world.facts()
    headers = world.credential.sign(KEYS, b"{}")
    request = httpx.Request("POST", f"http://localhost{KEYS}", headers=headers, content=slow())
    assert Web(world.service).handle_request(request).status_code == 408
    assert world.facts() == before


def test_only_the_pinned_authority_is_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answer: Callable[..., SignedReply] = Service.answer
    forgeries = [
        lambda r: dataclasses.replace(r, signature=""),
        lambda r: dataclasses.replace(r, signature="xyz"),
        lambda r: dataclasses.replace(r, body=r.body + b" "),
        lambda r: dataclasses.replace(r, status=201),
        lambda r: SignedReply(403, json.dumps({"error": "budget", "reason": "spent"}).encode(), r.signature),
    ]
    for forge in forgeries:
        monkeypatch.setattr(Service, "answer", lambda *a, forge=forge: forge(answer(*a)))
        with pytest.raises(AuthorityUnavailable, match="expected the authority's signature"):
            world.remote().disclosure(9)


def test_a_failing_store_is_unavailable_and_issues_nothing(world: World) -> None:
    before = world.facts()
    world.authority.store._db.execute("PRAGMA query_only = ON")  # as a full disk would
    with pytest.raises(AuthorityUnavailable, match="a working store"):
        check(world.remote(), 9, ROOT)
    world.authority.store._db.execute("PRAGMA query_only = OFF")
    assert world.facts() == before
    assert check(world.remote(), 9, ROOT)


def test_clear_text_only_on_loopback(world: World) -> None:
    for host in ("127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"):
        assert loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "example.org", ""):
        assert not loopback(host)
        with pytest.raises(ValueError, match="expected TLS, or a loopback address"):
            web.serve(protocol.application(world.service), host, 0, None, print)
    for url in ("http://10.0.0.1:9443", "http://authority", "ftp://localhost", "localhost:9443"):
        with pytest.raises(ValueError, match="expected https://"):
            RemoteAuthority(url, world.credential)


def test_nobody_there(world: World) -> None:
    remote = RemoteAuthority("http://127.0.0.1:1", world.credential)
    with pytest.raises(AuthorityUnavailable, match="no answer from the authority at http://127"):
        remote.disclosure(9)


def test_an_authority_that_hangs_holds_a_round_up_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(httpx.BaseTransport):
        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            clock[0] += 5.0
            raise httpx.ConnectTimeout("nothing came back", request=request)

    clock = [100.0]
    monkeypatch.setattr("flwr_faa.authority.client.time.monotonic", lambda: clock[0])
    transport = Hanging()
    remote = RemoteAuthority("http://localhost", world.credential, transport=transport)
    for _ in range(20):  # suspects
        with pytest.raises(AuthorityUnavailable, match="no answer from the authority"):
            remote.disclosure(9)
    assert transport.asked == 2
    clock[0] += 10.0
    with pytest.raises(AuthorityUnavailable, match="no answer"):
        remote.disclosure(9)
    assert transport.asked == 4


def test_credentials_are_files_for_their_owner(world: World, tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    world.credential.write(path)
    assert Credential.read(path) == world.credential
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert world.credential.key.hex() not in repr(world.credential)
    assert connect("https://authority:9443", path).verify_key == world.authority.verify_key
    for raw in (b"", b"{}", b"[]", b'{"authority": 1, "certificate": "", "key": ""}', b'{"authority": "", "key": ""}'):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match="expected"):
            Credential.read(path)
    with pytest.raises(FileExistsError):
        world.credential.write(path)
    with pytest.raises(ssl.SSLError):
        RemoteAuthority("https://x", dataclasses.replace(world.credential, certificate="-"))
