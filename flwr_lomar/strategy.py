"""LoMar for Flower's Message API."""

from __future__ import annotations

from typing import Any, Literal

from flwr_faa.policy import Policy
from flwr_faa.strategy import FAADL
from flwr_lomar.detector import LoMarDetector


class LoMar(FAADL):
    """LoMar: a density score for every update; who is too odd is left out of the round, and FedAvg takes the rest.

    Implementation based on Li et al., "LoMar: A Local Defense Against Poisoning Attack on Federated Learning", IEEE
    TDSC 2021. It is :class:`flwr_faa.FAADL` with LoMar as its detector and nobody asked for evidence, so everything of
    its pipeline holds: validated replies, reports, the ledger. Nobody is banned: a score is a suspicion.

    Parameters
    ----------
    preset : {"robust", "paper"} (default: "robust")
        See :class:`flwr_lomar.LoMarDetector`. ``paper`` also averages as Eq. 3 is printed: weights as reported, and
        not renormalised over the kept.
    detector : Optional[LoMarDetector] (default: None)
        If ``None``, one with this preset.
    policy : Optional[Policy] (default: None)
        If ``None``, the preset's.
    *args, **kwargs
        As in ``FAADL``.
    """

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


def policy_of(preset: Literal["robust", "paper"]) -> Policy:
    """Return the policy by which a preset averages."""
    return Policy(weighting="reported", renormalise=False) if preset == "paper" else Policy()
