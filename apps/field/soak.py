"""``python -m apps.field.soak``: many rounds over real processes, in which something dies every few seconds.

There are four SuperNodes, one of them malicious, and the key authority. A seeded draw kills one of them with its
descendants and starts it again; the authority is killed in the first half of the rounds only, since a new process's
memory starts anew. Flower takes a killed SuperNode back only after a minute: while one is away, what another one has
running for a message is killed instead. The run must finish with every round on record, with nobody honest convicted,
and with the authority's log whole. After every round the resident memory of the SuperLink, with its ServerApp, and of
the authority is written down: from the first tenth of a process's life to the last it may grow by no more than
``GROWTH`` MB.
"""

from __future__ import annotations

import csv
import random
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apps.field.__main__ import fresh
from apps.field.federation import AUTHORITY, SUPERLINK, Federation
from apps.field.verdicts import nodes_of, rounds_of, table
from apps.lab.markdown import write_region
from apps.lab.running.processes import ROOT, end_on_sigterm
from apps.lab.running.superlink import RunError
from flwr_faa.authority.store import Store

#: MB by which either may grow over the run.
GROWTH = 60.0
#: Share of the rounds in which somebody's update must have become part of the model: the kills are to leave work undone
#: here and there, not to leave none.
CHANGED = 0.5
#: A slice; encrypting one takes a device 60 ms, and has to fit into a phase.
SAMPLES = 60
NODES = {"honest-a": "", "honest-b": "", "honest-c": "", "poisoner": "sign_flip"}
MEASURED = (SUPERLINK, AUTHORITY)


