"""``python -m apps.field.run FOLDER ...``: register nodes, run the lab's app on a SuperLink, say who is out.

Run it on the SuperLink's machine, from a checkout: the app is packed here and sent to the SuperNodes. It prints a line
for each round, and at the end a line for every node; the exit code is 0 if the run finished. Its files are in
``FOLDER``, as after any run of the lab.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from apps.field.verdicts import Follower, Node, nodes_of, table
from apps.lab.running.processes import ROOT, environment, launch
from apps.lab.running.superlink import RunError
from flwr_faa import private

CONNECTION = "field"


@dataclass(frozen=True)
class Link:
    """Flower's commands, for one SuperLink.

    Parameters
    ----------
    home : Path
        For Flower's settings, which name the SuperLink.
    address : str
        Host and port.
    ca : Path
        The SuperLink's.
    """

    home: Path
    address: str
    ca: Path

    def configure(self) -> None:
        """Write Flower's settings."""
        private.folder(self.home)
        lines = f'address = "{self.address}"\nroot-certificates = "{self.ca.absolute()}"\n'
        head = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        (self.home / "config.toml").write_text(head + lines)

    def register(self, public_key: Path) -> int:
        """Let a SuperNode in; returns its node id. Raises RunError, also for a key that is registered already."""
        return int(self._ask("supernode", "register", str(public_key), CONNECTION)["node-id"])

    def online(self) -> set[int]:
        """Return the ids of the nodes that are connected."""
        nodes = self._ask("supernode", "list", CONNECTION)["nodes"]
        return {int(node["node-id"]) for node in nodes if node["status"] == "online"}

    def start(self, overrides: str, log: Path) -> subprocess.Popen[bytes]:
        """Start ``flwr run`` in the background."""
        config = self.home / "run.toml"  # on the command line, a value cannot hold both kinds of quotes
        config.write_text(f"overrides = {json.dumps(overrides)}\n")
        command = ["flwr", "run", str(ROOT), CONNECTION, "--stream", "--run-config", str(config)]
        with log.open("ab") as output:
            return launch(command, environment(self.home), output)

    def status(self) -> str:
        """Return the status of the last run, ``finished:completed`` if all went well."""
        return str(self._ask("list", CONNECTION, "--limit", "1")["runs"][0]["status"])

    def wait(self, run: subprocess.Popen[bytes], seconds: float, watch: Callable[[], None] = lambda: None) -> None:
        """Wait for the end of a run. Raises RunError if it did not finish, or not in time."""
        deadline = time.monotonic() + seconds
        while run.poll() is None:  # what streams its log may end before it does
            watch()
            time.sleep(0.2)
            if time.monotonic() > deadline:
                raise RunError(f"expected the run's end within {seconds:g} s, got none")
        while not (status := self.status()).startswith("finished"):
            watch()
            time.sleep(1)
            if time.monotonic() > deadline:
                raise RunError(f"expected the run's end within {seconds:g} s, got {status!r}")
        if status != "finished:completed":
            raise RunError(f"expected the run to end as finished:completed, got {status!r}")

    def _ask(self, *command: str) -> dict[str, Any]:
        done = subprocess.run(
            ["flwr", *command, "--format", "json"],
            env=environment(self.home),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            start_new_session=True,
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise RunError(f"flwr {' '.join(command)}: {done.stdout} {done.stderr}") from None
        if not answer.get("success"):
            raise RunError(f"flwr {' '.join(command)}: {answer.get('error-message')}")
        return answer


def overrides_of(folder: Path, authority: str, credential: Path, more: str) -> str:
    """Return the overrides for the lab's app: how data are bound, by whose keys, and what else was asked for.

    Parameters
    ----------
    folder : Path
        Of the run.
    authority : str
        Address of the key authority; empty if data are bound by commitments.
    credential : Path
        For the authority.
    more : str
        Other overrides.
    """
    values: dict[str, str | Path] = {"run.dir": folder.absolute()}
    if authority:
        values |= {"verification.url": authority, "verification.key": credential.absolute()}
    quoted = [shlex.quote(f'{name}="{value}"') for name, value in values.items()]
    chosen = "spotcheck_remote" if authority else "spotcheck"
    return " ".join([f"verification={chosen}", "run.baseline=false", *quoted, more])


def main(
    folder: Annotated[Path, typer.Argument(help="Where the run leaves its files.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the lab, e.g. dataset=mnist5k rounds=10.")] = None,
    superlink: Annotated[str, typer.Option(help="Address and port.")] = "127.0.0.1:9092",
    ca: Annotated[Path, typer.Option(help="The SuperLink's ca.crt.")] = Path("superlink/ca.crt"),
    authority: Annotated[str, typer.Option(help="The key authority's address, if there is one.")] = "",
    credential: Annotated[Path, typer.Option(help="The server.json that the authority made.")] = Path("server.json"),
    node: Annotated[list[Path] | None, typer.Option(help="A node.key.pub to register first; repeatable.")] = None,
    nodes: Annotated[int, typer.Option(help="How many must be connected before it starts.")] = 1,
    seconds: Annotated[float, typer.Option(help="The most seconds that the run may take.")] = 86400.0,
) -> None:
    """Run the lab's app."""
    private.folder(folder)
    link, console = Link(folder / "flwr", superlink, ca), Console()
    link.configure()
    try:
        for public in node or []:
            console.print(f"{public}: node {link.register(public)}", soft_wrap=True)
        while (found := len(link.online())) < nodes:
            console.print(f"{found} of {nodes} nodes are connected", soft_wrap=True)
            time.sleep(3)
        told = overrides_of(folder, authority, credential, " ".join([f"min_clients={nodes}", *(overrides or [])]))
        follow = Follower(folder / "rounds.jsonl", lambda line: console.print(line, soft_wrap=True, highlight=False))
        link.wait(link.start(told, folder / "run.log"), seconds, follow)
        follow()
    except RunError as failure:
        console.print(f"{failure}; see {folder / 'run.log'}", style="bold red", soft_wrap=True)
        raise typer.Exit(1) from failure
    finished: Mapping[int, Node] = nodes_of(folder / "rounds.jsonl")
    console.print(table({str(i): n for i, n in finished.items()}))


if __name__ == "__main__":
    typer.run(main)
