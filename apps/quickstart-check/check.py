"""Run both quickstarts for real, from the wheel, against given versions of Flower, with two of ten nodes attacking.

    python apps/quickstart-check/check.py --flwr 1.38.0 --flwr 1.42.0

For every version it makes a virtual environment, installs the wheel with its extra ``server`` by pip, and starts every
variant of both projects by ``flwr run``. The exit code is 1 unless both attackers are removed in the first round of
each run, and nobody else ever is where there is verification. ``--torch-from DIR`` takes torch from another
environment's site-packages instead of installing it again (5 GB); everything else still comes by pip.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
APPS, ROOT = HERE.parent, HERE.parents[1]
PAGE = ROOT / "docs" / "start" / "quickstart.md"
#: Projects and what changes in them, in the order of the page.
PROJECTS = {
    "message": ("faa", "lomar", "verified"),
    "legacy": ("faa", "lomar", "verified"),
    "sklearn": ("holdout",),
    "transformer": ("holdout",),
    "resnet": ("holdout",),
}
#: Who attacks: signs flipped on the way out, or labels before an honest training, which only held-out data tell.
ATTACKERS = {"holdout": "poisoner"}
NODES = 10
LINE = re.compile(r"faa round=(\d+) node=(\d+) verdict=([\w-]+) accepted=(\w+)")


def diff(name: str, variant: str) -> str:
    """Return what the page changes in a plain project."""
    found = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(zip([(p, v) for p, variants in PROJECTS.items() for v in variants], found, strict=True))[name, variant]


def project(name: str, variant: str, where: Path, attacked: bool = True) -> Path:
    """Return the plain project with a variant's changes, as the page shows them, and the attackers."""
    shutil.copytree(APPS / f"quickstart-{name}" / "plain", where)
    if variant != "plain":
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(where.absolute().parent)}  # in no repository
        subprocess.run(["git", "apply"], cwd=where, env=alone, input=diff(name, variant), text=True, check=True)
    if attacked:
        shutil.copy(HERE / f"{ATTACKERS.get(variant, 'attacker')}.py", where / "quickstart" / "attacker.py")
        settings = where / "pyproject.toml"
        settings.write_text(settings.read_text().replace("quickstart.client_app:app", "quickstart.attacker:app"))
    return where


def judge(variant: str, output: str, attackers: set[str]) -> str:
    """Say what is wrong with a run, by its log; say nothing if all is well."""
    lines = LINE.findall(output)
    out = {int(r): {n for q, n, _, ok in lines if q == r and ok == "False"} for r, _, _, _ in lines}
    if len(attackers) != 2 or not lines:
        return f"expected two attackers and a log of verdicts, got {len(attackers)} and {len(lines)} lines"
    if not attackers <= out[1]:
        return f"expected both attackers out in round 1, got {len(attackers & out[1])}"
    if variant == "verified" and any(nodes - attackers for nodes in out.values()):
        return "expected every honest node kept, got one removed"
    return ""


def removed(output: str, attackers: set[str]) -> str:
    """Say in words who was left out of each round."""
    found: dict[str, list[str]] = {}
    for server_round, node, _, accepted in LINE.findall(output):
        found.setdefault(server_round, []).extend([node] if accepted == "False" else [])
    counts = ((r, len(attackers & set(out)), len(set(out) - attackers)) for r, out in found.items())
    return "; ".join(f"round {r}: {bad} attackers and {good} others out" for r, bad, good in counts)


def run(environment: Path, where: Path, folder: Path) -> tuple[str, set[str], str]:
    """One ``flwr run`` on a SuperLink of its own; its log, who attacked, and how it ended."""
    folder.mkdir(parents=True)
    (folder / "attackers").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.toml").write_text(f'[superlink.check]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    shell = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "ATTACKERS": str(folder / "attackers"),
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    log = folder / "log"
    with log.open("w") as output:
        common = {"env": shell, "cwd": folder, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        link = subprocess.Popen(
            ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)],
            start_new_session=True, **common,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 600
            while time.monotonic() < deadline:
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except (URLError, OSError):
                    time.sleep(0.5)
            federation = f"num-supernodes={NODES} client-resources-num-cpus=1"
            command = ["flwr", "run", str(where), "check", "--stream", "--federation-config", federation]
            subprocess.run(command, timeout=1800, check=False, **common)
            listing = ["flwr", "list", "check", "--format", "json"]
            told = subprocess.run(listing, env=shell, cwd=folder, capture_output=True, text=True, check=False).stdout
        finally:
            os.killpg(link.pid, signal.SIGTERM)
            try:
                link.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(link.pid, signal.SIGKILL)
    try:
        status = json.loads(told)["runs"][0]["status"]
    except (ValueError, KeyError, IndexError):
        status = "not started"
    return log.read_text(), {p.name for p in (folder / "attackers").iterdir()}, status


def install(folder: Path, wheel: Path, flwr: str, torch_from: Path | None) -> Path:
    """Return a fresh environment with the wheel."""
    environment = folder / f"flwr-{flwr}"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    if torch_from:  # behind the environment's own packages, and first so that pip finds torch there
        (site,) = environment.glob("lib/python3*/site-packages")
        for name in torch_from.iterdir():
            if re.match(
                r"(torch|torchvision|torchgen|functorch|nvidia.*|triton|sympy|mpmath|networkx)([-_.].*)?$", name.name
            ):
                (site / name.name).symlink_to(name)
    packages = [f"{wheel}[server,torch]", f"flwr[simulation]=={flwr}", "scikit-learn", "torchvision"]
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(pip, check=True)
    return environment


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flwr", action="append", required=True, help="a version; repeatable")
    parser.add_argument("--variant", action="append", help="faa, lomar, verified or holdout; default: all")
    parser.add_argument("--project", action="append", choices=PROJECTS, help="default: all")
    parser.add_argument("--torch-from", type=Path, help="site-packages of an environment that has torch")
    asked = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="quickstart-") as temporary:
        folder = Path(temporary)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        for flwr in asked.flwr:
            start = time.monotonic()
            environment = install(folder, wheel, flwr, asked.torch_from)
            print(f"flwr {flwr}: installed in {time.monotonic() - start:.0f} s", flush=True)
            for api in asked.project or PROJECTS:
                for variant in [v for v in PROJECTS[api] if v in (asked.variant or PROJECTS[api])]:
                    start, name = time.monotonic(), f"{flwr}-{api}-{variant}"
                    where = project(api, variant, folder / "projects" / name / "quickstart-project")
                    output, attackers, status = run(environment, where, folder / "runs" / name)
                    problem = judge(variant, output, attackers)
                    if status != "finished:completed":
                        problem = f"expected finished:completed, got {status}; its log ends: {output[-1500:]}"
                    failures += bool(problem)
                    took = time.monotonic() - start
                    print(
                        f"flwr {flwr} {api} {variant}: {problem or removed(output, attackers)} ({took:.0f} s)",
                        flush=True,
                    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
