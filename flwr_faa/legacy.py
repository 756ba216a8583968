"""FAA-DL for Flower's legacy API: ``Strategy`` and ``aggregate_fit``."""

from __future__ import annotations

from typing import Any

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg

from flwr_faa.defence import Defence
from flwr_faa.holdout.base import Holdout
from flwr_faa.ledger.store import Ledger
from flwr_faa.legacy_guard import LegacyGuard, counted, node_id
from flwr_faa.pipeline import Rule
from flwr_faa.policy import Policy
from flwr_faa.report import RoundReport
from flwr_faa.verification.base import Verifier

__all__ = ["FAADL", "node_id"]


class FAADL(FedAvg):
    """Federated Anomaly Analytics (FAA-DL) for the legacy API: detect, verify, remove, then FedAvg.

    The same pipeline as :class:`flwr_faa.FAADL`, with the same parameters; ``*args`` and ``**kwargs`` are those of the
    legacy ``FedAvg``. Suspects are asked through ``get_properties``.

    See Also
    --------
    flwr.server.strategy.FedAvg : What it is without a defence.
    """

    def __init__(
        self,
        *args: Any,
        detector: object | None = None,
        verifier: Verifier | Holdout | None = None,
        policy: Policy | None = None,
        ledger: Ledger | None = None,
        verify_timeout: float = 60.0,
        seed: int | None = None,
        rule: Rule | None = None,
        observe: bool = False,
        holdout: Holdout | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        defence = Defence(detector, verifier, policy, ledger, verify_timeout, seed, rule, observe, holdout)
        self._faa = LegacyGuard(defence)

    def __repr__(self) -> str:
        return f"FAADL(detector={self.defence.detector!r}, accept_failures={self.accept_failures})"

    @property
    def defence(self) -> Defence:
        """Pipeline, ledger and memory."""
        return self._faa.defence

    @property
    def reports(self) -> list[RoundReport]:
        """One report for each round."""
        return self._faa.defence.reports

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        self.defence.summary()

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """Evaluate the model on the server; the first one of a run may come from any client."""
        self._faa.model(parameters)
        evaluated: tuple[float, dict[str, Scalar]] | None = super().evaluate(server_round, parameters)
        return evaluated

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, without the banned."""
        return self._faa.configure_fit(self, super().configure_fit, server_round, parameters, client_manager)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation, without the banned."""
        return self._faa.configure_evaluate(self, super().configure_evaluate, server_round, parameters, client_manager)

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Detect, verify, remove, and aggregate the rest."""
        if failures and not self.accept_failures:
            return None, {}
        parameters, report, accepted = self._faa.decide(server_round, results, failures)
        metrics: Any = {}
        if self.fit_metrics_aggregation_fn and accepted:
            told = [(r.num_examples, r.metrics) for _, r in self._faa.mended(accepted)]
            metrics = self.fit_metrics_aggregation_fn(told)
        return parameters, counted(metrics, report)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate losses and metrics, mended where one client's would spoil them."""
        aggregated: tuple[float | None, dict[str, Scalar]] = super().aggregate_evaluate(
            server_round, self._faa.evaluated(results), failures
        )
        return aggregated
