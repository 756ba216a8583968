"""The parties of the tests: clients that sign, and an authority's directory with a process that can be killed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from flwr_faa.authority import Authority, Registration
from flwr_faa.authority.cli import app
from flwr_faa.authority.core import KeyAuthority

WIDTH = 16


@dataclass(frozen=True)
class Signer:
    """A client: its node and its key."""

    node: int
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def owner(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def registration(
        self, authority: Authority, root: bytes = b"r" * 32, samples: int = 20, width: int = WIDTH
    ) -> Registration:
        public = authority.public_key(self.node, width).to_bytes()
        return Registration(root, samples, width, b"").signed(self.key, self.node, public)

    def enrol(self, authority: Authority, root: bytes = b"r" * 32, samples: int = 20, width: int = WIDTH) -> bytes:
        authority.register(self.node, self.registration(authority, root, samples, width))
        return root


def functions(count: int, width: int = WIDTH) -> list[list[int]]:
    return [[secrets.randbelow(2**17) - 2**16 for _ in range(width)] for _ in range(count)]


def facts(authority: KeyAuthority) -> list[tuple]:
    """All of the state but log and nonces."""
    tables = ("meta", "key_pairs", "nodes", "owners", "keyed", "sets", "samples")
    return [tuple(authority.store._db.execute(f"SELECT * FROM {t} ORDER BY 1, 2")) for t in tables]  # noqa: S608


def run(*arguments: str | Path) -> Result:
    """The command line, in this process; ``Process`` is the real thing."""
    return CliRunner().invoke(app, [*map(str, arguments)], terminal_width=200)


class Process:
    """``faa-authority serve``; the constructor returns once it listens."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "flwr_faa.authority", "serve", str(directory), *options]
        if "--port" not in options:
            command += ["--port", "0"]
        with (directory / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment(), start_new_session=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends when the process does
        assert line.startswith("listening on "), (directory / "serve.log").read_text()
        self.url = line.split()[-1]

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """As an operator would; returns the exit code."""
        self._process.terminate()
        return self._end()

    def _end(self) -> int:
        code = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1"}
