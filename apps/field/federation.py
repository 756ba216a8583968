"""All roles on this machine, each by its own script, for ``make field``, the drills and the soak test."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from apps.field.keys import CA, node_key
from apps.field.run import Link, overrides_of
from apps.lab.running.processes import ROOT, descendants, end, environment, free_port, kill, launch
from apps.lab.running.superlink import RunError
from flwr_faa import private
from flwr_faa.authority.credential import Credential

AUTHORITY, SUPERLINK = "authority", "superlink"
#: A start may take so long on a machine that has other things to do.
START_SECONDS = 300.0
#: Pause before a SuperNode that ended is started again, as in contrib/systemd. Flower takes a killed one back a minute
#: after its last heartbeat, and until then it ends with code 305.
RESTART_SECONDS = 15.0


@dataclass
class Federation:
    """A federation that starts with the ``with`` block, but for its SuperNodes, and ends with it, however that ends.

    Parameters
    ----------
    folder : Path
        New or empty. Every process has a log there, ``<name>.log``.
    attacks : mapping of str to str
        SuperNodes by name, each with what it does that it should not (in ``conf/attack``); empty if it is honest. The
        n-th holds slice n.
    lab : str
        What all runs have in common: data set, partition, model.
    samples : int, optional
        At most so many a slice.
    budget : float
        Share of a sample's dimensions that devices disclose, and the authority.
    encrypted : bool
        Bind data by encryption, with a key authority; else by commitments, without.
    """

    folder: Path
    attacks: Mapping[str, str]
    lab: str
    samples: int | None = None
    budget: float = 0.25
    encrypted: bool = False
    ids: dict[str, int] = field(default_factory=dict, init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _ports: dict[str, int] = field(default_factory=dict, init=False)
    _said: dict[str, int] = field(default_factory=dict, init=False)
    _again: dict[str, Callable[[], None]] = field(default_factory=dict, init=False)
    _ended: dict[str, float] = field(default_factory=dict, init=False)

    def __enter__(self) -> Federation:
        self.folder = self.folder.absolute()
        private.folder(self.folder)
        try:
            limit = [] if self.samples is None else ["--samples", str(self.samples)]
            cut = [sys.executable, "-m", "apps.lab.slice", str(self.folder / "slices"), *self._lab.split(), *limit]
            subprocess.run(cut, cwd=ROOT, check=True, capture_output=True)
            if self.encrypted:
                self.start_authority()
            self.start_superlink()
            self.link.configure()
            keys = [node_key(self.folder / name).with_suffix(".key.pub") for name in self.attacks]
            with ThreadPoolExecutor() as pool:
                self.ids = dict(zip(self.attacks, pool.map(self.link.register, keys), strict=True))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *how: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, by pid, with its descendants."""
        end(self._processes.values())

    # Roles

    def start_authority(self, **more: str) -> None:
        """Start the key authority and wait until it listens; ``more`` goes into its environment."""
        log = self.log(AUTHORITY)
        before = log.stat().st_size if log.exists() else 0
        port = self._port(AUTHORITY)
        self._start(AUTHORITY, [str(self.folder / AUTHORITY), "--port", str(port), "--budget", str(self.budget)], more)
        self.wait_until(AUTHORITY, lambda: b"listening on" in log.read_bytes()[before:])

    def start_superlink(self, wait: bool = True) -> None:
        """Start the SuperLink and wait until it answers."""
        self._start(SUPERLINK, [str(self.folder / SUPERLINK), "--port", str(self._port(SUPERLINK))], {})

        def healthy() -> bool:
            try:
                trusted = ssl.create_default_context(cafile=self.ca)
                with urlopen(f"https://{self.address}/health", timeout=5, context=trusted):
                    return True
            except (URLError, OSError):
                return False

        if wait:
            self.wait_until(SUPERLINK, healthy)

    def start_node(self, name: str, data: Path | None = None, ca: Path | None = None, **more: str) -> None:
        """Start a SuperNode, with other data or another CA than its own if given; ``more`` is for its environment."""
        self._said[name] = self.log(name).stat().st_size if self.log(name).exists() else 0
        number = list(self.attacks).index(name) if name in self.attacks else 0
        options = {
            "--data": str(data or self.folder / "slices" / f"{number}.npz"),
            "--superlink": self.address,
            "--ca": str(ca or self.ca),
            "--port": str(self._port(name)),
            "--budget": str(self.budget),
        }
        if self.encrypted:
            options["--authority"] = Credential.read(self.credential).authority.hex()
        if attack := self.attacks.get(name, ""):
            options["--attack"] = attack
        words = [word for option in options.items() for word in option]
        self._again[name] = lambda: self._start(name, [str(self.folder / name), *words], more, role="supernode")
        self._again[name]()

    def start_nodes(self) -> None:
        """Start all SuperNodes and wait until they are connected."""
        for name in self.attacks:
            self.start_node(name)
        self.wait_online(self.attacks)

    def wait_online(self, names: Iterable[str]) -> None:
        """Wait until these SuperNodes, just started, are connected."""
        for name in names:
            self.wait_until(name, partial(self.is_online, name))

    def is_online(self, name: str) -> bool:
        """Return whether a SuperNode has said that it is connected."""
        return f"SuperNode ID: {self.ids[name]}" in self.said(name)

    def keep_up(self) -> None:
        """Start SuperNodes that ended by themselves again, as systemd would."""
        for name, again in self._again.items():
            if not self.running(name):
                since = self._ended.setdefault(name, time.monotonic())
                if time.monotonic() - since >= RESTART_SECONDS:
                    del self._ended[name]
                    again()

    def kill(self, name: str) -> None:
        """Kill -9 a role and its descendants."""
        self._again.pop(name, None)
        if self.running(name):
            kill(self._processes.pop(name))

    def kill_app(self, name: str) -> bool:
        """Kill -9 what a SuperNode has running for a message, if anything; the SuperNode itself lives on."""
        apps = [pid for pid in descendants(self._processes[name].pid) if "flwr-clientapp" in _command(pid)]
        for pid in apps:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(apps)

    def stop(self, name: str) -> None:
        """End a role as an operator would."""
        self._again.pop(name, None)
        end([self._processes.pop(name)])

    def running(self, name: str) -> bool:
        """Return whether that role is up."""
        return name in self._processes and self._processes[name].poll() is None

    def memory(self, name: str) -> float:
        """Return the resident memory of a role and its descendants, in MB."""
        parent = self._processes[name].pid
        return sum(_resident(pid) for pid in [parent, *descendants(parent)])

    def said(self, name: str) -> str:
        """Return what a SuperNode has said since it was started last."""
        return self.log(name).read_bytes()[self._said[name] :].decode(errors="replace")

    def log(self, name: str) -> Path:
        """Return the path of a role's log."""
        return self.folder / f"{name}.log"

    # Runs

    def start(self, name: str, overrides: str) -> subprocess.Popen[bytes]:
        """Start a run of the lab's app in the background; what it leaves is in the folder of that name."""
        private.folder(self.folder / name)
        authority = self.url if self.encrypted else ""
        told = overrides_of(self.folder / name, authority, self.credential, f"{self._lab} {overrides}")
        self._processes[name] = self.link.start(told, self.log(name))
        return self._processes[name]

    def run(self, name: str, overrides: str, seconds: float, watch: Callable[[], None] = lambda: None) -> Path:
        """Run the lab's app to its end; returns its ``rounds.jsonl``."""
        return self.finish(name, self.start(name, overrides), seconds, watch)

    def finish(
        self, name: str, run: subprocess.Popen[bytes], seconds: float, watch: Callable[[], None] = lambda: None
    ) -> Path:
        """Wait for a run's end; returns its ``rounds.jsonl``."""

        def watching() -> None:
            self.keep_up()
            watch()

        self.link.wait(run, seconds, watching)
        return self.rounds(name)

    def rounds(self, name: str) -> Path:
        """Return the reports of a run, as they come."""
        return self.folder / name / "rounds.jsonl"

    @property
    def link(self) -> Link:
        return Link(self.folder / "flwr", self.address, self.ca)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port(SUPERLINK)}"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port(AUTHORITY)}"

    @property
    def ca(self) -> Path:
        return self.folder / SUPERLINK / CA

    @property
    def credential(self) -> Path:
        return self.folder / AUTHORITY / "server.json"

    @property
    def names(self) -> dict[int, str]:
        return {node: name for name, node in self.ids.items()}

    @property
    def _lab(self) -> str:
        return f"clients={len(self.attacks)} {self.lab}"

    def _port(self, name: str) -> int:
        """Return the port of a role, the same when it starts again."""
        if name not in self._ports:
            self._ports[name] = free_port()
        return self._ports[name]

    def _start(self, name: str, arguments: Sequence[str], more: Mapping[str, str], role: str = "") -> None:
        with self.log(name).open("ab") as log:
            command = [sys.executable, "-m", f"apps.field.{role or name}", *arguments]
            self._processes[name] = launch(command, {**environment(self.folder / name / "flwr"), **more}, log)

    def wait_until(self, name: str, condition: Callable[[], bool], pause: float = 0.2) -> None:
        """Wait until a role has brought something about."""
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if name in self._processes and not self.running(name) and not condition():
                raise RunError(f"{name} ended with code {self._processes[name].returncode}; see {self.log(name)}")
            if time.monotonic() > deadline:
                raise RunError(f"expected {name} within {START_SECONDS:g} s, got no answer; see {self.folder}")
            time.sleep(pause)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has just ended
        return ""


def _resident(pid: int) -> float:
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    except OSError:  # it has just ended
        return 0.0
