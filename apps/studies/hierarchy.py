"""``python -m apps.studies.hierarchy``: 10,000 clients judged at once, and in 100 groups whose means are judged again.

Clients hold 60 handwritten digits each and train a logistic regression; LoMar judges. The same clients, with the same
attackers among them, are grouped in three ways: every group has as many attackers (*evenly*), the attackers fill whole
groups (*whole groups*), or half of the members of twice as many (*half of groups*). Every run is a federation over
Flower's ServerApp and ClientApp in this process; *flat* is the same pipeline on all replies at once.

A client is left out if its group leaves it out, or if the root leaves out its group.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.client import NumPyClient
from flwr.serverapp import Grid, ServerApp

from apps.lab.clients.app import LabClient
from apps.lab.config import load
from apps.lab.journal import Row
from apps.lab.markdown import markdown
from apps.lab.running.fleet import Fleet
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.lab.running.regions import Region, RegionApp
from apps.studies.command import key_by, options_of, publish, results
from flwr_faa.client import NONCE
from flwr_faa.replies.averaging import average
from flwr_faa.replies.updates import Arrays, Reply, read_replies
from flwr_lomar import LoMar, LoMarDetector

DOC = Path(__file__).parents[2] / "docs" / "scale.md"
SETTING = (
    "dataset=digits model=logistic model.epochs=4 partition=lambda partition.share=0 partition.size=60 strategy=fedavg "
    "api=message"
)
EVENLY, WHOLE, HALF = PLACES = ("evenly", "whole groups", "half of groups")
FLAT, UNDEFENDED = "flat", "undefended"


@dataclass(frozen=True)
class Cell:
    """One federation. ``judged`` is how: flat, undefended, or in groups with the attackers in one of `PLACES`."""

    attack: str
    share: float
    judged: str
    clients: int = 10_000
    group: int = 100
    rounds: int = 2


key_of = key_by(Cell)
CELLS = [
    *(Cell("none", 0.0, judged) for judged in (FLAT, EVENLY, UNDEFENDED)),
    *(
        Cell(attack, 0.1, judged)
        for attack in ("boosted", "sign_flip", "alie", "clones")
        for judged in (FLAT, EVENLY, WHOLE, HALF, UNDEFENDED)
    ),
]


@dataclass(frozen=True)
class Members:
    """The clients of one region, as the lab's ClientApp asks for them: their partitions count from 0."""

    fleet: Fleet
    partitions: Sequence[int]

    @property
    def config(self) -> Any:
        """The scenario's."""
        return self.fleet.config

    def node(self, config: Mapping[str, Any]) -> NumPyClient:
        """The client of a node."""
        return self.fleet.client(self.partitions[int(config["partition-id"])])


def groups_of(fleet: Fleet, size: int, judged: str) -> list[list[int]]:
    """Partitions by group, the attackers where they are to be."""
    clients, count = fleet.config.clients, fleet.config.clients // size
    rng = np.random.default_rng([fleet.config.seed, 4])
    bad = rng.permutation(sorted(fleet.malicious))
    good = rng.permutation(sorted(set(range(clients)) - fleet.malicious))
    if judged == EVENLY:
        return [[*map(int, bad[g::count]), *map(int, good[g::count])] for g in range(count)]
    each = size if judged == WHOLE else size // 2
    found, used = list[list[int]](), 0
    for start in range(0, len(bad), each):
        some = bad[start : start + each]
        found.append([*map(int, some), *map(int, good[used : used + size - len(some)])])
        used += size - len(some)
    return found + [list(map(int, good[a : a + size])) for a in range(used, len(good), size)]


