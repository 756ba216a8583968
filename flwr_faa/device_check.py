"""``faa-device check``: whether this machine can be a client, and what to do if not.

Everything that may end in an illegal instruction (torch has a history of them on the Raspberry Pi 4: pytorch#97226) is
tried in a process of its own, so that it can be named. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flwr_faa import private, terminal
from flwr_faa.authority.budget import BUDGET

MB = 2**20
#: A data set of a few thousand encrypted samples, checkpoints, and the packages' caches.
MIN_DISK = 1024 * MB
#: What a client needs besides its own process: SuperNode, system.
MIN_SPARE = 300 * MB
#: Flower refuses messages whose clocks differ by more.
MAX_SKEW = 10.0
_SLOW = 1800  # seconds; an emulated machine takes minutes to import torch

#: What a client process of a round does: import everything, train committed, encrypt samples. Prints one line of JSON.
_STEP = """
import json, resource, tempfile, time
from pathlib import Path
start = time.perf_counter()
import numpy as np, torch, flwr.clientapp, flwr_faa.client
from flwr_faa import TrainingPlan
from flwr_faa.verification.spotcheck import commitments
imported = time.perf_counter()
def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
plan = TrainingPlan(model=net, lr=0.1, batch_size=20)
rows = np.random.default_rng(0).integers(0, 256, (200, 64), dtype=np.uint8)
labels = (rows[:, :10].argmax(1)).astype(np.int64)
before = plan.initial_arrays(0)
with tempfile.TemporaryDirectory() as folder:
    after, _ = commitments.train(plan, before, (rows, labels), 1, Path(folder))
x, y = torch.tensor(rows / 255.0).float(), torch.tensor(labels)
loss = [float(torch.nn.functional.cross_entropy(plan.build(a)(x), y)) for a in (before, after)]
print(json.dumps({"import": imported - start, "step": (time.perf_counter() - imported) / 10, "fell": loss[1] < loss[0],
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "version": torch.__version__}))
"""
_CRYPTO = """
import json, time
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.backends import open_group
group = open_group()
public, master = ipfe.setup(group, 64)
start = time.perf_counter()
row = ipfe.encrypt(public, list(range(64)))
seconds = time.perf_counter() - start
key = ipfe.derive_key(master, [1] * 64)
right = ipfe.claim_holds([row], [1], key, 2016) and not ipfe.claim_holds([row], [1], key, 2017)
print(json.dumps({"right": right, "seconds": seconds, "name": group.name}))
"""
#: Tries a plan on data; prints its problems, and how runs are kept. Loads a project's own code, which may do anything.
_PLAN = """
import json, sys
from flwr_faa.verification.readiness import try_plan
name, file, folder, budget, convolution, top, authority = sys.argv[1:]
print(json.dumps(try_plan(name, file, folder, float(budget), bool(convolution), int(top), bool(authority))))
"""


@dataclass(frozen=True)
class Check:
    """One finding: ``state`` is ``ok``, ``warn`` or ``fail``; ``todo`` says what to do about it."""

    name: str
    state: str
    found: str
    todo: str = ""


def check_python() -> Check:
    """Check the version of Python."""
    found = f"{sys.version.split()[0]} on {os.uname().machine}, {os.cpu_count()} cores"
    if sys.maxsize < 2**32:
        return Check("python", "fail", f"{found}, 32 bits", "flash the 64-bit image: there are no 32-bit wheels")
    return Check("python", "ok", found)


def check_packages() -> Check:
    """Check the installed packages."""
    names = ("flwr-anomaly", "flwr", "torch", "numpy", "cryptography", "py-arkworks-bls12381")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "pip install 'flwr-anomaly[device]'")
    return Check("packages", "ok", ", ".join(found))


def check_torch() -> tuple[Check, int]:
    """Do one committed step of training in a process of its own, as a client does; return its peak memory too."""
    told, problem = _probe(_STEP)
    if not told:
        todo = "pip install 'torch>=2.9,<2.10' (a CPU build on aarch64)"
        if "illegal instruction" in problem:
            todo = "this build of torch does not fit this processor: try 'pip install torch==2.9.1', or a Pi 5"
        return Check("torch", "fail", problem, todo), 0
    times = f"import {told['import']:.1f} s, {told['step'] * 1000:.0f} ms a step"
    found = f"{told['version']}: {times}, peak {told['peak'] // MB} MB"
    if not told["fell"]:
        return Check(
            "torch", "fail", f"{found}, but the loss did not fall", "install another build: this one computes wrongly"
        ), 0
    return Check("torch", "ok", found), int(told["peak"])


def check_crypto() -> Check:
    """Encrypt, and check a right and a wrong claim, in a process of its own."""
    told, problem = _probe(_CRYPTO)
    if not told:
        return Check("crypto", "fail", problem, "pip install --force-reinstall py-arkworks-bls12381 cryptography")
    found = f"{told['name']}, a sample of 64 values encrypted in {told['seconds'] * 1000:.0f} ms"
    if not told["right"]:
        return Check("crypto", "fail", f"{found}, wrongly", "use another back end: pip install 'flwr-anomaly[charm]'")
    return Check("crypto", "ok", found)


def check_plan(
    plan: str, data: Path, folder: Path, budget: float, allow_convolution: bool, max_value: int, authority: bool
) -> list[Check]:
    """Check a project's plan and data: a finding for each thing that must change, or how runs are kept."""
    flags = ["yes" if flag else "" for flag in (allow_convolution, authority)]
    told, died = _probe(_PLAN, plan, str(data), str(folder), str(budget), flags[0], str(max_value), flags[1])
    if told is None:
        return [Check("plan", "fail", f"{plan}: {died}", "it must be importable from this folder")]
    problems, kept = told
    if problems:
        return [Check("plan", "fail", p) for p in problems]
    state, todo = ("warn", "nothing: the disk does. Another torch may train the same") if "NOT" in kept else ("ok", "")
    return [Check("plan", "ok", f"{plan} can be verified on {data}"), Check("runs", state, kept, todo)]


