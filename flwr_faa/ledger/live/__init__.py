"""The operator's live page: rounds, nodes with their evidence, and what is known of their data, out of the ledger.

Read-only, on loopback unless there is TLS, and nothing without the token. Needs the extra ``flwr-anomaly[live]``.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flwr_faa.authority import web
from flwr_faa.errors import ArgumentValueError, MissingExtraError
from flwr_faa.ledger.history import History
from flwr_faa.terminal import printable

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, JSONResponse
except ImportError as error:
    raise MissingExtraError("fastapi", "live", "the live page") from error

#: Beginning of the cookie's name. The rest tells the pages of one host apart: browsers send cookies to every port.
COOKIE = "faa-live"
#: Rounds that the page draws.
ROUNDS = 40
_HERE = Path(__file__).parent
#: Served to whoever asks: they ask for the token.
_OPEN = {"/login", "/login.js", "/live.css", "/favicon.svg"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """Return 256 random bits, as text."""
    return secrets.token_urlsafe(32)


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises
    ------
    ValueError
        If it is too short to resist guessing.
    """
    token = path.read_text().strip()
    if len(token) < 20 or not token.isascii():
        raise ArgumentValueError(f"expected a token of at least 20 ASCII characters in {path}, got {len(token)}")
    return token


def greeting(url: str, token: str, file: Path | None) -> str:
    """Return the operator's greeting. Behind the #, the browser sees the token, and no request line holds it."""
    return f"live page: {url}/#{'TOKEN, which is in ' + str(file) if file else token}"


def application(folder: Path, token: str, secure: bool = False) -> FastAPI:
    """Return the page as an ASGI application.

    Parameters
    ----------
    folder : path
        The ledger's.
    token : str
    secure : bool
        Whether it is served over TLS only.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    history = History(folder)
    mine = hashlib.sha256(b"\0".join((str(folder.resolve()).encode(), token.encode()))).hexdigest()
    cookie = f"{COOKIE}-{mine[:12]}"

    def known(request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given if scheme.lower() == "bearer" else request.cookies.get(cookie, "")
        return secrets.compare_digest(given.encode(), token.encode())

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response: Response
        path, trusted = request.scope["path"], known(request)  # not request.url, which the Host header can change
        if trusted:
            web.vouch(request.scope)
        if trusted or path in _OPEN:
            response = await call_next(request)
        elif path == "/":
            response = FileResponse(_HERE / "login.html", status_code=401)
        else:
            response = JSONResponse({"error": "expected the token, got none or another one"}, status_code=401)
        response.headers.update(_HEADERS)
        return response

    @app.post("/login")
    async def login(request: Request) -> Response:
        if not known(request):
            return JSONResponse({"error": "expected the token, got another one"}, status_code=403)
        response = Response(status_code=204)
        response.set_cookie(cookie, token, httponly=True, samesite="strict", secure=secure)
        return response

    @app.get("/")
    def page() -> Response:
        return FileResponse(_HERE / "live.html")

    @app.get("/{name}")
    def file(name: str) -> Response:
        if name not in ("live.js", "login.js", "live.css", "favicon.svg"):
            return JSONResponse({"error": "expected a page that exists"}, status_code=404)
        return FileResponse(_HERE / name)

    @app.get("/api/state")
    def state(request: Request, since: int = 0) -> Response:
        try:
            running = history.running()
            tag = f'"{history.mark()}.{running}"'
            if tag == request.headers.get("if-none-match"):
                return Response(status_code=304)
            return JSONResponse(snapshot(history, since) | {"running": running}, headers={"ETag": tag})
        except (sqlite3.Error, OSError) as error:
            return JSONResponse({"error": printable(error)}, status_code=503)

    return app


def snapshot(history: History, since: int = 0) -> dict[str, Any]:
    """Return what the page shows: every node, and the rounds and cells after the round with the id ``since``.

    ``whole`` says that this is all there is to show, as it is where the ledger has been replaced by a shorter one. Node
    ids are text: JavaScript's numbers do not hold 64 bits.
    """
    newest = history.rounds(1)
    if not newest or not 0 < since <= newest[0]["id"]:
        since = 0
    nodes = [
        {
            "node": n.node_id, "name": n.name, "state": n.state, "ban": n.ban, "banned_at": n.banned_at,
            "strikes": n.strikes, "rounds": n.rounds, "suspected": n.suspected, "convicted": n.convicted,
            "missing": n.missing, "last": dict(n.last), "disclosure": n.disclosure,
        }
        for n in history.nodes()
    ]  # fmt: skip
    rounds = history.rounds(ROUNDS, since)
    cells = [
        {"round_id": v["round_id"], "node": v["node_id"], "verdict": v["verdict"], "withheld": v["withheld"],
         "reason": v["reason"]}
        for v in (history.verdicts(since=rounds[0]["id"] - 1) if rounds else ())
    ]  # fmt: skip
    return {"whole": not since, "rounds": rounds, "nodes": nodes, "cells": cells}
