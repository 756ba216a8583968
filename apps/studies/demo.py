"""``python -m apps.studies.demo``: a federation under attack is saved, in two real ``flwr run``s.

Forty percent of twenty clients flip the sign of their weights. The first run has undefended FedAvg, the second FAA-DL,
which detects suspects, spot-checks them and removes the convicted. The command ends with a table, with what the server
has learnt of the clients' data, and with a picture. The exit code is 1 if a run failed or FAA-DL did not win.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.lab.recording.picture import draw
from apps.lab.recording.progress import rounds_bar
from apps.lab.running.local_run import ATTACK_FREE
from apps.lab.running.processes import end_on_sigterm
from apps.lab.running.superlink import RunError, SuperLink
from apps.lab.spotcheck import Enrolled

CLIENTS, ROUNDS, SEED = 20, 20, 1
COMMON = f"dataset=digits partition=iid model=logistic attack=sign_flip attack.share=0.4 rounds={ROUNDS} seed={SEED}"
#: Everything may become known: an image of 64 pixels is too small to be hidden (docs/threat-model.md).
SPOTCHECK = "verification=spotcheck verification.budget=1.0"
RUNS = {"FedAvg": "strategy=fedavg run.baseline=false", "FAA-DL": f"strategy=faa {SPOTCHECK} run.baseline=true"}

Summary = Mapping[str, Any]


def main() -> int:
    """Run the demo; returns the exit code."""
    end_on_sigterm()
    console, folder = Console(), Path("runs").absolute() / "demo"
    console.print(
        "20 clients train a classifier of handwritten digits; 8 of them flip the sign of their weights.\n"
        "Two real runs of Flower, each with its own start of 10 to 30 seconds:"
    )
    try:
        summaries = _run(console, folder)
    except RunError as failure:
        console.print(f"The demo failed: {failure}", style="bold red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    curves = {name: s["accuracy"] for name, s in reversed(summaries.items())}
    best = summaries["FAA-DL"]["yardsticks"][ATTACK_FREE]
    picture = folder / "accuracy.png"
    draw({**curves, ATTACK_FREE: best}, picture, "8 of 20 clients flip the sign of their weights")
    console.print(_table(summaries))
    console.print(f"{ATTACK_FREE}: accuracy {best[-1]:.3f}", highlight=False, soft_wrap=True)
    console.print(disclosed(summaries["FAA-DL"]["disclosure"]["nodes"]), highlight=False, soft_wrap=True)
    console.print(f"Both curves: {picture}", highlight=False, soft_wrap=True)
    console.print(f"Who was removed, and why: {folder / 'FAA-DL' / 'rounds.jsonl'}", highlight=False, soft_wrap=True)
    if not won(summaries):
        console.print("FAA-DL did not win.", style="bold red")
        return 1
    return 0


def won(summaries: Mapping[str, Summary]) -> bool:
    """Return whether FAA-DL is more accurate than FedAvg, caught every attacker and convicted nobody else."""
    fedavg, faa = summaries["FedAvg"], summaries["FAA-DL"]
    caught = faa["recall"] == 1 and faa["honest_convicted"] == 0
    return bool(caught and faa["final_accuracy"] > fedavg["final_accuracy"])


def disclosed(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return what the server knows of the clients' data in the end, in a line."""
    opened, samples = (sum(n[key] for n in nodes) for key in ("samples_opened", "samples"))
    most, dimension, budget = (max(n[key] for n in nodes) for key in ("max_rank", "dimension", "budget"))
    asked = sum(n["samples_opened"] > 0 for n in nodes)
    left = sorted(n["remaining"] for n in nodes)
    limited = f"the budget allows {budget}, {left[0]} to {left[-1]} are left"
    limit = limited if budget < dimension else "no budget limits it"
    return (
        f"Disclosed to the server: at most {most} of {dimension} dimensions of any image ({limit}), "
        f"{opened} of {samples} images of {asked} of {len(nodes)} clients opened"
    )


def _run(console: Console, folder: Path) -> dict[str, Summary]:
    summaries = {}
    with SuperLink(folder / "flwr.log") as link, rounds_bar(console, ROUNDS) as bar:
        for name, choices in RUNS.items():
            rounds = folder / name / "rounds.jsonl"
            rounds.unlink(missing_ok=True)
            shutil.rmtree(rounds.parent / "devices", ignore_errors=True)
            watch = bar(name, Enrolled(rounds.parent / "devices", CLIENTS))

            def look(rounds: Path = rounds, watch: Any = watch) -> None:
                if rounds.exists():
                    watch(rounds.read_bytes().count(b"\n"), None)

            where = shlex.quote(f'run.dir="{rounds.parent}"')
            link.run(f"{COMMON} {choices} {where}", CLIENTS, look)
            summaries[name] = json.loads((rounds.parent / "summary.json").read_text())
    return summaries


def _table(summaries: Mapping[str, Summary]) -> Table:
    table = Table("", *(f"[b]{column}" for column in ("accuracy", "attackers caught", "honest convicted", "seconds")))
    for name, s in summaries.items():
        figures = [f"{s['final_accuracy']:.3f}", f"{s['recall']:.0%}", str(s["honest_convicted"])]
        table.add_row(name, *figures, f"{s['seconds']['total']:.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
