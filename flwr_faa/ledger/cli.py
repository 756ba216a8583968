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

from flwr_faa import private, terminal
from flwr_faa.errors import ArgumentValueError
from flwr_faa.ledger.history import History, NodeHistory
from flwr_faa.ledger.store import Ledger

COLUMNS = (
    "at", "round", "node_id", "name", "verdict", "accepted", "suspect", "banned", "withheld", "score",
    "score_threshold", "error", "threshold", "verifier", "reason",
)  # fmt: skip
#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")

app = typer.Typer(
    help="What the ledger of a federation says: who was suspected, convicted and banned, why and when.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder given to Ledger(...), on the server.")]
Node = Annotated[int, typer.Argument(metavar="NODE", help="A node id, as the tables show it.", min=0)]


@app.callback()
def ledger(version: bool = terminal.version_option("faa-ledger")) -> None:
    """What the ledger of a federation says."""


@app.command()
def nodes(folder: Folder) -> None:
    """One line per node: state, how often it was suspected and convicted, and why it was last judged as it was."""
    with _explained():
        history = History(folder)
        columns = ("node", "state", "rounds", "suspected", "convicted", "missing", "strikes", "last", "known", "why")
        caption = "times are UTC; known: the most that is known of a sample, of its dimensions"
        terminal.show(columns, map(_line, history.nodes()), caption=caption)
        for lift in history.lifts():
            terminal.say(f"ban of node {lift['node_id']} lifted at {lift['at']}")


@app.command()
def node(folder: Folder, node_id: Node) -> None:
    """Every round of one node."""
    with _explained():
        found = History(folder).verdicts(node_id)
        if not found:
            raise ArgumentValueError(f"expected a node of this ledger, got {node_id}; see 'faa-ledger nodes'")
        rows = []
        for v in found:
            numbers = [f"{x:.4g}" if x is not None else "-" for x in (v["score"], v["error"])]
            rows.append([str(v["round"]), v["at"], _outcome(v), *numbers, v["reason"]])
        terminal.show(("round", "at (UTC)", "verdict", "score", "error", "why"), rows)


@app.command()
def rounds(folder: Folder, last: Annotated[int, typer.Option(help="How many of the last rounds.", min=1)] = 20) -> None:
    """One line per round: how many were accepted, and what became of the others."""
    with _explained():
        rows = []
        for r in History(folder).rounds(last):
            others = ", ".join(f"{count} {outcome}" for outcome, count in sorted(r["outcomes"].items()))
            accepted = f"{r['accepted']} (failed closed)" if r["failed_closed"] else str(r["accepted"])
            rows.append([str(r["round"]), r["at"], r["verifier"] or "-", str(r["nodes"]), accepted, others])
        terminal.show(("round", "at (UTC)", "verifier", "nodes", "accepted", "others"), rows)


@app.command()
def lift(
    folder: Folder,
    node_id: Annotated[int | None, typer.Argument(metavar="[NODE]", help="A node id, as the tables show it.")] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Lift it for every node that is banned or has strikes.")
    ] = False,
    server_round: Annotated[
        int | None, typer.Option("--round", help="Lift it for every node banned in this round.")
    ] = None,
) -> None:
    """Lift a node's ban and forget its strikes. A running server takes it up with the next round."""
    with _explained():
        if sum((node_id is not None, everybody, server_round is not None)) != 1:
            raise ArgumentValueError("expected one of NODE, --all and --round")
        history = History(folder)
        held = {n.node_id: n for n in history.nodes() if n.ban or n.strikes}
        if server_round is None:
            lifted, wanted = [n for n in held if everybody or n == str(node_id)], "that is banned or has strikes"
        else:
            lifted, wanted = history.banned_in(server_round), f"that was banned in round {server_round} and still is"
        if not lifted:
            raise ArgumentValueError(f"expected a node {wanted}, got {'none' if node_id is None else node_id}")
        ledger = Ledger(folder)
        for node in lifted:
            ledger.lift(int(node))
            terminal.say(f"node {node}: ban and strikes lifted")
        ledger.close()


@app.command()
def export(
    folder: Folder, out: Annotated[Path | None, typer.Option("--out", help="File to write; else the terminal.")] = None
) -> None:
    """Every verdict as a line of CSV."""
    with _explained():
        history, count = History(folder), 0
        history.mark()  # an error now rather than an empty file
        with private.file(out).open("w", newline="") if out else nullcontext(sys.stdout) as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for verdict in history.each_verdict():
                count += 1
                writer.writerow([_cell(verdict[name]) for name in COLUMNS])
        if out:
            terminal.say(f"{count} verdicts written to {out}")


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; off loopback it needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")] = 8765,
    token_file: Annotated[Path | None, typer.Option(help="File with the token; else one is made and shown.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Show the ledger as a live page in the browser: read-only, for whoever has the token."""
    with _explained():
        from flwr_faa.authority import web
        from flwr_faa.ledger import live

        if (certificate is None) != (certificate_key is None):
            raise ArgumentValueError("expected --certificate and --certificate-key, got one of them")
        History(folder).rounds(1)  # an error now rather than on the page
        tls = (certificate_key, certificate) if certificate_key and certificate else None
        token = live.read_token(token_file) if token_file else live.new_token()
        page = live.application(folder, token, secure=tls is not None)
        web.serve(page, host, port, tls, lambda url: typer.echo(live.greeting(url, token, token_file)))


def _line(n: NodeHistory) -> list[str]:
    known = f"{n.disclosure['max_rank']}/{n.disclosure['dimension']}" if n.disclosure else "-"
    counts = map(str, (n.rounds, n.suspected, n.convicted, n.missing, n.strikes))
    state, why = (f"banned {n.banned_at}".strip(), n.ban) if n.ban else (n.state, n.last["reason"])
    name = f"{n.name} ({n.node_id})" if n.name else n.node_id
    return [name, state, *counts, f"{n.last['round']}: {_outcome(n.last)}", known, why]


def _outcome(verdict: dict[str, Any] | Any) -> str:
    return f"{verdict['verdict']} (observed)" if verdict["withheld"] else str(verdict["verdict"])


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


@contextmanager
def _explained() -> Iterator[None]:
    """Print errors in one line, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, sqlite3.Error) as error:
        terminal.say(f"faa-ledger: {error}", error=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point."""
    app()
