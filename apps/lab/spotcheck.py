"""The spot check in the lab: the verifier, and a device for every partition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flwr_faa.authority import LocalAuthority
from flwr_faa.verification.base import Misconfigured
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.verifier import SpotCheck


def spot_check(
    plan: TrainingPlan,
    shape: Iterable[int],
    budget: float,
    steps: int,
    back_end: str,
    enrol_timeout: float,
    encrypted: bool = False,
) -> SpotCheck:
    """Return the verifier of ``conf/verification/spotcheck.yaml``, and of ``spotcheck_encrypted.yaml``.

    Parameters
    ----------
    plan, shape, steps, enrol_timeout
        See ``SpotCheck``.
    budget : float
        Of the devices, and of the authority.
    back_end : str
        Of the group.
    encrypted : bool
        Bind data by encryption, with an authority in this process; else by commitments, without.
    """
    verifier = SpotCheck(
        plan,
        tuple(shape),
        LocalAuthority(back_end, budget) if encrypted else None,
        steps=steps,
        max_value=round(1 / plan.scale),  # pixels become 0 to 1
        allow_convolution=budget == 1,  # it discloses everything, and here everything may be
        back_end=back_end,
        enrol_timeout=enrol_timeout,
    )
    try:  # no device could ever answer: better said now than by each of them
        verifier.check_affordable(plan.batch_size, verifier.max_value, int(budget * math.prod(tuple(shape))))
    except Misconfigured as why:
        raise ValueError(str(why)) from why
    return verifier


@dataclass(frozen=True)
class Enrolled:
    """How far enrolment is, as text. It is looked up when it is shown, since clients may live in other processes."""

    devices: Path
    clients: int

    def __str__(self) -> str:
        begun = {path.parts[-3] for path in self.devices.glob("*/enrolments/*")}
        done = {path.parts[-4] for path in self.devices.glob("*/enrolments/*/meta.json")}
        return f"{len(done)} of {self.clients} clients are bound to their data" if begun and done != begun else ""
