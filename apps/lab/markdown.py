"""Tables that a command writes into a Markdown file, between marks of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

#: Title, head, lines.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def markdown(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table with its title."""
    return f"**{title}**\n\n{untitled(head, lines)}\n"


def untitled(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table, without a last line break."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *lines))


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with so many decimals; ``-`` stands for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def write_region(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- table:name -->`` and the next ``<!-- /table -->``; blank lines around it.

    Raises
    ------
    ValueError
        If the file has no such marks.
    """
    region = re.compile(rf"(<!-- table:{re.escape(name)} -->\n).*?(<!-- /table -->)", re.DOTALL)
    before = path.read_text()
    if not region.search(before):
        raise ValueError(f"expected <!-- table:{name} --> and <!-- /table --> in {path}, got neither")
    path.write_text(region.sub(lambda found: f"{found[1]}\n{text.rstrip()}\n\n{found[2]}", before))