def check_disk(folder: Path) -> Check:
    """Check the space where the device keeps its data, and that a file can be written and kept there."""
    try:
        private.folder(folder)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"\0" * MB)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "disk", "fail", f"{folder}: {error.strerror}", "give a folder that this user may write, on a disk with room"
        )
    found = f"{free // MB} MB free in {folder}"
    if free < MIN_DISK:
        return Check("disk", "fail", found, f"free {MIN_DISK // MB} MB: encrypted data and checkpoints are kept there")
    return Check("disk", "ok", found)


def check_memory(peak: int, meminfo: str) -> Check:
    """Check that a client's process fits beside the others without swapping."""
    fields = {k: int(v) * 1024 for k, v in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.M)}
    available, swap = fields.get("MemAvailable", 0), fields.get("SwapTotal", 0)
    found = f"{available // MB} of {fields.get('MemTotal', 0) // MB} MB available, {swap // MB} MB swap"
    if not peak:
        return Check("memory", "warn", f"{found}; a client's peak is not known", "first make torch work")
    if available < peak + MIN_SPARE:
        told = f"{found}; a client takes {peak // MB} MB and {MIN_SPARE // MB} MB beside it"
        return Check(
            "memory", "fail", told, "stop other services (a desktop takes 500 MB), or use a board with more memory"
        )
    return Check("memory", "ok", f"{found}; a client takes {peak // MB} MB")


def check_clock(skew: float | None, synchronised: bool | None) -> Check:
    """Check the clock: against the SuperLink's, if it answered, and whether anything keeps it right."""
    todo = "sudo timedatectl set-ntp true; a Pi has no battery: wait for the network before the service starts"
    if skew is not None and abs(skew) > MAX_SKEW:
        return Check("clock", "fail", f"{skew:+.0f} s from the SuperLink's", todo)
    against = "" if skew is None else f"{skew:+.0f} s from the SuperLink's"
    if synchronised is False:
        return Check("clock", "warn", f"{against} not synchronised".strip(), todo)
    known = "synchronised" if synchronised else "not known whether it is synchronised"
    return Check("clock", "ok", ", ".join(filter(None, (against, known))))


