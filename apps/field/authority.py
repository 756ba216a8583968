"""``python -m apps.field.authority FOLDER``: the key authority, which counts what becomes known of the data.

Run it on a machine that the operator of the SuperLink does not control. It makes keys and a certificate at the first
start. Then move ``FOLDER/server.json`` to the SuperLink's machine, and give the devices the key that is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from apps.field.role import become
from flwr_faa.authority.budget import BUDGET
from flwr_faa.authority.cli import DATABASE, init


def main(
    folder: Annotated[Path, typer.Argument(help="Its keys and its database.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.")] = 9443,
    name: Annotated[list[str] | None, typer.Option(help="Name that the SuperLink reaches it by; repeatable.")] = None,
    budget: Annotated[float, typer.Option(help="Share of a sample's dimensions that may become known.")] = BUDGET,
) -> None:
    """Serve the key authority."""
    if not (folder / DATABASE).exists():
        init(folder, [*(name or []), host], budget)
    serve = [sys.executable, "-m", "flwr_faa.authority", "serve", str(folder), "--host", host, "--port", str(port)]
    become(serve, folder)


if __name__ == "__main__":
    typer.run(main)
