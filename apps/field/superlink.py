"""``python -m apps.field.superlink FOLDER``: the server's side, TLS, for SuperNodes with registered keys only.

It makes a CA and a certificate at the first start. Then copy ``FOLDER/ca.crt`` to every SuperNode's machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.field.keys import CA, CERTIFICATE, KEY, certify
from apps.field.role import become


def main(
    folder: Annotated[Path, typer.Argument(help="Its certificate and its database.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9092,
    name: Annotated[list[str] | None, typer.Option(help="Name that SuperNodes reach it by; repeatable.")] = None,
) -> None:
    """Serve the SuperLink."""
    folder = folder.absolute()
    if not (folder / CA).exists():
        certify(folder, [*(name or []), host, "localhost", "127.0.0.1"])
        typer.echo(f"copy to every SuperNode:  {folder / CA}")
    tls = ["--ssl-ca-certfile", CA, "--ssl-certfile", CERTIFICATE, "--ssl-keyfile", KEY]
    files = [option if option.startswith("--") else str(folder / option) for option in tls]
    options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    state = ["--database", str(folder / "superlink.db"), "--host", host, "--port", str(port)]
    become(["flower-superlink", *files, *options, *state], folder / "flwr")


if __name__ == "__main__":
    typer.run(main)
