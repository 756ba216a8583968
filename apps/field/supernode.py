"""``python -m apps.field.supernode FOLDER ...``: a device with its data.

Its node id depends on the key in ``FOLDER/node.key``, made at the first start. The SuperLink refuses it until
``FOLDER/node.key.pub`` is registered there: ``python -m apps.field.run ... --node node.key.pub``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from apps.field.keys import node_key
from apps.field.role import become
from flwr_faa.authority.budget import BUDGET


def main(
    folder: Annotated[Path, typer.Argument(help="Its key, its bound data and its checkpoints.")],
    data: Annotated[Path, typer.Option(help="Its slice, from 'python -m apps.lab.slice'.")] = Path("slice.npz"),
    superlink: Annotated[str, typer.Option(help="Address and port.")] = "127.0.0.1:9092",
    ca: Annotated[Path, typer.Option(help="The SuperLink's ca.crt.")] = Path("ca.crt"),
    authority: Annotated[str, typer.Option(help="The key of an authority, if there is one: 64 hex digits.")] = "",
    port: Annotated[
        int, typer.Option(help="Port for its own processes, on loopback; each SuperNode needs one.")
    ] = 9094,
    budget: Annotated[float, typer.Option(help="Share of a sample's dimensions that it discloses.")] = BUDGET,
    attack: Annotated[str, typer.Option(help="For drills: be malicious, in one of the ways of conf/attack.")] = "",
    key_only: Annotated[bool, typer.Option("--key-only", help="Make the key and stop.")] = False,
) -> None:
    """Serve a SuperNode."""
    folder = folder.absolute()
    key = node_key(folder)
    if key_only:
        typer.echo(f"to be registered at the SuperLink:  {key}.pub")
        return
    if len(authority) not in (0, 64):
        raise typer.BadParameter("expected --authority with 64 hex digits, or none: data are then never encrypted")
    config = {"data": str(data.absolute()), "device": str(folder), "authority": authority, "budget": budget}
    if attack:
        config["attack"] = attack
    told = " ".join(f"{name}={json.dumps(value)}" for name, value in config.items())
    link = ["--superlink", superlink, "--root-certificates", str(ca), "--auth-supernode-private-key", str(key)]
    become(
        ["flower-supernode", *link, "--host", "127.0.0.1", "--port", str(port), "--node-config", told], folder / "flwr"
    )


if __name__ == "__main__":
    typer.run(main)
