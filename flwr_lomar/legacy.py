"""LoMar for Flower's legacy API."""

from __future__ import annotations

from typing import Any, Literal

from flwr_faa import legacy
from flwr_faa.policy import Policy
from flwr_lomar.detector import LoMarDetector
from flwr_lomar.strategy import policy_of


class LoMar(legacy.FAADL):
    """LoMar for ``aggregate_fit``; see :class:`flwr_lomar.LoMar`, whose parameters and verdicts it shares."""

    def __init__(
        self,
        *args: Any,
        preset: Literal["robust", "paper"] = "robust",
        detector: LoMarDetector | None = None,
        policy: Policy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args, detector=detector or LoMarDetector(preset), policy=policy or policy_of(preset), **kwargs
        )
