"""Fuzz a real ``faa-authority`` over HTTP, and every parser of both sides, for as long as you like.

::

    python -m tests.authority.soak --minutes 10

Hypothesis draws requests that are nearly right, signed nonsense, and what strangers send; and bytes for the parsers,
random ones and true messages with some bytes changed. Ends at the first crash, 5xx, or exception that a parser has not
promised; prints how many were sent, and how much the authority's memory has grown since the first tenth of the time. It
starts with the widest key there may be, for which the authority needs the most: what Python does not give back after
that is no growth.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_faa.authority import SignedPublicKey
from flwr_faa.authority.client import RemoteAuthority
from flwr_faa.authority.credential import Credential
from flwr_faa.crypto import backends, ipfe
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment, Enrol
from tests.authority.parties import Process, Signer, run
from tests.authority.requests import json_values, latin, nearly, paths
from tests.authority.world import ROOT

#: Megabytes that the authority may grow by after its widest key, whatever is sent and however long.
GROWTH = 32.0
_FUZZ = settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@dataclass
class Soak:
    """A fuzzed authority, and what came of it."""

    process: Process
    credential: Credential
    statuses: Counter[int] = field(default_factory=Counter)
    parsed: Counter[str] = field(default_factory=Counter)
    megabytes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.web = httpx.Client(base_url=self.process.url, timeout=60, trust_env=False)
        self.remote = RemoteAuthority(self.process.url, self.credential)
        Signer(9).enrol(self.remote, ROOT)
        self.post("/v1/public-key", json.dumps({"node_id": 10, "width": ipfe.MAX_WIDTH}).encode())

    def note(self, response: httpx.Response) -> None:
        assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
        self.statuses[response.status_code] += 1

    def post(self, path: str, body: bytes) -> None:
        """A request that the aggregation server has signed."""
        self.note(self.web.post(path, content=body, headers=self.credential.sign(path, body)))

    def measure(self) -> None:
        """Note the memory that the authority uses, and make sure that it still keeps to the budget."""
        status = Path(f"/proc/{self.process._process.pid}/status").read_text()
        self.megabytes.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        found = self.remote.disclosure(9)
        assert found.max_rank <= found.budget

    def once(self) -> None:
        """Some of everything."""

        @_FUZZ
        @given(request=nearly)
        def nearly_right(request: tuple) -> None:
            self.post(request[0], json.dumps(request[1]).encode())

        @_FUZZ
        @given(path=paths, body=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
        def nonsense(path: str, body: bytes) -> None:
            self.post(path, body)

        @_FUZZ
        @given(path=paths, headers=st.dictionaries(st.sampled_from(["x-faa-time", "x-faa-signature", "range"]), latin))
        def strangers(path: str, headers: dict[str, str]) -> None:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            with suppress(httpx.LocalProtocolError):  # not sent: the client's own library refuses such a header
                self.note(self.web.post(path, content=b"{}", headers=raw))

        nearly_right()
        nonsense()
        strangers()
        for name, (parse, true) in _parsers().items():
            self.parsed[name] += _fuzz(parse, true)


def _fuzz(parse: Callable[[bytes], object], true: bytes) -> int:
    """Feed a parser, which may raise ValueError and nothing else; the number of messages."""
    count = 0

    @_FUZZ
    @given(data=st.data())
    def feed(data: st.DataObject) -> None:
        nonlocal count
        count += 1
        raw = bytearray(true)
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
            raw[at] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
        for message in (bytes(raw[:cut]), data.draw(st.binary(max_size=100))):
            with suppress(ValueError):
                parse(message)

    feed()
    return count


def _parsers() -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    """Every parser of what arrives from elsewhere, with a message that it takes."""
    group = backends.open_group("auto")
    public, _ = ipfe.setup(group, 4)
    ciphertexts = ipfe.ciphertexts_to_bytes(ipfe.encrypt_rows(public, [[1, 2, 3, 4]]))
    signed = SignedPublicKey(7, public.to_bytes(), secrets.token_bytes(64))
    root, ints, raw = bytes(merkle.SIZE), np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8)
    commitment = Commitment(root, root, np.ones((3, 2), np.float32))
    challenge = Challenge(root, root, root, (0, 2), root, bytes(64))
    answer = Answer(raw, raw, raw, raw, raw, ints[0], ints, raw, np.zeros((2, 3), np.float32), np.zeros((2, 3)))
    return {
        "public key": (lambda b: ipfe.PublicKey.from_bytes(group, b), public.to_bytes()),
        "signed public key": (SignedPublicKey.from_bytes, signed.to_bytes()),
        "ciphertexts": (lambda b: ipfe.ciphertexts_from_bytes(group, b), ciphertexts),
        "enrol": (Enrol.from_bytes, Enrol("encryption", 7, group.name, signed.to_bytes()).to_bytes()),
        "commitment": (lambda b: Commitment.from_bytes(b, 3, 2), commitment.to_bytes()),
        "challenge": (Challenge.from_bytes, challenge.to_bytes()),
        "answer": (Answer.from_bytes, answer.to_bytes()),
    }


def soak(seconds: float, directory: Path) -> Soak:
    """Fuzz for so long, at least once."""
    result = run("init", directory)
    assert result.exit_code == 0, result.stderr
    process = Process(directory, "--clear-text")
    try:
        found, start = Soak(process, Credential.read(directory / "server.json")), time.monotonic()
        while not found.megabytes or time.monotonic() - start < seconds:
            found.once()
            found.measure()
        assert process._process.poll() is None
        assert "Traceback" not in (directory / "serve.log").read_text()
        return found
    finally:
        process.kill()


def growth(megabytes: list[float]) -> float:
    """By how much the most that was used exceeds the most of the first tenth."""
    return max(megabytes) - max(megabytes[: max(1, len(megabytes) // 10)])


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        found = soak(60 * minutes, Path(folder) / "authority")
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(found.statuses.items()))
    print(
        f"{minutes:g} minutes: {found.statuses.total()} requests ({statuses}); {2 * found.parsed.total()} messages for"
    )
    print(f"{len(found.parsed)} parsers; the authority used {found.megabytes[0]:.0f} to {max(found.megabytes):.0f} MB")
    grown = growth(found.megabytes)
    print(f"and grew by {grown:.1f} MB after the first tenth of the time (allowed: {GROWTH:g})")
    return int(grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
