"""What is printed on a terminal. Every text passes through ``printable``: it may come from a hostile client or file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

#: Longest text shown of what may come from a client.
_LONGEST = 500
#: A table narrower than this is readable as a table even if it has to wrap its last column.
_LAST = 30


def printable(text: object) -> str:
    """Return a text on one line, without anything that a terminal or a browser would obey, and not too long.

    Control characters (escape, C1, newlines), bidirectional overrides and whatever else Unicode does not print are
    replaced.
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def version_option(program: str) -> Any:
    """Return the option ``--version`` of a command: what is installed, then the end."""

    def tell(asked: bool) -> None:
        if asked:
            typer.echo(f"{program} {metadata.version('flwr-anomaly')}")
            raise typer.Exit

    return typer.Option(False, "--version", callback=tell, is_eager=True, help="Print the version and end.")


def say(text: object, error: bool = False) -> None:
    """Print one line."""
    typer.echo(printable(text), err=error)


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", caption: str = "") -> None:
    """Print a table: whole lines into a pipe; on a terminal too narrow for it, one block for each row.

    Parameters
    ----------
    columns : sequence of str
        The first is a block's heading. The last one may wrap.
    rows : iterable of sequence of str
    title, caption : str
    """
    clean = [[printable(cell) for cell in row] for row in rows]
    table = Table(title=title or None, caption=caption or None)
    for name in columns:
        table.add_column(name, no_wrap=name != columns[-1], overflow="fold")
    for row in clean:
        table.add_row(*(Text(cell, _style(cell)) for cell in row))
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1_000_000)).maximum
    if not sys.stdout.isatty():
        Console(width=max(needed, len(title), len(caption))).print(table)
        return
    last = max((len(row[-1]) for row in clean), default=0)
    if needed - max(0, last - _LAST) <= console.width:
        console.print(table)
        return
    if title:
        console.print(Text(title, "italic"))
    for heading, *cells in clean:
        told = [Text(heading, "bold")]
        for name, cell in zip(columns[1:], cells, strict=True):
            if cell not in ("", "-"):
                told.append(Text(f"  {name}: ").append(cell, _style(cell)))
        console.print(Group(*told), "")
    if caption:
        console.print(Text(caption, "dim italic"))


def _style(cell: str) -> str:
    return {"banned": "bold red", "watched": "yellow", "good": "green"}.get(cell.partition(" ")[0], "")