@dataclass
class Soak:
    """Kills, and what memory was measured.

    Parameters
    ----------
    federation : Federation
    name : str
        Of the run.
    every : float
        Seconds between kills, on average.
    rng : Random
    """

    federation: Federation
    name: str
    every: float
    rng: random.Random
    rounds: int
    kills: dict[str, int] = field(default_factory=dict)
    born: dict[str, int] = field(default_factory=dict)
    memory: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    _next: float = 0.0

    def __call__(self) -> None:
        """Kill and restart what is due; called often while the run runs."""
        done = len(rounds_of(self.federation.rounds(self.name)))
        if done > len(self.memory):
            self.memory.append((done, {name: self.federation.memory(name) for name in MEASURED}))
        now = time.monotonic()
        if done and now >= self._next:  # all are enrolled
            if self._next:
                self._kill(self.rng.choice([*NODES, *([AUTHORITY] if done <= self.rounds // 2 else [])]), done)
            self._next = now + self.rng.expovariate(1 / self.every)

    def _kill(self, name: str, done: int) -> None:
        """Kill the authority; a SuperNode, if all are up; else what a SuperNode has running."""
        field = self.federation
        if name == AUTHORITY:
            self.born[name] = done
            field.kill(name)
            field.start_authority()
        elif all(field.running(node) for node in NODES):
            field.kill(name)
            field.start_node(name)
        elif not field.running(name) or not field.kill_app(name):
            return
        else:
            name = f"{name}'s app"
        self.kills[name] = self.kills.get(name, 0) + 1

    def life(self, name: str) -> tuple[float, float]:
        """Return in MB the highest measurement of the first tenth of its life, and that of the last tenth."""
        life = [m[name] for done, m in self.memory if done > self.born.get(name, 0)]
        tenth = max(1, len(life) // 10)
        return max(life[:tenth], default=0.0), max(life[-tenth:], default=0.0)

    def growth(self, name: str) -> float:
        """Return the growth over its life, in MB."""
        low, high = self.life(name)
        return high - low


def main(
    folder: Annotated[Path, typer.Option(help="State and logs; replaced if it is an earlier one's.")] = Path(
        "runs/soak"
    ),
    rounds: Annotated[int, typer.Option()] = 50,
    every: Annotated[float, typer.Option(help="Seconds between kills, on average.")] = 8.0,
    timeout: Annotated[float, typer.Option(help="The most seconds for a phase of a round.")] = 30.0,
    seed: Annotated[int, typer.Option()] = 1,
    docs: Annotated[bool, typer.Option("--docs", help="Write the figures into docs/how-to/field.md too.")] = False,
) -> None:
    """Run the soak test; the exit code says whether everything held."""
    end_on_sigterm()
    console = Console()
    fresh(folder)
    lab = "dataset=digits partition=iid model=logistic"
    failures, began = [], time.monotonic()
    with Federation(folder, NODES, lab, SAMPLES, 1.0, encrypted=True) as federation:
        federation.start_nodes()
        soak = Soak(federation, "soak", every, random.Random(seed), rounds)
        told = f"api=message rounds={rounds} timeout={timeout} verification.enrol_timeout={timeout} min_clients=1"
        told += f" strategy.policy.max_strikes={rounds}"  # every silence is a kill here; 3 ban all in 30 rounds
        try:
            federation.run("soak", told, 10 * timeout * rounds, soak)
        except RunError as error:
            failures.append(str(error))
        store = Store(federation.folder / AUTHORITY / "authority.db")
        lines = store.check_log()
        store.close()
        found = {federation.names[i]: node for i, node in nodes_of(federation.rounds("soak")).items()}
    console.print(table(dict(sorted(found.items()))))
    _write(soak, folder / "memory.csv", console)
    reports = rounds_of(federation.rounds("soak"))
    changed = sum(any(node["accepted"] for node in report["nodes"]) for report in reports)
    if len(reports) != rounds:
        failures.append(f"expected {rounds} rounds on record, got {len(reports)}")
    if changed < CHANGED * rounds:
        failures.append(f"expected at least {CHANGED * rounds:g} rounds to change the model, got {changed}")
    convicted = [name for name, node in found.items() if node.convicted and not NODES[name]]
    failures += [f"{name}: convicted" for name in convicted]
    for name in MEASURED:
        if soak.memory and not (grown := soak.growth(name)) <= GROWTH:
            failures.append(f"{name}: grew by {grown:.0f} MB, expected at most {GROWTH:g}")
    killed = ", ".join(f"{name} {count}" for name, count in sorted(soak.kills.items()))
    accepted = sum(node.rounds for name, node in found.items() if not NODES[name])
    memory = " and ".join(
        f"{name} from {low:.0f} to {high:.0f} MB" for name in MEASURED for low, high in [soak.life(name)]
    )
    text = (
        f"{len(reports)} rounds in {time.monotonic() - began:.0f} s with {sum(soak.kills.values())} kills ({killed}): "
        f"{changed} rounds changed the model, {accepted} updates of honest nodes were accepted, {len(convicted)} honest"
        " nodes convicted; "
        f"memory over the last life: {memory} (bound: {GROWTH:g} MB more); {lines} lines in the authority's log, chain "
        "whole."
    )
    console.print(text, soft_wrap=True, highlight=False)
    for failure in failures:
        console.print(failure, style="bold red", soft_wrap=True)
    if docs:  # what did not hold too
        paragraphs = [textwrap.fill(part, 120) for part in (text, *(f"**{failure}**" for failure in failures))]
        write_region(ROOT / "docs" / "how-to" / "field.md", "soak", "\n\n".join(paragraphs))
    raise typer.Exit(1 if failures else 0)


def _write(soak: Soak, path: Path, console: Console) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", *(f"{name} MB" for name in MEASURED)])
        writer.writerows([number, *(f"{m[name]:.1f}" for name in MEASURED)] for number, m in soak.memory)
    for name in MEASURED:
        curve = [f"{m[name]:.0f}" for _, m in soak.memory]
        step = max(1, len(curve) // 20)
        console.print(f"{name}, MB: {' '.join(curve[::step])}; grew by {soak.growth(name):.0f}" if curve else name)


if __name__ == "__main__":
    typer.run(main)
