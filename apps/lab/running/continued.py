"""A run that goes on where it was stopped. Its results are those of a run that was never stopped.

The strategy, the grid and the clients are those of every run over the Message API; the loop is that of Flower's
``Strategy.start``, which can only count from 1. After each round the model is kept in ``checkpoint.npz``, beside the
files that every run leaves. What is drawn in a round depends on the seed and the round's number alone, as long as every
client takes part in it (``fraction`` 1).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from omegaconf import OmegaConf

from apps.lab.clients.app import LabClient
from apps.lab.recording.record import Record
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.lab.running.local_run import Watch
from apps.lab.scenario import Scenario
from apps.lab.server import initial_arrays, message_strategy
from flwr_faa.replies.updates import Arrays
from flwr_faa.report import Outcome, RoundReport, Verdict

CHECKPOINT = "checkpoint.npz"
#: What a record measured after each round.
KEPT = ("accuracy", "loss", "by_class", "labels", "wall", "cpu")


@dataclass
class Continued(Record):
    """A record that goes on with what a stopped run left in its folder, if only the number of rounds differs.

    Attributes
    ----------
    arrays : sequence of ndarray
        The model after the last round that is done.
    wall, cpu : list of float
        Seconds of each round, this process's.
    """

    arrays: Arrays = ()
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.folder is None:
            raise ValueError("expected a folder to go on in, got none")
        super().__post_init__()

    def _begin(self, folder: Path) -> None:
        if not self._same():
            (folder / CHECKPOINT).unlink(missing_ok=True)
            super()._begin(folder)
            self.arrays = initial_arrays(self)
            self.evaluate(0, self.arrays)
            return
        OmegaConf.save(self.scenario.config, folder / "config.yaml", resolve=True)  # its length may be new
        with np.load(folder / CHECKPOINT, allow_pickle=False) as file:
            state = json.loads(str(file["state"]))
            self.arrays = [file[f"array_{i}"] for i in range(state.pop("arrays"))]
        for name, values in state.items():
            setattr(self, name, values)
        self.reports = _rewind(folder, self.done)
        for row in (row for line in _lines(folder) for row in line["nodes"]):
            self.census.note(row["node_id"], row["partition"])

    @property
    def done(self) -> int:
        """The number of rounds that are finished."""
        return len(self.wall)

    def keep(self, arrays: Arrays, wall: float, cpu: float) -> None:
        """Evaluate a round's model and write the checkpoint, all of it or nothing."""
        assert self.folder is not None
        self.arrays = arrays
        self.wall.append(wall)
        self.cpu.append(cpu)
        self.evaluate(self.done, arrays)
        state = {"arrays": len(arrays), **{name: getattr(self, name) for name in KEPT}}
        kept: dict[str, Any] = {f"array_{i}": a for i, a in enumerate(arrays)}
        draft = self.folder / f".{CHECKPOINT}.{os.getpid()}"
        with draft.open("wb") as file:
            np.savez(file, state=json.dumps(state), **kept)
        draft.replace(self.folder / CHECKPOINT)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Return a run's summary; the seconds are those of all processes that worked on it."""
        plain = super().summary
        plain["seconds"]["total"] = round(sum(self.wall), 3)
        return {**plain, "wall_by_round": self.wall, "cpu_by_round": self.cpu}

    def _same(self) -> bool:
        assert self.folder is not None
        if not (self.folder / CHECKPOINT).exists():
            return False
        before, now = (
            OmegaConf.to_container(OmegaConf.create(text), resolve=True)
            for text in (
                (self.folder / "config.yaml").read_text(),
                OmegaConf.to_yaml(self.scenario.config, resolve=True),
            )
        )
        assert isinstance(before, dict) and isinstance(now, dict)
        return {**before, "rounds": 0} == {**now, "rounds": 0}


def run_continued(scenario: Scenario, folder: Path, watch: Watch = lambda *_: None) -> Continued:
    """Run the rounds of a scenario that its folder does not hold yet.

    Parameters
    ----------
    scenario : Scenario
        Of the Message API, without a verifier.
    folder : Path
    watch : callable
        See :class:`Record`.

    Raises
    ------
    ValueError
        If the scenario asks for something that a checkpoint does not hold.
    """
    config = scenario.config
    if config.api != "message" or config.fraction != 1:
        raise ValueError(f"expected api=message fraction=1.0, got api={config.api} fraction={config.fraction}")
    record, app = Continued(scenario, folder, watch), ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        earlier = record.reports
        strategy = message_strategy(record)
        if strategy.defence.verifier is not None:
            raise ValueError(f"expected a strategy without verifier, got {strategy.defence.verifier.name!r}")
        strategy.reports.extend(earlier)
        names = list(ArrayRecord(list(record.arrays)))
        while record.done < config.rounds:
            number, wall, cpu = record.done + 1, time.perf_counter(), time.process_time()
            model = ArrayRecord(list(record.arrays))
            replies = grid.send_and_receive(strategy.configure_train(number, model, ConfigRecord(), grid))
            arrays, _ = strategy.aggregate_train(number, replies)
            assert arrays is not None and list(arrays) == names
            record.keep(arrays.to_numpy_ndarrays(), time.perf_counter() - wall, time.process_time() - cpu)

    try:
        run_server_app(app, LocalGrid(LabClient(lambda _: scenario), config.clients))
    finally:
        record.close()
    return record


def _rewind(folder: Path, done: int) -> Sequence[RoundReport]:
    """Return the reports of the rounds that are done; one that was written without its checkpoint is taken back."""
    lines = _lines(folder)[:done]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "rounds.jsonl").write_text(text)
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        database.execute("DELETE FROM verdicts WHERE round_id IN (SELECT id FROM rounds WHERE round > ?)", [done])
        database.execute("DELETE FROM rounds WHERE round > ?", [done])
    database.close()
    return [_report(line) for line in lines]


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``rounds.jsonl``; a last line that was cut off is left out."""
    lines = []
    for text in (folder / "rounds.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _report(line: dict[str, Any]) -> RoundReport:
    names = [f.name for f in fields(Verdict)]
    nodes = tuple(
        Verdict(**{k: v for k, v in row.items() if k in names} | {"verdict": Outcome(row["verdict"])})
        for row in line["nodes"]
    )
    threshold = line["score_threshold"]
    return RoundReport(
        line["round"],
        nodes,
        line["verifier"],
        float("nan") if threshold is None else threshold,
        line["failed_closed"],
        line["seconds"],
    )
