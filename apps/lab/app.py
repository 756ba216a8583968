"""The app as ``flwr run .`` loads it; the configuration comes in ``run_config["overrides"]``.

E.g. ``flwr run . --federation-config "num-supernodes=20" --run-config 'overrides="attack=alie strategy=faa"'``: Flower
simulates 2 nodes unless told otherwise, and every client is one.
"""

from __future__ import annotations

from logging import INFO

from flwr.app import Context
from flwr.common.logger import log

from apps.lab.clients.app import LabClient
from apps.lab.config import load
from apps.lab.recording.record import Record
from apps.lab.recording.summary import outcome
from apps.lab.running.local_run import yardsticks
from apps.lab.scenario import Scenario
from apps.lab.server import LabServer


def _scenario(context: Context) -> Scenario:
    return load(str(context.run_config["overrides"]))


def _start(context: Context) -> Record:
    scenario = _scenario(context)
    return Record(scenario, scenario.folder)


def _done(record: Record) -> None:
    for line in (*outcome(record.write(yardsticks(record.scenario))), f"{record.folder}"):
        log(INFO, "%s", line)


server = LabServer(_start, _done)
client = LabClient(_scenario)
