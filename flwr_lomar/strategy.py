"""LoMar for Flower's Message API."""

from __future__ import annotations

from typing import Any, Literal

from flwr_faa.policy import Policy
from flwr_faa.strategy import FAADL
from flwr_lomar.detector import LoMarDetector


class LoMar(FAADL):
    """LoMar: every update gets a density score; who is too odd is left out of the round, and FedAvg takes the rest.

    Implementation based on Li et al., "LoMar: A Local Defense Against Poisoning Attack on Federated Learning", IEEE
    TDSC 2021. It is :class:`flwr_faa.FAADL` with LoMar as its detector. Nobody is asked for evidence, and nobody is
    banned, because a score is a suspicion. The rest of the pipeline is the same: validated replies, reports, ledger.

    Where each client holds two labels it finds no label flippers, who look like honest clients there. Give it held-out
    data then: ``LoMar(holdout=Holdout(...))``, ``docs/how-to/holdout.md``.

    Parameters
    ----------
    preset : {"robust", "paper"} (default: "robust")
        See :class:`flwr_lomar.LoMarDetector`. ``paper`` also averages as Eq. 3 is printed: with the weights that
        clients report, and without making those of the kept sum to one.
    detector : Optional[LoMarDetector] (default: None)
        If ``None``, one with this preset.
    policy : Optional[Policy] (default: None)
        If ``None``, the preset's.
    *args, **kwargs
        As in ``FAADL``.

    See Also
    --------
    flwr.serverapp.strategy.FedAvg : What it is without a defence.
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
