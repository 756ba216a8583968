"""``make matrix``: the wheel in fresh environments, for every Python and Flower that it claims.

    python -m apps.release.matrix --write

For each pair: an environment by uv, the wheel alone, ``smoke.py``; then with
``[server]``, ``smoke.py``; then with torch and ``[live]``, ``smoke.py``. Pythons are pyenv's, and
what uv finds or can fetch; one that cannot be had is a line of the table. uv links what it has in its cache, so that
torch is fetched once for each Python (some GB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from apps.lab.markdown import untitled, write_region

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "results" / "versions.md"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The oldest that is claimed, and the newest that the index has within the claim.
FLOWERS = ("==1.38.0", ">=1.38")
STAGES = {"none": "", "server": "[server]", "all": "[live,server,torch]"}
HEAD = ("Python", "flwr", "detection", "signatures", "commands", "LoMar", "verification", "MB without torch")


def uv(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run uv of this environment; Flower brings it."""
    command = [str(Path(sys.executable).with_name("uv")), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed."""
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1].strip()


def built(folder: Path) -> Path:
    """Return the wheel of this checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def smoke(python: Path, scripts: Path, installed: str) -> dict[str, str]:
    """Run ``smoke.py`` in an environment."""
    shell = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(python), "-m", "apps.release.smoke", installed]
    done = subprocess.run(command, cwd=scripts, env=shell, capture_output=True, text=True, check=False)
    try:
        findings: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"detection": last_line(done)}
    return findings


def tried(python: str, flwr: str, wheel: Path, folder: Path, stages: Sequence[str]) -> list[str]:
    """One line of the table."""
    environment = folder / f"{python}-{flwr.strip('=<>')}"
    # pyenv's shims refuse to run what is not chosen, so uv does not see it
    (here, *_) = [*sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"), reverse=True), python]
    done = uv("venv", "--quiet", "--python", here, environment)
    if done.returncode:
        return [python, flwr, f"not tried: no Python {python} on this machine, and uv could not fetch one", *[""] * 5]
    interpreter, scripts, found, size = environment / "bin" / "python", folder / "scripts", {}, 0
    for stage in stages:
        done = uv("pip", "install", "--quiet", "--python", interpreter, f"{wheel}{STAGES[stage]}", f"flwr{flwr}")
        if done.returncode:
            found[f"install {STAGES[stage]}"] = last_line(done)
            break
        size = size or sum(f.stat().st_size for f in environment.rglob("*") if f.is_file() and not f.is_symlink())
        for name, finding in smoke(interpreter, scripts, stage).items():
            if found.get(name, "works") == "works":
                found[name] = finding
    version = uv("pip", "show", "--python", interpreter, "flwr").stdout.partition("Version: ")[2].split()[:1]
    shutil.rmtree(environment)
    wrong = [f"{name}: {finding}" for name, finding in found.items() if finding != "works"]
    if wrong:
        return [python, *version, "; ".join(wrong), *[""] * 5]
    names = ("detection", "signatures", "commands", "lomar", "verification")
    return [python, *version, *(found.get(name, "not tried") for name in names), f"{size / 1e6:.0f}"]


def lines(pythons: Sequence[str], flowers: Sequence[str], stages: Sequence[str]) -> Iterator[list[str]]:
    """Yield the table line by line."""
    with tempfile.TemporaryDirectory(prefix="matrix-") as temporary:
        folder = Path(temporary)
        for file in ("apps/release/smoke.py", "apps/lab/running/local_grid.py"):
            (folder / "scripts" / file).parent.mkdir(parents=True)
            shutil.copy(ROOT / file, folder / "scripts" / file)
        wheel = built(folder)
        for python in pythons:
            for flwr in flowers:
                yield tried(python, flwr, wheel, folder, stages)


def main() -> int:
    """Try what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a version; repeatable; default: all that are claimed")
    parser.add_argument("--flwr", action="append", help="==1.38.0; repeatable; default: the oldest and the newest")
    parser.add_argument("--without-torch", action="store_true", help="leave out verification")
    parser.add_argument("--write", action="store_true", help=f"write the table into {DOCS.relative_to(ROOT)}")
    asked = parser.parse_args()
    stages = [stage for stage in STAGES if not (asked.without_torch and stage == "all")]
    table = []
    for line in lines(asked.python or PYTHONS, asked.flwr or FLOWERS, stages):
        print(" | ".join(line), flush=True)
        table.append(line)
    if asked.write:
        write_region(DOCS, "matrix", untitled(HEAD, table))
    return 0 if all(line[2] == "works" or line[2].startswith("not tried") for line in table) else 1


if __name__ == "__main__":
    sys.exit(main())
