"""The authority over HTTP: POST /v1/<operation> with a JSON body, signed by the aggregation server.

``Service`` is the whole protocol without I/O; ``application`` wraps it for an ASGI server.

Every refusal has a status of 400 to 499, a code and a reason, and changes nothing but the log. Requests that are not
the aggregation server's go to the process's log only: strangers must not be able to fill the authority's disk.
A key is in the database before its bytes are handed to the web server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from flwr_faa.authority import web
from flwr_faa.authority.base import MAX_NODE, Stated
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.credential import DIGEST, NONCE, SIGNATURE, TIME, reply_message, request_message
from flwr_faa.authority.registration import BudgetExceeded, Refused, Registration, verify_signature
from flwr_faa.crypto.ipfe import MAX_WIDTH
from flwr_faa.errors import FlwrAnomalyError

#: Bytes of a body, checked while it arrives: room for the weights of 3,072 x 1,000, written out.
MAX_BODY = 2**25
#: Milliseconds by which the clocks of authority and server may differ.
WINDOW = 300_000
#: Lists in a body. Empty ones take 40 times their bytes once parsed, numbers 25 times: at most 0.8 GB, measured.
MAX_LISTS = 2 * MAX_WIDTH
#: Bodies read at a time. Only one is parsed at a time, in its transaction.
_AT_A_TIME = 4
#: For a body to arrive.
_SECONDS = 60

logger = logging.getLogger(__name__)

Node = Annotated[int, Field(ge=0, le=MAX_NODE)]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


class _Message(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True)


class About(_Message):
    """What kind of authority this is."""


class PublicKeyOf(_Message):
    """A node's public key."""

    node_id: Node
    width: int


class Register(_Message):
    """A client's registration."""

    node_id: Node
    root: Hex32
    samples: int
    width: int
    top: int
    verify_key: Hex32
    signature: Hex64


class FunctionalKeys(_Message):
    """Keys for functions of unregistered data."""

    node_id: Node
    functions: list[list[int]]


class Check(_Message):
    """A key that tests what a client has stated; without a seed of the server's it is only counted."""

    node_id: Node
    root: Hex32
    rows: list[int]
    functions: list[list[int]]
    units: int
    whole: bool
    seed: Hex32 | None


class DisclosureOf(_Message):
    """What is known of a node's data."""

    node_id: Node


class Rejected(FlwrAnomalyError):  # noqa: N818
    """A request that is not carried out, and why."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


@dataclass(frozen=True)
class Ticket:
    """A request whose headers are the aggregation server's."""

    path: str
    at: int
    nonce: bytes
    digest: str
    signature: str


@dataclass(frozen=True)
class SignedReply:
    """Status, JSON, and the authority's signature, empty for strangers."""

    status: int
    body: bytes
    signature: str = ""


