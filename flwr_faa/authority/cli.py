"""``faa-authority init | serve | show``."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa import private, terminal
from flwr_faa.authority.budget import BUDGET
from flwr_faa.authority.certificate import fingerprint, self_signed
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.credential import Credential, write_secret
from flwr_faa.authority.registration import Disclosure
from flwr_faa.authority.store import Store

DATABASE, TLS_KEY, TLS_CERTIFICATE, SERVER = "authority.db", "tls.key", "tls.crt", "server.json"
_LINES = 10  # of the log, in ``show``
#: Of what the user asked for, and of a file that is not as an authority writes it.
_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, OSError, ImportError, sqlite3.Error)

app = typer.Typer(
    help="The key authority of flwr-anomaly: keeps the master keys, and counts what becomes known.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, which may be keys
)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the authority keeps its state.")]


@app.callback()
def authority(version: bool = terminal.version_option("faa-authority")) -> None:
    """The key authority."""


@app.command()
def init(
    directory: Directory,
    host: Annotated[list[str] | None, typer.Option(help="Name or address that it is reached by; repeatable.")] = None,
    budget: Annotated[float, typer.Option(help="Share of a sample's dimensions that may become known.")] = BUDGET,
    back_end: Annotated[
        str, typer.Option(help="arkworks, or charm where server and all devices have it.")
    ] = "arkworks",
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM; else self-signed.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    ca: Annotated[Path | None, typer.Option(help="What the server checks that certificate against, PEM.")] = None,
) -> None:
    """Create keys and TLS certificate, and the file for the aggregation server."""
    if (certificate is None) != (certificate_key is None):
        raise typer.BadParameter("expected --certificate and --certificate-key, got one of them")
    private.folder(directory)
    if any((directory / name).exists() for name in (DATABASE, TLS_KEY, TLS_CERTIFICATE, SERVER)):
        raise typer.BadParameter(f"expected a directory without an authority, got {directory}")
    if certificate is not None and certificate_key is not None:
        tls, chain = certificate_key.read_bytes(), certificate.read_bytes()
    else:
        tls, chain = self_signed([*(host or []), "localhost", "127.0.0.1", "::1"])
    trusted = chain if ca is None else ca.read_bytes()
    shown = fingerprint(chain)
    store = Store(directory / DATABASE)
    with store.transaction():
        _explain(lambda: KeyAuthority.create(store, back_end, budget))
        server = Ed25519PrivateKey.generate()
        store.set_meta("server", server.public_key().public_bytes_raw())
        authority = KeyAuthority(store)
        write_secret(directory / TLS_KEY, tls)
        private.file(directory / TLS_CERTIFICATE).write_bytes(chain)
        Credential(authority.verify_key, trusted.decode(), server.private_bytes_raw()).write(directory / SERVER)
    store.close()
    typer.echo(f"authority's key, to pin on clients:  {authority.verify_key.hex()}")
    typer.echo(f"TLS certificate, SHA-256:            {shown}")
    typer.echo(f"move to the aggregation server:      {directory / SERVER}")


@app.command()
def serve(
    directory: Directory,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")] = 9443,
    clear_text: Annotated[bool, typer.Option("--clear-text", help="No TLS; on loopback only.")] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Unlimited keys for nodes that never registered data: the paper's mode.")
    ] = False,
) -> None:
    """Serve the aggregation server until stopped."""
    from flwr_faa.authority import service, web  # here: init and show do without a web server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = _open(directory)
    if paper:
        logging.warning("--paper: this mode hides nothing of nodes that have not registered their data")
    server = store.meta("server")
    if server is None:
        raise typer.BadParameter(f"expected an authority's directory, got {directory}; see 'faa-authority init'")
    tls = None if clear_text else (directory / TLS_KEY, directory / TLS_CERTIFICATE)
    application = service.application(service.Service(KeyAuthority(store, unregistered=paper), server))

    def started(url: str) -> None:
        with store.transaction():
            store.log("serving", None, url=url, paper=paper)
        typer.echo(f"listening on {url}")

    _explain(lambda: web.serve(application, host, port, tls, started))


@app.command()
def show(directory: Directory) -> None:
    """Print nodes, registrations and budgets, and the last lines of the log, whose chain is checked."""
    _explain(lambda: _show(_open(directory)))


def _show(store: Store) -> None:
    authority = KeyAuthority(store)
    columns = ("node", "root", "opened", "known", "budget", "sets", "keys")
    rows = []
    for node in store.nodes():
        owner = store.owner(node)
        found = None if owner is None else store.current(owner)
        # a node whose client has moved on, or has come without data, has no set of its own
        root = found.root.hex() if found is not None and found.node == str(node) else "-"
        rows.append((str(node), root, *_cells(authority.disclosure(node))))
    told = "known: the most that may be known of a sample, of its dimensions; sets: registered so far"
    terminal.show(columns, rows, caption=told)
    try:
        count = store.check_log()
    except ValueError as error:
        terminal.say(f"the log has been changed: {error}")
        raise typer.Exit(1) from error
    lines = store.lines(_LINES)
    log = [(str(line.id), line.at, line.event, line.node, _detail(line.detail)) for line in lines]
    terminal.show(("line", "at", "event", "node", "detail"), log, title=f"log, {count} lines, chain intact")
    terminal.say(f"authority's key {authority.verify_key.hex()}")
    terminal.say(f"log's last hash {lines[-1].hash.hex() if lines else '-'}")


def _detail(text: str) -> str:
    try:
        return ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
    except (ValueError, AttributeError, RecursionError):  # somebody else's file
        return text


def _cells(found: Disclosure) -> list[str]:
    opened, known = f"{found.samples_opened}/{found.samples}", f"{found.max_rank}/{found.dimension}"
    return [opened, known, *map(str, (found.budget, found.enrolments, found.keys_issued))]


def _open(directory: Path) -> Store:
    if not os.path.isfile(directory / DATABASE):  # opening would create it
        raise typer.BadParameter(f"expected an authority's directory, got {directory}; see 'faa-authority init'")
    return Store(directory / DATABASE)


def _explain(action: Callable[[], None]) -> None:
    """Print faults in one line, without a traceback."""
    try:
        action()
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        OSError,
        ImportError,
        sqlite3.Error,
    ) as e:
        raise typer.BadParameter(terminal.printable(e)) from e


def main() -> None:
    """Entry point."""
    app()
