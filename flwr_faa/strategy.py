"""FAA-DL for Flower's Message API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flwr_faa.defence import Defence
from flwr_faa.guard import Guard
from flwr_faa.holdout.base import Holdout
from flwr_faa.ledger.store import Ledger
from flwr_faa.pipeline import Rule
from flwr_faa.policy import Policy
from flwr_faa.report import RoundReport
from flwr_faa.verification.base import Verifier


class FAADL(FedAvg):
    """Federated Anomaly Analytics (FAA-DL): detect, verify, remove, then FedAvg.

    Implementation based on Shi et al., "Federated Anomaly Analytics for Local Model Poisoning Attack", IEEE JSAC 2022.
    Every reply is validated; a detector names suspects; with a verifier, suspects are asked for evidence during
    aggregation and only those whose evidence contradicts their update, or who give none, are removed. Nothing that a
    client sends makes a round fail for the others.

    Parameters
    ----------
    detector : Detector or PyOD detector (default: None)
        Who names suspects. If ``None``, ``Sequential()`` with a verifier and ``MultiView()`` without.
    verifier : Optional[Verifier | Holdout] (default: None)
        How suspects are verified. If ``None``, suspects are removed. A ``Holdout`` decides about them by its loss.
    policy : Optional[Policy] (default: None)
        Weighting, bans, strikes, failing closed.
    ledger : Optional[Ledger] (default: None)
        Where reports, bans and strikes go. If ``None``, they are kept in memory.
    verify_timeout : float (default: 60.0)
        Seconds to wait for the evidence of one batch of suspects.
    seed : Optional[int] (default: None)
        Makes batch orders and audits reproducible. If ``None``, drawn from the system: what you want in the field.
    rule : Optional[Callable] (default: None)
        How accepted updates are combined, ``rule(batch, rows) -> update``. If ``None``, their weighted mean.
    observe : bool (default: False)
        Detect, verify and report, but remove and ban nobody: to watch before trusting. ``Verdict.withheld`` says what
        would have been done.
    holdout : Optional[Holdout] (default: None)
        Held-out data that decide, after all others have spoken, who is averaged.
    *args, **kwargs
        As in ``FedAvg``.

    Attributes
    ----------
    reports : list of RoundReport
        One a round.

    See Also
    --------
    flwr.serverapp.strategy.FedAvg : What it is without a defence.

    Examples
    --------
    >>> from flwr_faa import Policy
    >>> strategy = FAADL(fraction_train=0.5, policy=Policy(max_strikes=2), seed=1)
    >>> strategy.fraction_train, strategy.reports
    (0.5, [])
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
        self._faa = Guard(Defence(detector, verifier, policy, ledger, verify_timeout, seed, rule, observe, holdout))

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
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated training, without the banned."""
        return self._faa.configure_train(self, super().configure_train, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation, without the banned."""
        return self._faa.configure_evaluate(self, super().configure_evaluate, server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Detect, verify, remove, and aggregate the rest."""
        arrays, report, accepted = self._faa.decide(self, server_round, list(replies))
        contents = [m.content for m in accepted]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key) if contents else MetricRecord()
        metrics.update(report.metrics())
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate the metrics, mended where one client's would spoil them."""
        return super().aggregate_evaluate(server_round, self._faa.evaluated(self, list(replies)))
