"""``make mutation``: how many small changes of the code the tests notice.

    python -m apps.release.mutation [--count 24] [--seed 3] [--finished] [--write]

cosmic-ray makes the mutants (``mutants.py``, in an environment of its own by uv); ``count`` places of each package are
drawn. Each mutant lies in a copy of this checkout, and the tests that name its module and those of its package are run
against it. A mutant that no test notices has survived. Everything found goes to ``runs/mutation.jsonl``, from which a
killed command goes on; ``--again`` tries the survivors once more, after a test was added.

Survivors are judged in ``judged.yaml``, by their code. Those that change nothing that anybody could see are equivalent:
there are two scores, with and without them.

Every run of tests is a fork of this process, which has imported what the tests need and nothing that is tested.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from apps.lab.markdown import untitled, write_region
from apps.release.matrix import ROOT

COSMIC_RAY = "cosmic-ray==8.7.0"
JUDGED = Path(__file__).with_name("judged.yaml")
DOCS = ROOT / "docs" / "results" / "mutation.md"
FROZEN = "tests/test_frozen.py"
#: The code, and its tests: they are run after those that name the module.
PACKAGES = {
    "pipeline": (("flwr_faa/pipeline.py",), ("tests/holdout", "tests/strategies/test_observe.py", FROZEN)),
    "detection": (("flwr_faa/detection",), ("tests/detection", FROZEN)),
    "crypto": (("flwr_faa/crypto",), ("tests/crypto", FROZEN)),
    "verification": (("flwr_faa/verification",), ("tests/verification", "tests/test_unasked.py", FROZEN)),
    "LoMar": (("flwr_lomar",), ("tests/lomar", FROZEN)),
}
#: Tests of what is built on the packages take long, and look at other things.
APART = ("docs", "field", "lab", "release", "studies")
#: What tests need and takes long to import.
IMPORTED = (
    "torch", "flwr.serverapp.strategy", "flwr.server.strategy", "sklearn.datasets", "pyod.models.base", "scipy.stats",
    "hypothesis.strategies", "pytest", "pytest_timeout", "numba",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file, and what became of it: ``killed``, ``survived`` or ``timeout``, which is killed too.

    ``code`` is the whole file before it is tried, and nothing afterwards; then there are the lines that differ.
    """

    package: str
    file: str
    line: int
    column: int
    operator: str
    code: str
    outcome: str = ""
    before: str = ""
    after: str = ""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells it from others."""
        return self.file, self.line, self.column, self.operator


def files(places: Sequence[str]) -> list[str]:
    """The Python files at these places."""
    found = (f for place in places for f in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py")))
    return sorted(str(f.relative_to(ROOT)) for f in found)


def drawn(package: str, count: int, seed: int) -> tuple[int, list[Mutant]]:
    """How many places a package has, and the mutants drawn."""
    uv = str(Path(sys.executable).with_name("uv"))
    script = ["python", "apps/release/mutants.py", str(count), str(seed), *files(PACKAGES[package][0])]
    command = [uv, "run", "--quiet", "--no-project", "--python", sys.executable, "--with", COSMIC_RAY, *script]
    shell = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    first, *lines = subprocess.run(
        command, cwd=ROOT, env=shell, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return json.loads(first)["places"], [Mutant(package, **json.loads(line)) for line in lines]


def ordered(package: str, file: str) -> list[str]:
    """The test files that name the module of a file, and the others of its package; the module's own come first."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    name = re.compile(
        rf"{re.escape(module)}\b|from {re.escape(module.rpartition('.')[0])} import .*\b{module.split('.')[-1]}\b"
    )
    everywhere = [t for t in files(["tests"]) if Path(t).parts[1] not in APART and Path(t).name.startswith("test_")]
    naming = {t for t in everywhere if name.search((ROOT / t).read_text())}
    package_s = set(files(PACKAGES[package][1]))
    first = [lambda t: Path(t).stem == f"test_{Path(file).stem}", naming.__contains__, package_s.__contains__]
    return sorted(naming | package_s & set(everywhere), key=lambda t: [*(not here(t) for here in first), t])


def run(copy: Path, tests: Sequence[str], limit: float) -> str:
    """Run tests on the copy, in a fork: killed, survived or timeout."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        code = 99
        try:
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def copied(folder: Path) -> Path:
    """A copy of this checkout, changes included."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def read(journal: Path) -> list[Mutant]:
    """What was found before."""
    return [Mutant(**json.loads(line)) for line in journal.read_text().splitlines()] if journal.exists() else []


