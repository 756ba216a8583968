"""Whatever is sent: no crash, no 5xx, and no change unless it is 200. ``FAA_FUZZ=9000 pytest`` for more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_faa.authority.credential import DIGEST, NONCE, SIGNATURE, TIME
from flwr_faa.authority.service import Rejected
from tests.authority.requests import json_values, latin, nearly, paths
from tests.authority.world import KEYS, World

EXAMPLES = int(os.environ.get("FAA_FUZZ", "100"))  # for each test
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def unharmed(world: World, send: Callable[[], httpx.Response]) -> None:
    before = world.facts()
    response = send()
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    assert response.status_code == 200 or world.facts() == before
    found = world.authority.disclosure(9)
    assert found.max_rank <= found.budget


@FUZZ
@given(request=nearly)
def test_nearly_right_requests_do_no_harm(lasting: World, request: tuple) -> None:
    path, message = request
    unharmed(lasting, lambda: lasting.post(json.dumps(message).encode(), path=path))


@FUZZ
@given(path=paths, body=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_signed_nonsense_does_no_harm(lasting: World, path: str, body: bytes) -> None:
    unharmed(lasting, lambda: lasting.post(body, path=path))


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"]),
    path=paths | st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map("/".__add__),
    headers=st.dictionaries(st.sampled_from([TIME, NONCE, DIGEST, SIGNATURE, "content-type", "host", "range"]), latin),
    body=st.binary(max_size=50),
)
def test_strangers_do_no_harm(lasting: World, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    scope_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    before = lasting.authority.store.lines(1)
    try:
        request = httpx.Request(method, httpx.URL("http://localhost").join(path), headers=scope_headers, content=body)
    except httpx.InvalidURL:
        return
    unharmed(lasting, lambda: lasting.web.send(request))
    assert lasting.authority.store.lines(1) == before


@FUZZ
@given(
    times=st.text(max_size=20), nonce=st.text(max_size=40), digest=st.text(max_size=70), signature=st.text(max_size=140)
)
def test_headers_of_any_kind(lasting: World, times: str, nonce: str, digest: str, signature: str) -> None:
    with pytest.raises(Rejected, match="expected"):
        lasting.service.admit(KEYS, {TIME: times, NONCE: nonce, DIGEST: digest, SIGNATURE: signature})
