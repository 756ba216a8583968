"""What a run leaves: ``config.yaml``, ``rounds.jsonl``, ``ledger.sqlite``, ``summary.json`` and ``accuracy.png``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from apps.lab.recording.claim import Claim
from apps.lab.recording.metrics import by_label, cross_entropy, scores_of
from apps.lab.recording.picture import draw
from apps.lab.recording.summary import summarise
from apps.lab.scenario import Scenario
from apps.lab.strategies import Census
from flwr_faa import Ledger, private
from flwr_faa.replies.updates import Arrays
from flwr_faa.report import RoundReport
from flwr_faa.verification.base import Enrolling

FILES = ("config.yaml", "rounds.jsonl", "ledger.sqlite", "summary.json", "accuracy.png")


@dataclass
class Record:
    """One run, while it is made.

    Parameters
    ----------
    scenario : Scenario
    folder : Path, optional
        Where to leave files; an earlier run's are replaced. Without it nothing is written.
    watch : callable
        Told the round and the accuracy after each round, 0 being the untrained model.
    """

    scenario: Scenario
    folder: Path | None = None
    watch: Callable[[int, float], None] = lambda number, accuracy: None
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    by_class: list[float] = field(default_factory=list)
    labels: list[dict[str, float | None]] = field(default_factory=list)
    reports: Sequence[RoundReport] = ()
    _parts: dict[str, Any] = field(init=False, repr=False)
    _claim: Claim | None = field(default=None, init=False, repr=False)
    _started: float = 0.0
    _ended: float = 0.0

    def __post_init__(self) -> None:
        self._parts = self.scenario.ready()  # before anything is written
        if self.folder is not None:
            self._claim = Claim(self.folder)
            self._begin(self.folder)

    def _begin(self, folder: Path) -> None:
        """Replace an earlier run's files."""
        for name in (*FILES[1:], *(f"ledger.sqlite-{more}" for more in ("wal", "shm", "journal"))):
            (folder / name).unlink(missing_ok=True)
        OmegaConf.save(self.scenario.config, folder / "config.yaml", resolve=True)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.folder, annotate=self.census.about)

    def close(self) -> None:
        """Let go of the folder; nothing stays of a run that did not get as far as its untrained model."""
        if "_ledger" in vars(self):
            self._ledger.close()
        if self._claim is not None:
            self._claim.close(keep=bool(self.accuracy))

    @cached_property
    def census(self) -> Census:
        return Census(self.scenario.malicious)

    def defence(self) -> dict[str, Any]:
        """Return the arguments that the strategies of both APIs have in common."""
        if isinstance(self._parts["verifier"], Enrolling):
            # The authority is new, and what was encrypted under an older one's keys is of no use.
            shutil.rmtree(self.scenario.devices, ignore_errors=True)
        return {
            **self._parts,
            "census": self.census,
            "ledger": self._ledger,
            "verify_timeout": self.scenario.config.timeout,
            "seed": self.scenario.config.seed,
        }

    def evaluate(self, server_round: int, arrays: Arrays) -> float:
        """Measure a global model."""
        outputs, labels, flips = self.scenario.predict(arrays), self.scenario.dataset.test[1], self._flips
        predicted = outputs.argmax(axis=1)
        self.accuracy.append(float(np.mean(predicted == labels)))
        self.loss.append(cross_entropy(outputs, labels))
        self.by_class = [float(np.mean(predicted[labels == label] == label)) for label in np.unique(labels)]
        if flips:
            self.labels.append(by_label(predicted, labels, flips))
        self._ended = time.perf_counter()
        self._started = self._started or self._ended  # round 0: what it takes to load torch is not the run's
        self.watch(server_round, self.accuracy[-1])
        return self.accuracy[-1]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The finished run in figures; ``accuracy`` and ``loss`` start with the untrained model."""
        rounds = [report.to_json() for report in self.reports]
        for row in (row for report in rounds for row in (*report["nodes"], *report["disclosures"])):
            row.update(self.census.about(row["node_id"]))
        figures = {**summarise(rounds, len(self.scenario.malicious)), "scores": scores_of(rounds), **self._by_label}
        figures["seconds"]["total"] = round(self._ended - self._started, 3)
        config = self.scenario.config
        head = {**self.scenario.choices, "share": config.attack.share, "seed": config.seed, "rounds": len(rounds)}
        return {
            "name": self.scenario.name,
            **head,
            "final_accuracy": self.accuracy[-1],
            "accuracy": self.accuracy,
            "loss": self.loss,
            "by_class": self.by_class,
            **figures,
        }

    @property
    def _flips(self) -> tuple[tuple[int, int], ...]:
        return self.scenario.attack.flips

    @property
    def _by_label(self) -> dict[str, Any]:
        """Return the accuracies by round, from the untrained model on; empty if no label is attacked."""
        return {"labels": {k: [row[k] for row in self.labels] for k in self.labels[0]}} if self.labels else {}

    def write(self, yardsticks: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Write summary and picture; returns the summary.

        Parameters
        ----------
        yardsticks : mapping of str to sequence of float
            Accuracies by round of other runs to compare with.
        """
        if self.folder is None:
            raise ValueError("expected a folder to write to, got none")
        summary = {**self.summary, "yardsticks": {name: list(values) for name, values in yardsticks.items()}}
        private.file(self.folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
        draw({"this run": self.accuracy, **yardsticks}, self.folder / "accuracy.png", self.scenario.name)
        return summary
