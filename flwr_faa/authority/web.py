"""An ASGI application on a port, by uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from flwr_faa.authority.credential import loopback


def serve(
    application: Starlette, host: str, port: int, tls: tuple[Path, Path] | None, started: Callable[[str], None]
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
        raise ValueError(f"expected TLS, or a loopback address, got clear text on {host}")
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
    )
    config = uvicorn.Config(
        application,
        ssl_keyfile=tls and tls[0],
        ssl_certfile=tls and tls[1],
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=64,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,  # idle TLS connections would hold it for 30 s
    )
    started(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listener])
