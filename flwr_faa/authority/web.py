"""An ASGI application on a port, by uvicorn, with a door that strangers cannot block.

uvicorn limits neither how long a connection may stay silent nor whose connections take the room. The door does, where
connections are accepted. A connection is a stranger's until the application vouches for a request of it (``vouch``):
signed by the aggregation server, or with the page's token. Strangers have ``SECONDS`` from their first byte to the last
and ``STRANGERS`` places. When these are taken, the address with the most strangers loses its oldest one, so neither
silence nor slowness nor many connections keep others out. A connection that has been vouched for is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from flwr_faa.authority.credential import loopback
from flwr_faa.errors import ArgumentValueError

#: For a stranger's connection, from being accepted: TLS handshake, headers and answer.
SECONDS = 10
#: Connections that nobody has vouched for yet, at most. Below what a process may have open, above one backlog.
STRANGERS = 256
_BACKLOG = 128
_EXTENSION = "faa.vouch"


def serve(
    application: ASGIApp, host: str, port: int, tls: tuple[Path, Path] | None, started: Callable[[str], None]
) -> None:
    """Serve until told to stop (SIGTERM, SIGINT).

    Parameters
    ----------
    application : Starlette or FastAPI
    host, port
        Where to listen; port 0 is any free one.
    tls : pair of Path
        Files of the key and certificate. None is clear text, on loopback only.
    started : callable
        Is given the URL once connections are accepted.

    Raises
    ------
    ValueError
        Clear text off loopback.
    """
    if tls is None and not loopback(host):
        raise ArgumentValueError(f"expected TLS, or a loopback address, got clear text on {host}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = _Door(socket.create_server((host, port), family=family, backlog=_BACKLOG))
    config = uvicorn.Config(
        door.watched(application),
        ssl_keyfile=tls and tls[0],
        ssl_certfile=tls and tls[1],
        loop="asyncio",  # which accepts by the door's method; uvloop would not
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,  # idle TLS connections would hold it for 30 s
    )
    started(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{door.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[door])


def vouch(scope: MutableMapping[str, Any]) -> None:
    """Say of a request that its connection is no stranger's."""
    scope.get("extensions", {}).get(_EXTENSION, lambda: None)()


class _Door(socket.socket):
    """A listening socket that knows the strangers among its connections."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(fileno=listener.detach())
        # By address and port, oldest first: whose it is, and the connection.
        self._strangers: dict[tuple[str, int], tuple[str, socket.socket]] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection; called by the event loop."""
        connection, address = super().accept()
        who = address[:2]
        self._strangers = {k: s for k, s in self._strangers.items() if s[1].fileno() >= 0}  # closed ones are gone
        if len(self._strangers) >= STRANGERS:
            most = Counter(whose for whose, _ in self._strangers.values()).most_common(1)[0][0]
            self._show_out(next(k for k, (whose, _) in self._strangers.items() if whose == most))
        self._strangers[who] = _whose(address[0]), connection
        asyncio.get_running_loop().call_later(SECONDS, self._late, who, connection)
        return connection, address

    def watched(self, application: ASGIApp) -> ASGIApp:
        """Return the application, which can vouch for its requests."""

        async def inside(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[_EXTENSION] = lambda: self._strangers.pop(scope["client"], None)
            await application(scope, receive, send)

        return inside

    def _late(self, who: tuple[str, int], connection: socket.socket) -> None:
        if who in self._strangers and self._strangers[who][1] is connection:
            self._show_out(who)

    def _show_out(self, who: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # it has gone by itself
            self._strangers.pop(who)[1].shutdown(socket.SHUT_RDWR)


def _whose(host: str) -> str:
    """Return whose connection this is: an IPv4 address, or an IPv6 network of 64 bits, as one household has."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.IPv6Address(int(address) >> 64 << 64))
    return str(address)