def tried(mutants: Sequence[Mutant], journal: Path) -> Iterator[Mutant]:
    """Run the tests against mutants that are not in the journal, and note what is found.

    Raises
    ------
    RuntimeError
        If the tests of a package fail without a mutant: nothing would follow from a failure with one.
    """
    known = {m.key: m for m in read(journal)}
    with tempfile.TemporaryDirectory(prefix="mutation-") as temporary:
        copy, limits = copied(Path(temporary)), {}
        for mutant in mutants:
            if mutant.key in known:
                yield known[mutant.key]
                continue
            if mutant.package not in limits:
                began = time.monotonic()
                if run(copy, ordered(mutant.package, mutant.file), 3600) != "survived":
                    raise RuntimeError(
                        f"expected the tests of {mutant.package} to pass, got a failure without a mutant"
                    )
                limits[mutant.package] = 60 + 4 * (time.monotonic() - began)
            whole = (copy / mutant.file).read_text()
            (copy / mutant.file).write_text(mutant.code)
            outcome = run(copy, ordered(mutant.package, mutant.file), limits[mutant.package])
            (copy / mutant.file).write_text(whole)
            before, after = differing(whole, mutant.code)
            tried = {"code": "", "outcome": outcome, "before": before, "after": after}
            found = Mutant(**{**asdict(mutant), **tried})
            with journal.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            yield found


def differing(whole: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, before and after."""
    diff = list(difflib.unified_diff(whole.splitlines(), mutated.splitlines(), n=0, lineterm=""))[2:]
    before, after = ("\n".join(line[1:].strip() for line in diff if line[0] == sign) for sign in "-+")
    return before, after


def judgement(mutant: Mutant, judged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was thought of a survivor."""
    same = (j for j in judged if (j["file"], j["before"], j["after"]) == (mutant.file, mutant.before, mutant.after))
    return next(same, {"equivalent": False, "why": "not judged yet"})


def table(places: dict[str, int], found: Sequence[Mutant], judged: Sequence[dict[str, Any]]) -> str:
    """Scores by package, then who survived and what was thought of it."""
    rows, survivors = [], [m for m in found if m.outcome == "survived"]
    for package in [*places, "all"]:
        mine = [m for m in found if package in (m.package, "all")]
        missed = [m for m in mine if m in survivors]
        real = len(mine) - sum(judgement(m, judged)["equivalent"] for m in missed)
        noticed = len(mine) - len(missed)
        of = sum(places.values()) if package == "all" else places[package]
        shares = [f"{100 * noticed / max(1, n):.0f}%" for n in (len(mine), real)]
        rows.append([package, str(of), str(len(mine)), str(noticed), *shares])
    head = ("package", "places", "drawn", "noticed", "score", "without equivalent ones")
    lines = []
    for m in survivors:
        told = judgement(m, judged)
        code = (f"`{text.replace('|', chr(92) + '|')[:110]}`" for text in (m.before, m.after))
        lines.append([f"`{m.file}`", *code, "equivalent: " * told["equivalent"] + told["why"]])
    scores = untitled(head, rows)
    return f"{scores}\n\n{untitled(('survivor', 'code', 'mutant', 'judged'), lines)}" if lines else scores


def main() -> int:
    """Draw, try and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="mutants for each package")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="repeatable; default: all")
    parser.add_argument("--finished", action="store_true", help="try nothing more: the tables of what was found")
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    parser.add_argument("--journal", type=Path, default=ROOT / "runs" / "mutation.jsonl")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOCS.relative_to(ROOT)}")
    asked = parser.parse_args()
    asked.journal.parent.mkdir(exist_ok=True)
    if asked.again:
        kept = [m for m in read(asked.journal) if m.outcome != "survived"]
        asked.journal.write_text("".join(json.dumps(asdict(m)) + "\n" for m in kept))
    drawings = {package: drawn(package, asked.count, asked.seed) for package in asked.package or PACKAGES}
    found = read(asked.journal) if asked.finished else []
    # by turns, so that what a stopped command has found is a sample of every package
    turns = [m for turn in zip_longest(*(more for _, more in drawings.values())) for m in turn if m]
    if not asked.finished:
        for module in IMPORTED:
            importlib.import_module(module)
        for mutant in tried(turns, asked.journal):
            found.append(mutant)
            told = f"{mutant.outcome} {mutant.file}:{mutant.line} {mutant.operator}"
            print(f"{len(found)}/{len(turns)} {told}", flush=True)
    places = {package: number for package, (number, _) in drawings.items()}
    told = table(places, found, yaml.safe_load(JUDGED.read_text()))
    print(told)
    if asked.write:
        write_region(DOCS, f"mutation-{asked.seed}", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
