"""The app as ``flwr run .`` loads it; the configuration comes in ``run_config["overrides"]``.

E.g. ``flwr run . --run-config 'overrides="attack=alie strategy=faa"'``.
"""

from __future__ import annotations

from flwr.app import Context

from apps.lab.client import LabClient
from apps.lab.config import load
from apps.lab.experiment import Experiment
from apps.lab.local_run import yardsticks
from apps.lab.record import Record
from apps.lab.server import LabServer


def _experiment(context: Context) -> Experiment:
    return load(str(context.run_config["overrides"]))


def _start(context: Context) -> Record:
    experiment = _experiment(context)
    return Record(experiment, experiment.folder)


def _done(record: Record) -> None:
    record.write(yardsticks(record.experiment))


server = LabServer(_start, _done)
client = LabClient(_experiment)
