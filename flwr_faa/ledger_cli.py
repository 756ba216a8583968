"""``faa-ledger nodes | node | rounds | lift | export | serve``."""

from __future__ import annotations

import csv
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from flwr_faa.history import History
from flwr_faa.ledger import Ledger

COLUMNS = (
    "at", "round", "node_id", "verdict", "accepted", "suspect", "banned", "withheld", "score", "score_threshold",
    "error", "threshold", "verifier", "reason",
)  # fmt: skip
#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")
_STYLES = {"banned": "bold red", "watched": "yellow", "good": "green"}

app = typer.Typer(
    help="What the ledger of a federation says: who was suspected, convicted and banned, why and when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder given to Ledger(...), on the server.")]
Node = Annotated[int, typer.Argument(metavar="NODE", help="A node id, as the tables show it.", min=0)]


@app.command()
def nodes(folder: Folder) -> None:
    """One line a node: state, how often it was suspected and convicted, and why it was last judged as it was."""
    with _explained():
        history = History(folder)
        table = Table(Column("node", no_wrap=True), "state", "rounds", "suspected", "convicted", "missing", "strikes",
                      "last", Column("known", no_wrap=True), "why")  # fmt: skip
        for n in history.nodes():
            known = f"{n.disclosure['max_rank']}/{n.disclosure['dimension']}" if n.disclosure else "-"
            counts = map(str, (n.rounds, n.suspected, n.convicted, n.missing, n.strikes))
            state, why = n.state, n.last["reason"]
            if n.ban:
                state, why = f"banned {n.banned_at}".strip(), n.ban
            last = f"{n.last['round']}: {_outcome(n.last)}"
            table.add_row(str(n.node_id), Text(state, _STYLES[n.state]), *counts, Text(last), known, Text(why))
        table.caption = "times are UTC; known: the most that is known of a sample, of its dimensions"
        _print(table)
        for lift in history.lifts():
            typer.echo(f"ban of node {lift['node_id']} lifted at {lift['at']}")


@app.command()
def node(folder: Folder, node_id: Node) -> None:
    """Every round of one node."""
    with _explained():
        found = History(folder).verdicts(node_id)
        if not found:
            raise ValueError(f"expected a node of this ledger, got {node_id}; see 'faa-ledger nodes'")
        table = Table("round", Column("at (UTC)", no_wrap=True), "verdict", "score", "error", "why")
        for v in found:
            numbers = [f"{x:.4g}" if x is not None else "-" for x in (v["score"], v["error"])]
            table.add_row(str(v["round"]), v["at"], Text(_outcome(v)), *numbers, Text(v["reason"]))
        _print(table)


@app.command()
def rounds(folder: Folder, last: Annotated[int, typer.Option(help="How many of the last rounds.", min=1)] = 20) -> None:
    """One line a round: how many were accepted, and what became of the others."""
    with _explained():
        table = Table("round", Column("at (UTC)", no_wrap=True), "verifier", "nodes", "accepted", "others")
        for r in History(folder).rounds(last):
            others = ", ".join(f"{count} {outcome}" for outcome, count in sorted(r["outcomes"].items()))
            accepted = f"{r['accepted']} (failed closed)" if r["failed_closed"] else str(r["accepted"])
            table.add_row(str(r["round"]), r["at"], r["verifier"] or "-", str(r["nodes"]), accepted, Text(others))
        _print(table)


@app.command()
def lift(folder: Folder, node_id: Node) -> None:
    """Lift a node's ban and forget its strikes. A running server takes it up with the next round."""
    with _explained():
        found = {n.node_id: n for n in History(folder).nodes()}.get(node_id)
        if found is None or not (found.ban or found.strikes):
            raise ValueError(f"expected a node that is banned or has strikes, got {node_id}")
        ledger = Ledger(folder)
        ledger.lift(node_id)
        ledger.close()
        typer.echo(f"node {node_id}: ban and strikes lifted")


@app.command()
def export(
    folder: Folder, out: Annotated[Path | None, typer.Option("--out", help="File to write; else the terminal.")] = None
) -> None:
    """Every verdict as a line of CSV."""
    with _explained():
        found = History(folder).verdicts()
        with out.open("w", newline="") if out else nullcontext(sys.stdout) as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([_cell(v[name]) for name in COLUMNS] for v in found)
        if out:
            typer.echo(f"{len(found)} verdicts written to {out}")


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; off loopback it needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")] = 8765,
    token_file: Annotated[Path | None, typer.Option(help="File with the token; else one is made and shown.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Show the ledger as a live page in the browser: read-only, for who has the token."""
    with _explained():
        from flwr_faa import live  # here: the other commands do without a web server
        from flwr_faa.authority import web

        if (certificate is None) != (certificate_key is None):
            raise ValueError("expected --certificate and --certificate-key, got one of them")
        History(folder).rounds(1)  # an error now rather than on the page
        tls = (certificate_key, certificate) if certificate_key and certificate else None
        token = live.read_token(token_file) if token_file else live.new_token()
        page = live.application(folder, token, secure=tls is not None)
        web.serve(page, host, port, tls, lambda url: typer.echo(live.greeting(url, token, token_file)))


def _outcome(verdict: dict[str, Any] | Any) -> str:
    return f"{verdict['verdict']} (observed)" if verdict["withheld"] else str(verdict["verdict"])


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _print(table: Table) -> None:
    # A pipe has no width: lines that can be searched instead of ones that are cut at 80.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


@contextmanager
def _explained() -> Iterator[None]:
    """Errors in one line, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, sqlite3.Error) as error:
        typer.echo(f"faa-ledger: {error}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point."""
    app()
