"""The spot check in the lab: the verifier, and a device for every partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.verifier import SpotCheck


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


@dataclass(frozen=True)
class Enrolled:
    """How far enrolment is, as text, looked up when it is shown: clients may live in other processes."""

    devices: Path
    clients: int

    def __str__(self) -> str:
        begun = {path.parts[-3] for path in self.devices.glob("*/enrolments/*")}
        done = {path.parts[-4] for path in self.devices.glob("*/enrolments/*/meta.json")}
        return f"{len(done)} of {self.clients} clients have encrypted their data" if begun and done != begun else ""
