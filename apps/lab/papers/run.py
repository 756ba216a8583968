"""``python -m apps.lab experiment=faa/table2 size=quick seeds=5``: run a table or figure, or all of them.

Every finished run is a line of ``runs/cells.jsonl``, under a digest of its configuration: killed, the command goes on
where it was, and what two experiments have in common is run once. Each experiment's folder gets ``results.csv`` (one
row a cell and seed), ``curves.csv`` and ``configurations.yaml``.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import OmegaConf

from apps.lab.check import ConfigError, did_you_mean
from apps.lab.config import GROUPS, load
from apps.lab.journal import Row, lines, run_missing
from apps.lab.papers.experiments import SIZES, Cell, Size, Spec, cells, digest, folder, names, spec
from apps.lab.recording.record import Record
from apps.lab.running.direct import run_directly
from apps.lab.running.fleet import Fleet
from apps.lab.running.local_run import Enough, Watch, run_locally
from apps.lab.scenario import Scenario

#: Settings of ``conf/config.yaml`` beside the groups.
OWN = ("clients", "fraction", "min_clients", "timeout", "rounds", "api")
#: Columns that depend on the machine and its load.
TIMES = ("cpu_seconds", "seconds", "cpu_seconds_a_round", "defence_seconds_a_round")
#: What a line of ``cells.jsonl`` has beside the columns of ``results.csv``.
OTHER = ("key", "seed", "overrides", "config", "curves", *TIMES)
FIGURES = (
    "final_accuracy",
    "recall",
    "honest_convicted",
    "honest_dropped",
    "attackers_accepted",
    "verified_per_round",
    "rounds_to_ban_all",
)
SCORES = ("auc", "auc_worst", "tpr", "fpr", "tpr_left_out", "fpr_left_out")


@dataclass(frozen=True)
class Order:
    """What is asked for on the command line.

    Parameters
    ----------
    experiment : str
        A name, or ``all``.
    size : {"quick", "paper"}
    seeds, jobs : int
        Runs of every cell, and processes.
    minutes : float, optional
        What all of it may take: every run that is missing gets an equal part, and ends with the round in which that is
        used up.
    out : path
    data : str, optional
        Only the cells with this value of the axis ``data``, e.g. ``MNIST`` where the others are not to be had.
    more : tuple of str
        Overrides for every cell.
    """

    experiment: str
    size: Size = "quick"
    seeds: int = 1
    jobs: int = 2
    minutes: float | None = None
    out: Path = Path("runs")
    data: str | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A cell and its seed."""

    key: str
    overrides: str
    seed: int
    limit: float | None = None


def main(words: Sequence[str]) -> int:
    """Run what is missing and write the tables; returns the exit code."""
    try:
        order = parse(words)
        done = execute(order)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    for path in done:
        print(path)
    return 0


def parse(words: Sequence[str]) -> Order:
    """Read words like ``experiment=faa/table2``; any other word is an override for every cell.

    Raises
    ------
    ValueError
        If a word is not understood.
    """
    readers: dict[str, Any] = {
        "experiment": str,
        "size": str,
        "seeds": _count,
        "jobs": _count,
        "minutes": _minutes,
        "out": Path,
        "data": str,
    }
    chosen: dict[str, Any] = {}
    more = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"expected words like size=quick, got {word!r}")
        if key in readers:
            chosen[key] = readers[key](key, value) if readers[key] in (_count, _minutes) else readers[key](value)
        elif key.lstrip("+~") not in (*GROUPS, *OWN) and "." not in key and (near := did_you_mean(key, readers)):
            raise ConfigError(f"expected size=, seeds=, jobs=, minutes=, data=, out= or a setting, got {word!r}{near}")
        else:
            more.append(word)
    order = Order(**chosen, more=tuple(more))
    if order.size not in SIZES:
        raise ConfigError(f"expected size to be one of {', '.join(SIZES)}, got {order.size!r}")
    return order


def _count(key: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"expected {key} to be a whole number of at least 1, got {value!r}")
    return int(value)


def _minutes(key: str, value: str) -> float:
    try:
        minutes = float(value)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise ConfigError(f"expected {key} to be a finite number above 0, got {value!r}")
    return minutes


def execute(order: Order) -> list[Path]:
    """Run an order and return the folders of its experiments.

    Seed by seed: stopped early, every cell has as many seeds as the time was enough for. The tables are written
    whatever happens, from what is finished.
    """
    which = names() if order.experiment == "all" else [order.experiment]
    grids = [(s, [c for c in cells(s, order.size, order.more) if _wanted(c, order)]) for s in map(spec, which)]
    if not any(grid for _, grid in grids):
        values = dict.fromkeys(c.axes.get("data") for s, _ in grids for c in cells(s, order.size, order.more))
        raise ConfigError(f"expected data to be one of {', '.join(map(str, values))}, got {order.data!r}")
    for _, grid in grids:
        load(f"{grid[0].overrides} seed=1") if grid else None  # a mistake among the overrides is in every cell
    seeds = range(1, order.seeds + 1)
    runs = {_key(c, n, order): Run(_key(c, n, order), c.overrides, n) for n in seeds for _, grid in grids for c in grid}
    store = order.out / "cells.jsonl"
    if order.minutes is not None:
        missing = len(runs.keys() - {key_of(row) for row in lines(store)})
        limit = 60 * order.minutes * order.jobs / max(1, missing)
        runs = {k: replace(run, limit=limit) for k, run in runs.items()}
    try:
        run_missing(runs, store, order.jobs, run_cell, key_of)
    finally:
        rows = {key_of(row): row for row in lines(store)}
        done = [_write(s, grid, order, rows) for s, grid in grids]
    return done


