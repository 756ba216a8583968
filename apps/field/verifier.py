"""The verifier of ``conf/verification/spotcheck_remote.yaml``."""

from __future__ import annotations

from collections.abc import Iterable

from flwr_faa.authority import connect
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.verifier import SpotCheck


def spot_check(
    plan: TrainingPlan, shape: Iterable[int], steps: int, enrol_timeout: float, url: str, key: str
) -> SpotCheck:
    """Return the spot check with an authority that is a process of its own, elsewhere."""
    pixels = round(1 / plan.scale)  # become 0 to 1
    return SpotCheck(plan, tuple(shape), connect(url, key), steps, max_value=pixels, enrol_timeout=enrol_timeout)
