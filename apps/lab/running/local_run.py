"""Runs of a scenario in this process, over a :class:`LocalGrid`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from apps.lab.clients.app import LabClient
from apps.lab.recording.record import Record
from apps.lab.running.local_grid import LocalGrid, run_server_app
from apps.lab.scenario import Scenario
from apps.lab.server import LabServer

UNDEFENDED, ATTACK_FREE = "undefended FedAvg", "FedAvg of the same honest clients, no attack"

Watch = Callable[[int, float], None]


class Enough(Exception):  # noqa: N818  nothing is wrong
    """Raised by a run's ``watch`` to end the run after the round that is over."""


def run_locally(
    scenario: Scenario,
    folder: Path | None = None,
    watch: Watch = lambda *_: None,
    done: Callable[[Record], None] = lambda record: None,
) -> Record:
    """Run a scenario with the real ServerApp and ClientApp.

    Parameters
    ----------
    scenario : Scenario
    folder : Path, optional
        See :class:`Record`.
    watch : callable
        See :class:`Record`. May raise :class:`Enough`.
    done : callable
        Gets the record when the last round is over, while its folder is still held.
    """
    record = Record(scenario, folder, watch)
    grid = LocalGrid(LabClient(lambda _: scenario), scenario.config.clients)
    with suppress(Enough):
        run_server_app(LabServer(lambda _: record, done), grid)
    return record


def yardsticks(scenario: Scenario, watch: Watch = lambda *_: None) -> dict[str, Sequence[float]]:
    """Run what a scenario is compared with, same seed; return the accuracies by round of those that differ."""
    if not scenario.config.run.baseline:
        return {}
    others = {
        UNDEFENDED: scenario.with_choices(strategy="fedavg"),
        ATTACK_FREE: scenario.with_choices(strategy="fedavg", attack="absent"),
    }
    parts = ("strategy", "attack")
    different = {k: e for k, e in others.items() if any(e.config[p] != scenario.config[p] for p in parts)}
    if not scenario.malicious:
        different.pop(ATTACK_FREE, None)
    return {name: run_locally(other, watch=watch).accuracy for name, other in different.items()}