class Service:
    """The protocol, without I/O.

    Parameters
    ----------
    authority : KeyAuthority
    server : bytes, 32
        The aggregation server's Ed25519 key.
    clock : callable
        Seconds since 1970.
    """

    def __init__(self, authority: KeyAuthority, server: bytes, clock: Callable[[], float] = time.time) -> None:
        self.authority, self.server, self.clock = authority, server, clock
        self._operations: dict[str, tuple[type[Any], Callable[[Any], dict[str, Any]]]] = {
            "/v1/about": (About, self._about),
            "/v1/public-key": (PublicKeyOf, self._public_key),
            "/v1/register": (Register, self._register),
            "/v1/functional-keys": (FunctionalKeys, self._functional_keys),
            "/v1/check": (Check, self._check),
            "/v1/disclosure": (DisclosureOf, self._disclosure),
        }

    def admit(self, path: str, headers: Mapping[str, str]) -> Ticket:
        """Check the headers of a request, before its body is read. Raises Rejected."""
        if path not in self._operations:
            raise Rejected(404, "unknown", "expected one of the authority's operations, got another path")
        try:
            fields = {name: headers[name] for name in (TIME, NONCE, DIGEST, SIGNATURE)}
            nonce, signature = bytes.fromhex(fields[NONCE]), bytes.fromhex(fields[SIGNATURE])
            at = int(fields[TIME]) if len(fields[TIME]) < 16 else -1
        except (KeyError, ValueError):
            raise Rejected(401, "unsigned", "expected a signed request, got none") from None
        message = request_message(self.authority.verify_key, path, fields)
        if len(nonce) != 16 or not verify_signature(self.server, signature, message):
            raise Rejected(401, "unsigned", "expected the aggregation server's signature, got another")
        return Ticket(path, at, nonce, fields[DIGEST], fields[SIGNATURE])

    def answer(self, ticket: Ticket, body: bytes) -> SignedReply:
        """Carry out a request, once: nonce, counts and log are one transaction, on disk before this returns."""
        try:
            with self.authority.store.transaction():
                status, result = self._answer(ticket, body)
        except sqlite3.Error as error:  # a full or broken disk; nothing has been issued
            logger.error("the store failed: %s", error)
            status, result = 503, {"error": "store", "reason": "expected a working store, got an error; see the log"}
        return self._sign(ticket, status, result)

    def reject(self, rejected: Rejected, ticket: Ticket | None = None) -> SignedReply:
        """Return the reply to a request that is not carried out."""
        logger.warning("refused (%d): %s", rejected.status, rejected.reason)
        result = {"error": rejected.code, "reason": rejected.reason}
        if ticket is None:
            return SignedReply(rejected.status, json.dumps(result).encode())
        return self._sign(ticket, rejected.status, result)

    def _sign(self, ticket: Ticket, status: int, result: dict[str, Any]) -> SignedReply:
        raw = json.dumps(result).encode()
        return SignedReply(status, raw, self.authority.sign(reply_message(ticket.signature, status, raw)).hex())

    def _answer(self, ticket: Ticket, body: bytes) -> tuple[int, dict[str, Any]]:
        operation = ticket.path.rpartition("/")[2]
        try:
            now = int(self.clock() * 1000)
            if abs(now - ticket.at) > WINDOW:
                raise Rejected(401, "stale", f"expected a request of the last {WINDOW // 1000} s, got another time")
            if not self.authority.store.burn(ticket.nonce, ticket.at, now, WINDOW):
                raise Rejected(409, "replayed", "expected a new request, got a replayed one")
            if hashlib.sha256(body).hexdigest() != ticket.digest:
                raise Rejected(400, "malformed", "expected the body that was signed, got another")
            if body.count(b"[") > MAX_LISTS:
                raise Rejected(400, "malformed", f"expected at most {MAX_LISTS} lists, got more")
            model, carry_out = self._operations[ticket.path]
            try:
                message = model.model_validate_json(body)
            except ValidationError as error:
                raise Rejected(400, "malformed", _first(error)) from None
            return 200, carry_out(message)
        except Rejected as rejected:  # the core logs what it refuses; this is what never came to it
            self.authority.store.log("refused", None, what=operation, reason=rejected.reason)
            logger.warning("%s refused (%d): %s", operation, rejected.status, rejected.reason)
            return rejected.status, {"error": rejected.code, "reason": rejected.reason}
        except Refused as refused:
            logger.warning("%s refused: %s", operation, refused)
            code = "budget" if isinstance(refused, BudgetExceeded) else "refused"
            return 403, {"error": code, "reason": str(refused)}

    def _about(self, _: About) -> dict[str, Any]:
        return {"group": self.authority.group.name, "budget": self.authority.budget}

    def _public_key(self, message: PublicKeyOf) -> dict[str, Any]:
        return {"key": self.authority.signed_public_key(message.node_id, message.width).to_bytes().hex()}

    def _register(self, m: Register) -> dict[str, Any]:
        root, key, signature = (bytes.fromhex(text) for text in (m.root, m.verify_key, m.signature))
        receipt = self.authority.register(m.node_id, Registration(root, m.samples, m.width, m.top, key, signature))
        return {"receipt": receipt.hex()}

    def _functional_keys(self, m: FunctionalKeys) -> dict[str, Any]:
        return {"secrets": [key.secret for key in self.authority.functional_keys(m.node_id, m.functions)]}

    def _check(self, m: Check) -> dict[str, Any]:
        stated = Stated(bytes.fromhex(m.root), m.rows, m.functions, m.units, m.whole)
        if m.seed is None:
            self.authority.count(m.node_id, stated)
            return {}
        found = self.authority.check_key(m.node_id, stated, bytes.fromhex(m.seed))
        return {"seed": found.seed.hex(), "secret": found.key.secret}

    def _disclosure(self, message: DisclosureOf) -> dict[str, Any]:
        return asdict(self.authority.disclosure(message.node_id))


def application(service: Service) -> Starlette:
    """Return the service as an ASGI application."""
    room = asyncio.Semaphore(_AT_A_TIME)

    async def endpoint(request: Request) -> Response:
        ticket = None
        try:
            ticket = service.admit(request.scope["path"], request.headers)
            web.vouch(request.scope)
            async with room:
                async with asyncio.timeout(_SECONDS):
                    body = await _read(request)
                reply = await run_in_threadpool(service.answer, ticket, body)
        except Rejected as rejected:
            reply = service.reject(rejected, ticket)
        except TimeoutError:
            reply = service.reject(Rejected(408, "slow", f"expected the body within {_SECONDS} s"), ticket)
        except ClientDisconnect:
            reply = service.reject(Rejected(400, "malformed", "expected the whole body, got a part"), ticket)
        headers = {SIGNATURE: reply.signature} if reply.signature else {"connection": "close"}  # a stranger's
        return Response(reply.body, reply.status, headers, media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", endpoint, methods=["POST"])])


async def _read(request: Request) -> bytes:
    """Return the body, as long as it is not too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Rejected(413, "large", f"expected at most {MAX_BODY} bytes, got more")
        parts.append(part)
    return b"".join(parts)


def _first(error: ValidationError) -> str:
    """Return what is wrong with a body, without what was in it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:80]
    return f"expected a well-formed body, got in {where!r}: {first['msg'][:120]}"  # a name may be anything: quoted
