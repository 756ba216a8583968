"""What a program started is gone after its end, even if it is told to end once more while it cleans up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apps.lab.running import processes

ROOT = Path(__file__).parents[3]

#: Says that it was told to end, and does not.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("up", flush=True)
while True:
    time.sleep(60)
"""

#: Starts it, and ends it in order.
PROGRAM = """
import signal, subprocess, sys, time
from apps.lab.running import processes

processes.END_SECONDS = 2.0
processes.end_on_sigterm()
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
try:
    time.sleep(60)
finally:
    print(child.pid, flush=True)
    processes.end([child])
    print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_while_it_ends(number: signal.Signals) -> None:
    """As by ``timeout -s TERM make field``: one from make, another one from timeout, which tells the whole group."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, STUBBORN],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout
    child = 0
    try:
        assert program.stdout.readline() == "up\n"
        program.send_signal(number)
        child = int(program.stdout.readline())
        assert program.stdout.readline() == "told\n"
        program.send_signal(number)
        code = program.wait(60)
        assert not Path(f"/proc/{child}").exists()
    finally:
        program.kill()
        program.wait()
        if child and Path(f"/proc/{child}").exists():
            os.kill(child, signal.SIGKILL)
    said = program.stdout.read()
    if number == signal.SIGTERM:  # the first one has its way
        assert (said, code) == ("ended\n", 143)
    else:  # impatient: the child is killed at once
        assert (said, code) == ("", -signal.SIGINT)


def test_interrupted_as_soon_as_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest moment there is, which a run of real signals met once in some hundred."""
    send = processes._signal

    def impatient(pid: int, what: signal.Signals) -> None:
        send(pid, what)
        if what == signal.SIGTERM:
            raise KeyboardInterrupt

    monkeypatch.setattr(processes, "_signal", impatient)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"up\n"
    with pytest.raises(KeyboardInterrupt):
        processes.end([child])
    assert child.poll() == -signal.SIGKILL