def run_cell(run: Run) -> dict[str, Any]:
    """Run one cell and return what is kept of it, ready for JSON."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    scenario = load(f"{run.overrides} seed={run.seed}")
    scenario.partitions, scenario.plan.initial_arrays(0)
    started, cpu = time.perf_counter(), time.process_time()

    def watch(*_: object) -> None:
        if run.limit is not None and time.perf_counter() - started > run.limit:
            raise Enough

    record = fastest(scenario)(watch)
    cpu = time.process_time() - cpu
    summary, scores, rounds = record.summary, record.summary["scores"], len(record.accuracy) - 1
    defence = sum(summary["seconds"].get(phase, 0.0) for phase in ("detect", "ask", "judge", "aggregate"))
    return {
        "key": run.key,
        "seed": run.seed,
        "overrides": run.overrides,
        "config": OmegaConf.to_container(scenario.config, resolve=True),
        "rounds": rounds,
        "final_loss": record.loss[-1],
        **{name: summary[name] for name in FIGURES},
        **{name: scores[name] for name in SCORES},
        **{name: curve[-1] for name, curve in summary.get("labels", {}).items()},
        **{f"label_{label}": accuracy for label, accuracy in enumerate(record.by_class)},
        "suspected": _suspected(record),
        "cpu_seconds": round(cpu, 3),
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds_a_round": cpu / max(1, rounds),
        "defence_seconds_a_round": defence / max(1, rounds),
        "curves": {
            "accuracy": list(enumerate(record.accuracy)),
            "loss": list(enumerate(record.loss)),
            **{name: list(enumerate(curve)) for name, curve in summary.get("labels", {}).items()},
            "roc": scores["roc"] or [],
        },
    }


def fastest(scenario: Scenario) -> Callable[[Watch], Record]:
    """Return the cheapest way to run a scenario; by the legacy API nothing is asked for but its results.

    Flower takes a millisecond a client and round; a model without convolutions is trained in stacks.
    """
    config = scenario.config
    if config.api == "legacy" and config.fraction == 1:
        dense = scenario.choices["model"] in ("logistic", "logistic_lomar", "mlp")
        return partial(run_directly, Fleet.of(scenario) if dense else scenario)
    return partial(run_locally, scenario, None)


def _suspected(record: Record) -> float | None:
    """Return the share of the malicious updates that the detector put among the suspects."""
    about = record.census.about
    named = [
        v.suspect for r in record.reports for v in r.nodes if about(v.node_id)["malicious"] and v.score is not None
    ]
    return sum(named) / len(named) if named else None


def _wanted(cell: Cell, order: Order) -> bool:
    return order.data is None or cell.axes.get("data") == order.data


def _key(cell: Cell, seed: int, order: Order) -> str:
    """Return a run's key in the store; a run with a limit is another run, wherever it ended."""
    return f"{cell.digest}-{seed}" + (f"-{order.minutes:g}min" if order.minutes is not None else "")


def key_of(row: Row) -> str:
    """Return the key that a stored run has today, whatever was hashed on the day it was stored."""
    _, *rest = row["key"].split("-")
    try:
        return "-".join([digest(row["overrides"]), *rest])
    except FileNotFoundError:  # a choice that is gone: nothing asks for its runs
        return str(row["key"])


def _write(of: Spec, grid: Sequence[Cell], order: Order, rows: Mapping[str, Row]) -> Path:
    """Write the files of one experiment, from the finished runs; return its folder."""
    more = order.more if order.data is None else (*order.more, f"data={order.data}")
    path = folder(of, order.size, more, order.out)
    path.mkdir(parents=True, exist_ok=True)
    head = {"experiment": of.name, "size": order.size}
    table, points, configurations = [], [], {}
    for cell in grid:
        for seed in range(1, order.seeds + 1):
            row = rows.get(_key(cell, seed, order))
            if row is None:
                continue
            figures = {k: v for k, v in row.items() if k not in OTHER}
            planned = {"planned_rounds": row["config"]["rounds"]}
            times = {t: row[t] for t in TIMES}
            table.append({**head, **cell.axes, "seed": seed, "cell": cell.digest, **planned, **figures, **times})
            configurations[cell.digest] = {**row["config"], "seed": None}
            points += [
                {"cell": cell.digest, "seed": seed, "curve": name, "x": x, "y": y}
                for name, curve in row["curves"].items()
                for x, y in curve
            ]
    replace_file(path / "results.csv", pd.DataFrame(table).to_csv(index=False))
    replace_file(path / "curves.csv", pd.DataFrame(points).drop_duplicates().to_csv(index=False))
    replace_file(path / "configurations.yaml", yaml.safe_dump(configurations))
    return path


def replace_file(path: Path, text: str) -> None:
    """Write a file such that nobody ever sees half of it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
