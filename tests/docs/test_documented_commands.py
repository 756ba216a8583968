"""Every command that README, docs and conf print is one that its program takes."""

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer
from sklearn.datasets import load_digits
from typer.main import get_command

from apps.lab.__main__ import check as check_lab
from apps.lab.check import ConfigError
from apps.lab.config import load
from flwr_faa.ledger.store import Ledger
from flwr_faa.report import Outcome, RoundReport, Verdict
from tests.helpers.quickstart import CHECK

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = sorted((ROOT / "conf").rglob("*.yaml"))
TOOLS = {
    "faa-authority": "flwr_faa.authority.cli",
    "faa-device": "flwr_faa.device_check",
    "faa-ledger": "flwr_faa.ledger.cli",
}
SYSTEM = {"apt", "apt-get", "cp", "install", "journalctl", "ssh-keygen", "systemctl", "useradd", "python3",
    "grep", "pytest", "ssh",
}  # fmt: skip
PROGRAMS = {"python", "pip", "flwr", "make", *TOOLS, *SYSTEM}
#: What a placeholder stands for.
MEANT = {
    r"\[[^\]]*\]": "",
    r"\b(\w+)\|(\w+)\b": r"\2",
    r"\bNODE\b": "7",
    r"\bN\b": "1",
    r"experiment=NAME\b": "experiment=all",
    r"datasets NAME\b": "datasets mnist",
    r"<run>|\.\.\.": "a-run",
}
#: The start of each command that nothing here can try, and why.
NOT_TRIED = {
    "python -m apps.lab --config-dir mine": "files of the page; tests/docs/test_extend.py writes and runs them",
    "python -m apps.studies.lomar_threshold": "takes no options; minutes of one core",
    "python -m benchmarks.fleet": "takes no options; minutes of one core",
    "python -m benchmarks.paper": "takes no options; minutes of one core",
    "python -m benchmarks.live": "takes two numbers; a minute and a browser's work",
    "flwr run . region": "an app of a project of its own, at the SuperLink of a region",
    "python -m hatchling": "hatchling's own command; tests/test_package.py builds the wheel",
    "apt": "root on a Pi, and a network",
    "useradd": "root on a Pi",
    "python3 -m venv": "root on a Pi",
    "install -d": "root on a Pi",
    "ssh-keygen": "another user on a Pi",
    "cp": "root on a Pi",
    "systemctl": "root on a Pi",
    "journalctl": "a Pi",
    "ssh": "another machine",
    "grep": "a log",
    "pytest": "a suite of its own",
}


def texts(page: str) -> Iterator[str]:
    """Lines of fenced blocks, then inline code."""
    fence = re.compile(r"^[ ]*```[^\n]*\n(.*?)^[ ]*```", re.M | re.S)
    for block in fence.findall(page):
        yield from block.replace("\\\n", " ").splitlines()
    for inline in re.findall(r"(?<!`)`([^`]+)`(?!`)", fence.sub("", page)):
        yield " ".join(inline.split())


def words_of(text: str) -> list[str]:
    """The words of a command, without what stands before its program; nothing if it is none."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return []
    while words and (words[0] == "sudo" or "=" in words[0]):
        words = words[3 if words[:2] == ["sudo", "-u"] else 1 :]
    if not words or (program := words[0].rpartition("/")[2]) not in PROGRAMS:
        return []
    return [program, *words[1:]] if len(words) > 1 else []


def printed() -> Iterator[tuple[str, str]]:
    """Where each command stands, and the command."""
    for page in PAGES:
        for text in texts(page.read_text()):
            for part in text.split(" && "):
                if words_of(part):
                    yield page.name, part.strip()
    for file in SETTINGS:
        lines = re.sub(r"\\\n#?", " ", file.read_text()).splitlines()
        for line in lines:
            stripped = line.lstrip(" #")
            if stripped.startswith(("python -m ", "flwr run ")):
                yield str(file.relative_to(ROOT)), stripped


COMMANDS = sorted(set(printed()))


def reason(words: Sequence[str]) -> str | None:
    """The entry of the list above that says why this one is not tried."""
    line = shlex.join(words)
    return next((start for start in NOT_TRIED if f"{line} ".startswith(f"{start} ")), None)


def parse(command: Any, args: Sequence[str]) -> None:
    """Have a typer command take these arguments, without running it. A subcommand that is named alone must exist."""
    context = command.make_context(
        "it", ["--help"] if hasattr(command, "commands") else list(args), resilient_parsing=True
    )
    while hasattr(command, "commands"):
        _, command, args = command.resolve_command(context, list(args))
        assert command is not None, "no such subcommand"
        if not args:
            return
    command.make_context("it", list(args))


class Parsed(Exception):  # noqa: N818
    """Arguments were taken."""


def parse_argparse(main: Any, args: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a script that uses argparse, and stop it when it has read its arguments."""

    def stopping(read: Any) -> Any:
        def then_stop(*given: Any, **more: Any) -> None:
            read(*given, **more)
            raise Parsed

        return then_stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr("sys.argv", ["it", *args])
    with pytest.raises(Parsed):
        main()


