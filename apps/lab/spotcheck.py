"""The spot check in the lab: the verifier, and a device for every partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.enrolment import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck

if TYPE_CHECKING:
    from apps.lab.scenario import Experiment


def spot_check(plan: TrainingPlan, shape: Iterable[int], budget: float, steps: int, back_end: str) -> SpotCheck:
    """The verifier of ``conf/verification/spotcheck.yaml``, with an authority of its own in this process."""
    return SpotCheck(
        plan,
        tuple(shape),
        LocalAuthority(back_end, budget),
        steps=steps,
        max_value=round(1 / plan.scale),  # pixels become 0 to 1
        allow_convolution=budget == 1,  # it discloses everything, and here everything may be
    )


def devices_of(experiment: Experiment) -> Path:
    """Where the clients of an experiment keep what they are bound to; one folder each, as on machines of their own."""
    return experiment.folder / "devices"


def device_of(experiment: Experiment, partition: int) -> Device:
    """A client's device, with the budget that the authority has too."""
    budget = experiment.config.verification.get("budget", 1.0)
    return Device(devices_of(experiment) / str(partition), budget)


@dataclass(frozen=True)
class Enrolled:
    """How far enrolment is, as text, looked up when it is shown: clients may live in other processes."""

    devices: Path
    clients: int

    def __str__(self) -> str:
        begun = {path.parts[-3] for path in self.devices.glob("*/enrolments/*")}
        done = {path.parts[-4] for path in self.devices.glob("*/enrolments/*/meta.json")}
        return f"{len(done)} of {self.clients} clients have encrypted their data" if begun and done != begun else ""