def run(cell: Cell) -> Row:
    """Run a federation; who is left out is counted over all rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    words = f"{SETTING} clients={cell.clients} attack={cell.attack} attack.share={cell.share}"
    fleet = Fleet.of(load(words))
    cpu = time.process_time()
    model, out = (_in_groups if cell.judged in PLACES else _at_once)(fleet, cell)
    cpu = time.process_time() - cpu
    bad = np.isin(np.arange(cell.clients), sorted(fleet.malicious))
    right = fleet.predict(model).argmax(axis=1) == fleet.dataset.test[1]
    found = {"accuracy": float(right.mean()), "cpu": cpu / cell.rounds}
    found |= {"recall": float(out[:, bad].mean())} if bad.any() else {}
    return {**asdict(cell), **found, "false_alarms": float(out[:, ~bad].mean())}


def _at_once(fleet: Fleet, cell: Cell) -> tuple[Arrays, Any]:
    """The model after all rounds, and who was left out, shape (rounds, clients)."""
    model: Arrays = fleet.plan.initial_arrays(fleet.config.seed)
    out = np.zeros((cell.rounds, cell.clients), bool)
    for number in range(cell.rounds):
        fits = [fleet.client(i).fit(list(model), {NONCE: 1}) for i in range(cell.clients)]
        batch = read_replies([Reply(i, arrays, examples) for i, (arrays, examples, _) in enumerate(fits)], model)
        out[number] = True
        out[number, list(batch.node_ids)] = False
        if cell.judged == FLAT:
            odd = LoMarDetector(label_blocks=batch.layout.label_blocks).fit(batch.updates).labels_ == 1
            out[number, np.array(batch.node_ids)[odd]] = True
        kept = [row for row, node in enumerate(batch.node_ids) if not out[number, node]]
        model = average(batch, kept, model)
    return model, out


def _in_groups(fleet: Fleet, cell: Cell) -> tuple[Arrays, Any]:
    """The same, of a root whose clients are regions."""
    groups = groups_of(fleet, cell.group, cell.judged)
    regions = [
        Region(LocalGrid(LabClient(lambda _, members=members: members), len(members.partitions)), _strategy())  # type: ignore[misc]
        for members in (Members(fleet, partitions) for partitions in groups)
    ]
    root, strategy, app = LocalGrid(RegionApp(regions), len(regions)), _strategy(), ServerApp()
    models = list[ArrayRecord]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord(fleet.plan.initial_arrays(fleet.config.seed))
        models.append(strategy.start(grid, initial, cell.rounds, train_config=ConfigRecord({NONCE: 1})).arrays)

    run_server_app(app, root)
    out = np.zeros((cell.rounds, cell.clients), bool)
    for number, report in enumerate(strategy.reports):
        taken = {v.node_id for v in report.accepted}
        for partitions, region, node in zip(groups, regions, root.node_ids, strict=True):
            reports = {r.round: r for r in region.strategy.reports}
            accepted = {v.node_id for v in reports[number + 1].accepted} if node in taken else set()
            out[number, partitions] = [own not in accepted for own in region.grid.node_ids]
    return models[0].to_numpy_ndarrays(), out


def _strategy() -> LoMar:
    return LoMar(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, seed=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit code."""
    options = options_of("hierarchy", __doc__, "runs/scale/hierarchy.jsonl").parse_args(arguments)
    found = {key_of(row): row for row in results(options, CELLS, run, key_of)}
    publish(
        table([found[key_of(cell)] for cell in CELLS if key_of(cell) in found]), DOC, "scale-hierarchy", options.write
    )
    return 0


def table(found: Sequence[Row]) -> str:
    """One line a federation."""
    head = ["attack", "attackers", "judged", "accuracy", "attackers left out", "honest left out", "CPU s a round"]
    lines = []
    for row in found:
        figures = (f"{row[name]:.3f}" if name in row else "-" for name in ("accuracy", "recall", "false_alarms"))
        lines.append([row["attack"], f"{row['share']:.0%}", row["judged"], *figures])
        lines[-1].append(f"{row['cpu']:.0f}")
    title = f"{found[0]['clients']:,} clients in groups of {found[0]['group']}, {found[0]['rounds']} rounds"
    return markdown(title, head, lines)


if __name__ == "__main__":
    sys.exit(main())