def lab(args: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's own check of a command line."""
    if list(args) == ["experiments"]:
        from apps.lab.papers import listing

        assert listing.main() == 0
    elif args[0] == "report":
        from apps.lab.papers import report

        parse_argparse(lambda: report.main(args[1:]), args[1:], monkeypatch)
    elif any(word.startswith("experiment=") for word in args):
        from apps.lab.papers import run

        run.parse(args)
    else:
        check_lab(args)


def module(name: str, args: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m NAME ARGS``."""
    assert importlib.util.find_spec(name) is not None, name
    if name == "apps.lab":
        return lab(args, monkeypatch)
    found = importlib.util.find_spec(f"{name}.__main__") if (ROOT / name.replace(".", "/")).is_dir() else None
    script = importlib.import_module(found.name if found else name)
    source = Path(str(script.__file__)).read_text()
    if "typer.run(main)" in source:
        app = typer.Typer()
        app.command()(script.main)
        return parse(get_command(app), args)
    if args or name != "apps.lab.papers.report":  # named in a table, without its folder
        parse_argparse(script.main, args, monkeypatch)
    return None


def flower(args: Sequence[str]) -> None:
    """``flwr ARGS``; a run of the lab has a node for each client it waits for."""
    from flwr.cli.app import typer_click_object as command

    parse(command, args)
    told = dict(pairwise(args))
    if "--run-config" in told:
        scenario = load(tomllib.loads(told["--run-config"])["overrides"])
        nodes = re.search(r"num-supernodes=(\d+)", told.get("--federation-config", ""))
        assert nodes and int(nodes[1]) >= scenario.config.min_clients


def installs(args: Sequence[str]) -> None:
    """``pip install``: of this package, with extras and groups that it has."""
    assert args[0] == "install"
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = told["project"]["optional-dependencies"], told["dependency-groups"]
    assert {group for word, group in pairwise(args) if word == "--group"} <= set(groups)
    for wanted in re.findall(r"(?:\.|flwr-anomaly)\[([^\]]+)\]", " ".join(args)):
        assert set(wanted.split(",")) <= set(extras)


@pytest.mark.parametrize(("place", "text"), COMMANDS)
def test_a_printed_command_is_taken(place: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(text)
    if reason(words):
        return
    if words[0] != "pip":
        for pattern, meant in MEANT.items():
            text = re.sub(pattern, meant, text)
        words = words_of(text)
    program, args = words[0], words[1:]
    if program == "make":
        subprocess.run(["make", "-n", *args], cwd=ROOT, check=True, capture_output=True)
        return
    monkeypatch.chdir(tmp_path)
    if program in TOOLS:
        parse(get_command(importlib.import_module(TOOLS[program]).app), args)
    elif program == "flwr":
        flower(args)
    elif program == "pip":
        installs(args)
    else:
        assert program == "python" and args[0] == "-m", text
        module(args[1], args[2:], monkeypatch)


@pytest.mark.parametrize(
    ("program", "args"),
    [
        ("faa-ledger", ["nodes", "DIR", "--nope"]),
        ("faa-ledger", ["export", "--out"]),
        ("faa-authority", ["begin", "DIR"]),
        ("flwr", ["run", ".", "--nope"]),
        ("apps.field.superlink", ["superlink", "--nope"]),
        ("apps.studies.lomar_scale", ["--nope"]),
        ("apps.lab", ["rounds=abc"]),
    ],
)
def test_a_wrong_command_is_found(program: str, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((typer.Exit, click.ClickException, SystemExit, ConfigError, AssertionError)):
        if program in TOOLS:
            parse(get_command(importlib.import_module(TOOLS[program]).app), args)
        elif program == "flwr":
            flower(args)
        else:
            module(program, args, monkeypatch)


def test_the_list_of_what_is_not_tried_is_no_longer_than_it_must_be() -> None:
    assert {reason(words_of(text)) for _, text in COMMANDS} - {None} == set(NOT_TRIED)


def test_every_module_that_is_named_exists() -> None:
    """In prose and comments too."""
    named = {
        name.rstrip(".")
        for file in [*PAGES, *SETTINGS]
        for name in re.findall(r"python -m\s+([a-z_][\w.]*)", file.read_text())
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def unknown(text: str) -> str | None:
    """The program of what looks like a command, an option behind a word, if this file does not know it."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    while words and (words[0] == "sudo" or "=" in words[0]):
        words = words[3 if words[:2] == ["sudo", "-u"] else 1 :]
    program = words[0].rpartition("/")[2] if words else ""
    if program in PROGRAMS or not re.fullmatch(r"[a-z][a-z0-9.-]{2,}", program):
        return None
    return program if any(re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word) for word in words[1:]) else None


def test_a_program_that_nobody_knows_is_an_error() -> None:
    found = {unknown(p) for page in PAGES for text in texts(page.read_text()) for p in text.split(" && ")} - {None}
    assert found <= {"init"}, "add it to PROGRAMS, and say in NOT_TRIED why it is not tried"
    assert unknown("sudo conda install -y torch") == "conda" and unknown("faa-ledgr nodes --all") == "faa-ledgr"


#: Run as printed, where seconds are enough: by page, the starts of the commands.
RUN = {
    "operating.md": (
        "faa-ledger node",
        "faa-ledger nodes",
        "faa-ledger rounds",
        "faa-ledger lift",
        "faa-ledger export",
    ),
    "authority.md": ("faa-authority init", "faa-authority show"),
    "quickstart.md": ("faa-device check --plan",),
    "lab.md": ("python -m apps.lab --help", "python -m apps.lab experiments"),
    "data.md": ("python -m apps.lab.slice slices",),
    "field.md": ("python -m apps.field.supernode node --key-only",),
}
TO_RUN = [
    (place, text)
    for place, text in COMMANDS
    if any(f"{shlex.join(words_of(text))} ".startswith(f"{start} ") for start in RUN.get(place, ()))
]


def prepared(folder: Path) -> None:
    """What the commands find in the folder that they are run in: a ledger, an authority, a project with its data."""
    ledger = Ledger(folder / "DIR")
    out = Verdict(7, Outcome.CONVICTED, False, True, 9.0, reason="a lie", banned=True)
    ledger.record(RoundReport(1, (out, Verdict(8, Outcome.CLEARED, True, True, 6.0)), "spotcheck", 5.0))
    ledger.close()
    shutil.move(CHECK.project("message", "verified", folder / "project") / "quickstart", folder)
    samples, labels = load_digits(return_X_y=True)
    np.savez(folder / "slice.npz", samples=samples[:1000].reshape(-1, 8, 8).astype(np.uint8), labels=labels[:1000])


def as_printed(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with this checkout's programs."""
    for pattern, meant in MEANT.items():
        text = re.sub(pattern, meant, text)
    program, *args = words_of(text)
    start = ["-c", f"from {TOOLS[program]} import main; main()"] if program in TOOLS else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, *start, *args], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(("place", "text"), TO_RUN)
def test_a_printed_command_does_what_it_says(place: str, text: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    if words_of(text)[:2] == ["faa-authority", "show"]:
        assert as_printed("faa-authority init DIR --host localhost", tmp_path).returncode == 0
    done = as_printed(text, tmp_path)
    told = done.stdout + done.stderr
    if "--plan" in text:  # digits of eight by eight, which no budget below 1 hides, and the page's own words for that
        assert done.returncode in (0, 1) and "plan" in told, told
        assert done.returncode == 0 or "expected a budget that allows a check" in told.replace("\n", " "), told
    else:
        assert done.returncode == 0, told


def test_the_list_of_what_is_run_names_what_is_printed() -> None:
    run = {
        (place, start) for place, text in TO_RUN for start in RUN[place] if shlex.join(words_of(text)).startswith(start)
    }
    assert run == {(place, start) for place, starts in RUN.items() for start in starts}
