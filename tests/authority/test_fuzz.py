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
from tests.authority.parties import WIDTH
from tests.authority.world import KEYS, ROOT, World

EXAMPLES = int(os.environ.get("FAA_FUZZ", "100"))  # for each test
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([ROOT.hex(), 9, WIDTH]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
numbers = st.integers(-(2**300), 2**300) | st.integers(-3, 25) | st.sampled_from([9, WIDTH, 2**64 - 1, 2**64])
vectors = st.lists(numbers, max_size=3) | st.lists(numbers, min_size=WIDTH, max_size=WIDTH)
texts = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64) | st.just(ROOT.hex()) | st.text(max_size=9)
widths = st.integers(-5, 40) | st.integers(2**17, 2**70)  # those between are allowed, and slow to draw
fields = {
    "/v1/about": {},
    "/v1/public-key": {"node_id": numbers, "width": widths},
    "/v1/register": {
        "node_id": numbers,
        "root": texts,
        "samples": numbers,
        "width": widths,
        "top": numbers,
        "verify_key": texts,
        "signature": st.text(alphabet="0123456789abcdef", min_size=128, max_size=128) | texts,
    },
    KEYS: {
        "node_id": numbers,
        "functions": st.lists(vectors, max_size=3),
        "root": texts,
        "rows": st.lists(numbers, max_size=4),
        "units": numbers,
        "whole": st.booleans(),
        "seed": texts | st.none(),
    },
    "/v1/functional-keys": {"node_id": numbers, "functions": st.lists(vectors, max_size=3)},
    "/v1/disclosure": {"node_id": numbers},
}
paths = st.sampled_from(list(fields))
nearly = paths.flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.fixed_dictionaries({k: v | json_values if v is not numbers else v for k, v in fields[path].items()}),
    )
)


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


latin = st.text(alphabet=st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=40)


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
