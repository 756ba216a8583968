"""``faa-device check`` on this machine, and what it says where something is wrong; the systemd units."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flwr_faa import device_check as device
from flwr_faa.authority.certificate import self_signed

ROOT = Path(__file__).resolve().parents[1]
MEMINFO = "MemTotal:        3884340 kB\nMemFree:          100 kB\nMemAvailable:    {} kB\nSwapTotal:        102396 kB\n"


def serve(skew: float = 0.0) -> HTTPServer:
    """What answers as a SuperLink does, with a clock of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + skew, usegmt=True))
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_this_machine_passes_every_check(tmp_path: Path) -> None:
    server = serve()
    try:
        address = f"127.0.0.1:{server.server_port}"
        done = CliRunner().invoke(device.app, ["check", "--superlink", address, "--folder", str(tmp_path / "new")])
    finally:
        server.shutdown()
    assert done.exit_code == 0, done.stdout
    for words in ("python", "torch", "crypto", "a client takes", "MB free", f"{address} answers"):
        assert words in done.stdout
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "illegal instruction"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
        ("import nothing_of_that_name", "No module named"),
    ],
)
def test_a_probe_that_dies_is_named(code: str, words: str) -> None:
    told, problem = device._probe(code)
    assert told is None and words in problem


def test_an_illegal_instruction_of_torch_ends_only_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_STEP", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found, peak = device.check_torch()
    assert (found.state, peak) == ("fail", 0) and "does not fit this processor" in found.todo


def test_memory_is_compared_with_what_the_client_took() -> None:
    assert device.check_memory(600 * device.MB, MEMINFO.format(2_000_000)).state == "ok"
    tight = device.check_memory(600 * device.MB, MEMINFO.format(800_000))
    assert tight.state == "fail" and "a client takes 600 MB" in tight.found
    assert device.check_memory(0, MEMINFO.format(2_000_000)).state == "warn"


def test_a_clock_that_is_off_and_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(skew=7200)
    try:
        connection, skew = device.check_connection(f"127.0.0.1:{server.server_port}", None)
    finally:
        server.shutdown()
    assert connection.state == "ok"
    off = device.check_clock(skew, True)
    assert off.state == "fail" and re.search(r"-7(199|200|201) s", off.found) and "set-ntp" in off.todo
    assert device.check_clock(None, False).state == "warn"
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * device.MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert device.check_disk(tmp_path).state == "fail"
    (tmp_path / "file").write_text("")
    assert "Not a directory" in device.check_disk(tmp_path / "file" / "below").found


def test_what_is_wrong_with_a_connection_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert "Connection refused" in device.check_connection(f"127.0.0.1:{free}", None)[0].found
    assert "expected HOST:PORT" in device.check_connection("superlink", None)[0].found
    assert "no address" in device.check_connection("nowhere.invalid:9092", None)[0].found
    (tmp_path / "ca.crt").write_bytes(self_signed(["localhost"])[1])
    server = serve()
    try:
        found = device.check_connection(f"127.0.0.1:{server.server_port}", tmp_path / "ca.crt")[0]
    finally:
        server.shutdown()
    assert found.state == "fail" and "TLS" in found.found + found.todo


def test_the_check_itself_needs_no_torch() -> None:
    code = "import flwr_faa.device_check, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("unit", sorted((ROOT / "contrib/systemd").glob("*.service")), ids=lambda p: p.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("expected systemd-analyze (package systemd)")
    # What systemd would start need not be installed here: a stand-in that can be executed.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/faa/bin/", f"{Path(sys.executable).parent}/"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not complaints
