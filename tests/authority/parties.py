"""The parties of the tests: clients that sign, and an authority's directory with a process that can be killed."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from flwr_faa.authority import Authority, CheckKey, Registration, Stated
from flwr_faa.authority.cli import app
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.registration import MAX_TOP

WIDTH = 32
#: Of samples: the largest value that there may be.
TOP = MAX_TOP
#: Dimensions that a value of ``functions`` tells, of 31 bits, and a key for up to 127 of them, of at most 62.
FUNCTION, KEY = 1, 2
_numbers = itertools.count()


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
        return Registration(root, samples, width, TOP, b"").signed(self.key, self.node, public)

    def enrol(self, authority: Authority, root: bytes = b"r" * 32, samples: int = 20, width: int = WIDTH) -> bytes:
        authority.register(self.node, self.registration(authority, root, samples, width))
        return root


def functions(count: int, width: int = WIDTH) -> list[list[int]]:
    """One value of a sample each, or its negative: the next ones, so that 2 * width in a row differ."""
    taken = itertools.islice(_numbers, count)
    return [[(1 - 2 * (n // width % 2)) * (i == n % width) for i in range(width)] for n in taken]


def check(
    authority: Authority,
    node: int,
    root: bytes,
    stated: int | list[list[int]] = 1,
    seed: bytes | None = None,
    **more: Any,
) -> CheckKey:
    """A key for a new check, of sample 0 and with one function stated unless told otherwise."""
    found = functions(stated) if isinstance(stated, int) else stated
    asked = Stated(root, **({"rows": [0], "functions": found} | more))
    return authority.check_key(node, asked, seed or secrets.token_bytes(32))


def count(authority: Authority, node: int, root: bytes, stated: int | list[list[int]] = 1, **more: Any) -> None:
    """The same without a key."""
    found = functions(stated) if isinstance(stated, int) else stated
    authority.count(node, Stated(root, **({"rows": [0], "functions": found} | more)))


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


def told_at_most(functions: list[list[int]], width: int, top: int, known: int) -> bool:
    """Whether these values tell no more samples apart than ``known`` dimensions hold."""
    every = np.array(list(itertools.product(range(top + 1), repeat=width)), object)
    outcomes = {tuple(row) for row in (every @ np.array(functions, object).T).tolist()} if functions else {()}
    return len(outcomes) <= (top + 1) ** known
