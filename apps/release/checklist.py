"""``make release-check``: what must hold before a version goes out, one line each.

    python -m apps.release.checklist [--slow]

The quick ones take a minute. ``--slow`` also runs every test, the matrix, the quickstarts, the federation of real
processes and the demo: an hour. What only a person can do is printed last.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from apps.release.matrix import ROOT, uv

SLOW = ("test", "matrix", "quickstart", "field", "demo")
BY_HAND = (
    "read CHANGELOG.md as a user of the version before",
    "git tag -s v{version}, and push the tag",
    "upload what `python -m hatchling build` makes of the tag, and look at the package page",
    "make a release of the tag on GitHub, with the changes of this version",
)


def project() -> dict[str, str]:
    """The table ``project`` of pyproject.toml."""
    told: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return told


def agreed() -> str:
    """One version everywhere; the changelog begins with it."""
    version = project()["version"]
    said = {
        "flwr_faa/__init__.py": re.findall(r'__version__ = "(.+)"', (ROOT / "flwr_faa/__init__.py").read_text())[0],
        "CHANGELOG.md": re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0],
        "CITATION.cff": str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]),
    }
    other = [f"{file} says {said[file]}" for file in said if said[file] != version]
    return f"expected {version} as in pyproject.toml, but {', '.join(other)}" if other else ""


def clean() -> str:
    """Everything is committed."""
    return called("git", "status", "--porcelain") and "expected a clean checkout: git status"


def supported() -> str:
    """The Pythons and the Flower that are claimed are those that the table has tried."""
    told = (ROOT / "docs/results/versions.md").read_text()
    tried = set(re.findall(r"^\| (3\.\d+) \|.*\| works \|", told, re.M))
    claimed = {c.rsplit(" ", 1)[1] for c in project()["classifiers"] if re.search(r":: 3\.\d+$", c)}
    return "" if claimed == tried else f"expected classifiers for {sorted(tried)}, got {sorted(claimed)}: make matrix"


def built() -> str:
    """Wheel and source distribution are built, twine takes them, and the one holds what the other builds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = [sys.executable, "-m", "hatchling", "build", "-d"]
        subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
        (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        done = uv("tool", "run", "twine", "check", "--strict", wheel, source)
        if done.returncode:
            return f"expected twine to take them, got: {(done.stdout + done.stderr)[-300:]}"
        subprocess.run(["tar", "xzf", source, "-C", folder], check=True)
        (unpacked,) = (p for p in folder.iterdir() if p.is_dir())
        subprocess.run([*build, str(folder / "again"), "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)
        (again,) = (folder / "again").glob("*.whl")
        names = [sorted(zipfile.ZipFile(w).namelist()) for w in (wheel, again)]
        return "" if names[0] == names[1] else "expected the source distribution to build the same wheel"


def links() -> str:
    """Every file that README names by a link is there, so that its address on the package page leads somewhere."""
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    gone = [target for target in targets if not (ROOT / target).exists()]
    return f"expected files, got none at {', '.join(gone)}" if gone else ""


def made(target: str) -> str:
    """What is wrong with a target of the Makefile, in this environment."""
    return called("make", target, f"VENV={sys.prefix}")


def called(*command: str) -> str:
    """The end of what a command prints; the end of its errors if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()[-300:] if done.returncode or command[0] == "git" else ""


CHECKS: dict[str, Callable[[], str]] = {
    "one version": agreed,
    "a clean checkout": clean,
    "versions tried": supported,
    "links of README": links,
    "wheel and source distribution": built,
    "make lint": lambda: made("lint"),
}


def findings(slow: bool) -> Iterator[tuple[str, str]]:
    """Each check, and what is wrong; empty if nothing is."""
    checks = dict(CHECKS)
    if slow:
        checks |= {f"make {target}": lambda target=target: made(target) for target in SLOW}  # type: ignore[misc]
    for name, check in checks.items():
        yield name, check()


def main() -> int:
    """Walk the list; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", action="store_true", help=f"also make {', '.join(SLOW)}")
    asked = parser.parse_args()
    wrong = 0
    for name, problem in findings(asked.slow):
        print(f"[{'x' if not problem else ' '}] {name}{problem and f': {problem}'}", flush=True)
        wrong += bool(problem)
    todo = [] if asked.slow else [f"make {target}" for target in SLOW]
    for line in (*todo, *BY_HAND):
        print(f"[ ] {line.format(version=project()['version'])}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
