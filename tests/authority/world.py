"""An authority behind its service, with one registered client, and what the aggregation server holds."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import time

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.authority import LocalAuthority
from flwr_faa.authority.client import RemoteAuthority
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.credential import Credential
from flwr_faa.authority.service import Service, application
from tests.authority.parties import Signer, facts, functions

ROOT = b"r" * 32
KEYS = "/v1/check"


class Web(httpx.BaseTransport):
    """Hands requests to the application; raises what it raises."""

    def __init__(self, service: Service) -> None:
        self._inner = httpx.ASGITransport(application(service))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            response = await self._inner.handle_async_request(request)
            await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=response.content)

        return asyncio.run(answer())


@dataclasses.dataclass
class World:
    """An authority with one registered client, its service, and what the aggregation server holds."""

    authority: KeyAuthority
    credential: Credential
    now: float = dataclasses.field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.client = Signer(9)
        self.client.enrol(self.authority)
        self.start()

    def start(self) -> None:
        """The process starts, again."""
        server = Ed25519PrivateKey.from_private_bytes(self.credential.key).public_key().public_bytes_raw()
        self.service = Service(self.authority, server, lambda: self.now)
        self.web = httpx.Client(transport=Web(self.service), base_url="http://localhost")

    def remote(self, credential: Credential | None = None) -> RemoteAuthority:
        return RemoteAuthority("http://localhost", credential or self.credential, transport=self.web._transport)

    def keys(self, **changes: object) -> bytes:
        fields = {"node_id": 9, "functions": functions(1), "root": ROOT.hex(), "rows": [1], "units": 0, "whole": False}
        fields["seed"] = secrets.token_hex(32)
        return json.dumps(fields | changes).encode()

    def post(self, body: bytes, headers: dict[str, str] | None = None, path: str = KEYS) -> httpx.Response:
        return self.web.post(
            path, content=body, headers=self.credential.sign(path, body) if headers is None else headers
        )

    def facts(self) -> list[tuple]:
        """All of the state but log and nonces."""
        return facts(self.authority)


def make_world(certificate: str) -> World:
    authority = LocalAuthority()
    authority.unregistered = False
    return World(
        authority, Credential(authority.verify_key, certificate, Ed25519PrivateKey.generate().private_bytes_raw())
    )
