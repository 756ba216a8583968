"""How the aggregation server and the authority know each other: two Ed25519 keys and a TLS certificate.

Every request is signed, rather than made over TLS with a client certificate: the signature is checked before a byte of
the body is read, holds on loopback without TLS and behind a proxy that ends it, a refusal can say why and be logged,
and a replay is recognised by a nonce on the authority's disk rather than by a session that a restart forgets. Every
reply to a signed request is signed too, over the request, so the one pinned Ed25519 key vouches for all of it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.errors import ArgumentValueError

#: Headers of a request: milliseconds since 1970; in hex 16 random bytes, SHA-256 of the body, Ed25519 signature.
TIME, NONCE, DIGEST, SIGNATURE = "x-faa-time", "x-faa-nonce", "x-faa-digest", "x-faa-signature"


@dataclass(frozen=True)
class Credential:
    """What the aggregation server needs to be served.

    Parameters
    ----------
    authority : bytes, 32
        The authority's Ed25519 key, which clients pin too.
    certificate : str
        The certificate, or CA, that its TLS is checked against, PEM.
    key : bytes, 32
        The aggregation server's own Ed25519 seed. Not shown by ``repr``.
    """

    authority: bytes
    certificate: str
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Credential:
        """Read a credential from a file; raise ValueError if it is not one."""
        try:
            fields = json.loads(path.read_bytes())
            found = cls(bytes.fromhex(fields["authority"]), fields["certificate"], bytes.fromhex(fields["key"]))
        except (KeyError, TypeError, ValueError):
            raise ArgumentValueError(f"expected a key file of faa-authority, got another file: {path}") from None
        if (len(found.authority), len(found.key)) != (32, 32):
            raise ArgumentValueError(f"expected keys of 32 bytes in {path}, got others")
        return found

    def write(self, path: Path) -> None:
        """Write it to a new file that only its owner can read."""
        fields = {"authority": self.authority.hex(), "certificate": self.certificate, "key": self.key.hex()}
        write_secret(path, json.dumps(fields, indent=2).encode() + b"\n")

    def sign(self, path: str, body: bytes) -> dict[str, str]:
        """Return headers for a request."""
        headers = {
            TIME: str(time.time_ns() // 1_000_000),
            NONCE: secrets.token_hex(16),
            DIGEST: hashlib.sha256(body).hexdigest(),
        }
        message = request_message(self.authority, path, headers)
        return headers | {SIGNATURE: Ed25519PrivateKey.from_private_bytes(self.key).sign(message).hex()}


def request_message(authority: bytes, path: str, headers: Mapping[str, str]) -> bytes:
    """Return what the aggregation server signs; names the authority, so that another one cannot use it."""
    lines = ["faa-authority/request/1", authority.hex(), path, headers[TIME], headers[NONCE], headers[DIGEST]]
    return "\n".join(lines).encode()


def reply_message(signature: str, status: int, body: bytes) -> bytes:
    """Return what the authority signs; it names the request by the request's signature."""
    return f"faa-authority/reply/1\n{signature}\n{status}\n{hashlib.sha256(body).hexdigest()}".encode()


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file that only its owner can read, from the first moment."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)


def loopback(host: str) -> bool:
    """Return whether only this machine can be meant. A name other than localhost could be anybody's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
