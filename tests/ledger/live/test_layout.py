"""Tables with real node ids: whole in a pipe, blocks on a narrow terminal, on a real one of a given width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from flwr_faa.ledger.store import Ledger
from flwr_faa.report import DataDisclosure, Outcome, RoundReport, Verdict
from tests.authority.parties import Signer, check, run

NODES = (8372615243516273641, 1203948756019283746, 2**64 - 3)
WHY = "a claim about the first layer is not true of the enrolled data: step 12, " + "beyond the tolerance; " * 12
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder, annotate=lambda node: {"name": "pi-3"} if node == NODES[0] else {})
    verdicts = (
        Verdict(NODES[1], Outcome.TRUSTED, True, score=1.0),
        Verdict(NODES[0], Outcome.CONVICTED, False, True, 9.0, 2.0, 0.05, WHY, banned=True),
        Verdict(NODES[2], Outcome.MISSING, False, True, 2.0, reason="no answer in time"),
    )
    known = (DataDisclosure(NODES[1], "ab" * 32, 40, 30, 14, 64, 16, 2, 1, 2),)
    ledger.record(RoundReport(1, verdicts, "spotcheck", 2.0, disclosures=known))
    ledger.close()
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flwr_faa.authority import cli

    directory = tmp_path_factory.mktemp("authority") / "a"
    assert run("init", directory).exit_code == 0
    store = cli._open(directory)
    core, client = cli.KeyAuthority(store), Signer(NODES[0])
    check(core, NODES[0], client.enrol(core, b"\xab" * 32))
    store.close()
    return directory


def shown(program: str, arguments: list[object], width: int | None) -> list[str]:
    """What the command prints, into a pipe or on a terminal that is so wide."""
    command = [sys.executable, "-c", f"from {program} import main; main()", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {
        "TERM": "xterm",
        "NO_COLOR": "1",
    }
    if width is None:
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment
        ).stdout.splitlines()
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(command, stdout=there, stdin=there, cwd=ROOT, env=environment) as process:
        os.close(there)
        parts = []
        while part := _read(here):
            parts.append(part)
        assert process.wait() == 0
    os.close(here)
    plain = re.sub(r"\x1b\[[\d;]*m", "", b"".join(parts).decode())  # bold and colours
    return plain.replace("\r", "").splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other end has closed
        return b""


@pytest.mark.parametrize("width", [40, 80, 100])
def test_nodes_on_a_narrow_terminal_are_blocks(ledger: Path, width: int) -> None:
    lines = shown("flwr_faa.ledger.cli", ["nodes", ledger], width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert f"pi-3 ({NODES[0]})" in text and all(str(node) in text for node in NODES)
    assert "  state: banned 20" in text and "  known: 14/64" in text and "  suspected: 1" in text
    assert "".join(WHY.split())[:200] in "".join(text.split())  # nothing is cut, only folded
    blocks = text.split("\n\n")
    assert len(blocks) == 4  # and the caption
    assert str(NODES[0]) in blocks[0].splitlines()[0] and "no answer in time" in "".join(blocks[1:])


def test_nodes_in_a_pipe_are_whole_lines(ledger: Path) -> None:
    lines = shown("flwr_faa.ledger.cli", ["nodes", ledger], None)
    found = {node: [line for line in lines if str(node) in line] for node in NODES}
    assert all(len(of_node) == 1 for of_node in found.values())
    assert WHY.strip() in found[NODES[0]][0] and "banned 20" in found[NODES[0]][0]


def test_nodes_on_a_wide_terminal_are_a_table(ledger: Path) -> None:
    lines = shown("flwr_faa.ledger.cli", ["nodes", ledger], 200)
    assert max(map(len, lines)) <= 200
    assert all(any(str(node) in line and "│" in line for line in lines) for node in NODES)


@pytest.mark.parametrize("width", [80, 120, 300, None])
def test_the_authority_shows_whole_roots_and_times(authority: Path, width: int | None) -> None:
    from flwr_faa.authority import cli

    store = cli._open(authority)
    times, last = [line.at for line in store.lines(9)], store.lines(1)[0].hash.hex()
    store.close()
    lines = shown("flwr_faa.authority.cli", ["show", authority], width)
    text = "".join("".join(lines).split())
    assert width is None or max(map(len, lines)) <= width
    assert "ab" * 32 in text and str(NODES[0]) in text and last in text
    assert all(at in text for at in times)
    if width in (None, 300):
        assert all(any(at in line for line in lines) for at in times)


def test_rounds_and_one_node_fit_too(ledger: Path) -> None:
    for arguments in (["rounds", ledger], ["node", ledger, NODES[0]]):
        assert max(map(len, shown("flwr_faa.ledger.cli", arguments, 80))) <= 80