def check_connection(address: str, ca: Path | None) -> tuple[Check, float | None]:
    """Check name, port, TLS and answer of the SuperLink; return how many seconds this clock is off, too."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return Check(
            "connection", "fail", f"expected HOST:PORT, got {address}", "give the address that flower-supernode gets"
        ), None
    host = host.strip("[]")
    try:
        if ca is None:
            http: HTTPConnection = HTTPConnection(host, int(port), timeout=10)
        else:
            http = HTTPSConnection(host, int(port), timeout=10, context=ssl.create_default_context(cafile=str(ca)))
        http.request("GET", "/health")
        reply = http.getresponse()
        date, tls = reply.headers.get("date"), "no TLS" if ca is None else "certificate valid"
        skew = time.time() - parsedate_to_datetime(date).timestamp() if date else None
        http.close()
        return Check("connection", "ok", f"{address} answers, {tls}"), skew
    except socket.gaierror:
        return Check("connection", "fail", f"no address for {host}", "check the name, and this device's DNS"), None
    except ssl.SSLCertVerificationError as error:
        todo = "check the CA's certificate (--root-certificates), its names and dates, and this device's clock"
        return Check("connection", "fail", f"{address}: {error.verify_message}", todo), None
    except ssl.SSLError as error:
        return Check(
            "connection", "fail", f"{address}: no TLS ({error.reason})", "is the SuperLink started with TLS?"
        ), None
    except OSError as error:
        told = f"{address}: {error.strerror or 'no answer in time'}"
        return Check("connection", "fail", told, "is the SuperLink running, and the port open in its firewall?"), None
    except HTTPException as error:
        told = f"{address}: no answer that can be read ({type(error).__name__})"
        return Check("connection", "fail", told, "use --root-certificates if the SuperLink has TLS"), None


def run_checks(
    folder: Path,
    superlink: str | None,
    ca: Path | None,
    told: Callable[[Check], None],
    more: Callable[[], Sequence[Check]] = tuple,
) -> bool:
    """Run the checks of this machine, then these others; show each when it is done, and return whether none failed."""
    results: list[Check] = []

    def keep(check: Check) -> None:
        results.append(check)
        told(check)

    keep(check_python())
    keep(check_packages())
    torch, peak = check_torch()
    keep(torch)
    keep(check_crypto())
    keep(check_disk(folder))
    keep(check_memory(peak, Path("/proc/meminfo").read_text()))
    skew = None
    if superlink:
        connection, skew = check_connection(superlink, ca)
        keep(connection)
    keep(check_clock(skew, _synchronised()))
    for check in more():
        keep(check)
    return all(c.state != "fail" for c in results)


def _probe(code: str, *arguments: str) -> tuple[Any, str]:
    """Run code in a process of its own and return what it printed, or why it printed nothing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=_SLOW,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"not done after {_SLOW} s"
    if done.returncode < 0:
        name = {signal.SIGILL: "illegal instruction", signal.SIGKILL: "killed, most likely out of memory"}
        return None, name.get(signal.Signals(-done.returncode), signal.Signals(-done.returncode).name)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def _synchronised() -> bool | None:
    """Return whether systemd says so; None where there is no systemd to ask."""
    try:
        asked = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


app = typer.Typer(help="A device that takes part.", add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def device(version: bool = terminal.version_option("faa-device")) -> None:
    """A device that takes part."""


@app.command()
def check(
    superlink: Annotated[str | None, typer.Option(help="HOST:PORT of the SuperLink.")] = None,
    root_certificates: Annotated[Path | None, typer.Option(help="The CA's certificate, as for the SuperNode.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the device keeps data and checkpoints.")] = None,
    plan: Annotated[str | None, typer.Option(help="MODULE:ATTRIBUTE of a TrainingPlan, from this folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="An .npz file with samples and labels to train it on.")] = None,
    budget: Annotated[
        float, typer.Option(help="The budget of the device, and of the authority, if there is one.")
    ] = BUDGET,
    allow_convolution: Annotated[
        bool, typer.Option(help="Allow a convolution first, as the server's SpotCheck does.")
    ] = False,
    max_value: Annotated[int, typer.Option(help="The largest value of a sample, as in SpotCheck.")] = 255,
    authority: Annotated[bool, typer.Option(help="The server's SpotCheck has an authority.")] = False,
) -> None:
    """Check Python, torch by a real step, crypto, disk, memory, clock and connection, and say what to do.

    With --plan and --data also what a project must change before its clients can be verified.
    """
    from flwr_faa.verification.spotcheck.device import Device

    if (plan is None) != (data is None):
        typer.echo("faa-device: expected --plan and --data, got one of them", err=True)
        raise typer.Exit(2)

    if root_certificates is not None and not root_certificates.is_file():
        typer.echo(f"faa-device: expected a certificate file, got {root_certificates}", err=True)
        raise typer.Exit(2)
    table = Table("check", "", "found", "to do", title="faa-device check")
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}

    def told(found: Check) -> None:
        table.add_row(found.name, Text(found.state, style[found.state]), Text(found.found), Text(found.todo))

    def project() -> Sequence[Check]:
        return check_plan(plan, data, home, budget, allow_convolution, max_value, authority) if plan and data else ()

    home = folder or Device().folder
    good = run_checks(home, superlink, root_certificates, told, project)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    raise typer.Exit(0 if good else 1)


def main() -> None:
    """Entry point."""
    app()
