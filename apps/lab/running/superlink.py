"""A private SuperLink, for real ``flwr run``s from a script.

``flwr run`` would start a SuperLink that outlives the script and keeps the working directory and environment of the
first run for all later ones. This one has a free port, its own FLWR_HOME in a temporary folder, and ends with the
``with`` block, whatever ended that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from apps.lab.running.processes import ROOT, end, environment, free_port, launch

START_SECONDS = 180.0


class RunError(RuntimeError):
    """A run that did not end as ``finished:completed``."""


class SuperLink:
    """A SuperLink that starts with the ``with`` block and ends with it, together with all its descendants.

    Parameters
    ----------
    log : path
        Where its output, and that of the runs, goes.
    """

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> SuperLink:
        self._home = Path(tempfile.mkdtemp(prefix="flwr-lab-"))
        port = free_port()
        (self._home / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        self._environment = environment(self._home)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._output = self._log.open("w")
        address = ["--host", "127.0.0.1", "--port", str(port)]
        self._started: list[subprocess.Popen[bytes]] = []
        superlink = self._start(["flower-superlink", "--insecure", "--simulation", *address])
        try:
            self._wait_until_healthy(superlink, port)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *how: object) -> None:
        self._end()

    def run(self, overrides: str, nodes: int, watch: Callable[[], None] = lambda: None) -> None:
        """Start the app of this checkout by ``flwr run`` and wait for its end.

        Parameters
        ----------
        overrides : str
            Of the scenario.
        nodes : int
        watch : callable
            Called a few times a second meanwhile.

        Raises
        ------
        RunError
        """
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        config = self._home / "run.toml"  # on the command line, a value cannot hold both kinds of quotes
        config.write_text(f"overrides = {json.dumps(overrides)}\n")
        command = ["flwr", "run", str(ROOT), "lab", "--stream", "--run-config", str(config)]
        run = self._start([*command, "--federation-config", federation])
        while run.poll() is None:
            watch()
            time.sleep(0.2)
        watch()
        if run.returncode != 0 or (status := self._status()) != "finished:completed":
            got = f"exit code {run.returncode}" if run.returncode else status
            raise RunError(f"expected the run to end as finished:completed, got {got}; see {self._log}")

    def shell(self, command: str) -> str:
        """Run a ``flwr`` command as somebody would type it in this checkout, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    def _status(self) -> str:
        """Return the status of the last run: ``flwr run --stream`` exits with 0 after a failed run too."""
        command = ["flwr", "list", "lab", "--format", "json", "--limit", "1"]
        listing = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        return str(json.loads(listing.stdout)["runs"][0]["status"])

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        self._started.append(launch(command, self._environment, self._output))
        return self._started[-1]

    def _wait_until_healthy(self, superlink: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if superlink.poll() is not None:
                raise RunError(f"flower-superlink ended with code {superlink.returncode}; see {self._log}")
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    return
            except (URLError, OSError):
                time.sleep(0.2)
        raise RunError(f"expected flower-superlink within {START_SECONDS:g} s, got no answer; see {self._log}")

    def _end(self) -> None:
        end(self._started)
        self._output.close()
        shutil.rmtree(self._home, ignore_errors=True)
