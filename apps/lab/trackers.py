"""TensorBoard or MLflow around any Flower strategy of either API.

::

    strategy = tracked(FAADL(...), TensorBoard("runs/tb"))

After a round they get the metrics and losses that the strategy returns, the server's own evaluation and, where the
strategy keeps ``RoundReport``s as this project's do, its counts, scores and seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flwr_faa.report import RoundReport

S = TypeVar("S")


class Tracker(Protocol):
    """Where figures go."""

    def log(self, server_round: int, figures: Mapping[str, float]) -> None:
        """Write figures of a round."""


class TensorBoard:
    """Event files for ``tensorboard --logdir``; needs ``pip install --group tensorboard`` in a checkout."""

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, server_round: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()  # whoever kills the server loses nothing


class MLflow:
    """A run of MLflow; needs ``pip install --group mlflow`` in a checkout.

    Parameters
    ----------
    uri : str
        Where MLflow keeps its runs: ``sqlite:///runs/mlflow.db``, a folder, or a server's address.
    experiment, name : str
    """

    def __init__(self, uri: str, experiment: str = "flwr-anomaly", name: str | None = None) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self.run_id: str = self._client.create_run(number, run_name=name).info.run_id

    def log(self, server_round: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self.run_id, name, value, step=server_round)


def tracked(strategy: S, *trackers: Tracker) -> S:
    """Let trackers see what a strategy does; return the same strategy.

    Parameters
    ----------
    strategy : Strategy
        Of the Message API (``aggregate_train``) or the legacy one (``aggregate_fit``).
    *trackers : Tracker

    Raises
    ------
    TypeError
        If it is neither.
    """
    seen: list[RoundReport] = list(getattr(strategy, "reports", ()))

    def log(server_round: int, prefix: str, metrics: object) -> None:
        figures = {f"{prefix}/{k}": float(v) for k, v in _plain(metrics).items() if isinstance(v, (bool, int, float))}
        for report in list(getattr(strategy, "reports", ()))[len(seen) :]:
            seen.append(report)
            figures |= figures_of(report)
        if figures:
            for tracker in trackers:
                tracker.log(server_round, figures)

    def watch(method: str, prefix: str) -> None:
        original = getattr(strategy, method)

        @wraps(original)
        def watching(server_round: int, *args: Any, **kwargs: Any) -> Any:
            result = original(server_round, *args, **kwargs)
            log(server_round, prefix, result)
            return result

        setattr(strategy, method, watching)

    if hasattr(strategy, "aggregate_train"):
        watch("aggregate_train", "train")
        watch("aggregate_evaluate", "evaluate")
        strategy.start = _watch_start(strategy, log)  # type: ignore[attr-defined]
    elif hasattr(strategy, "aggregate_fit"):
        watch("aggregate_fit", "train")
        watch("aggregate_evaluate", "evaluate")
        watch("evaluate", "server")
    else:
        raise TypeError(f"expected a strategy with aggregate_train or aggregate_fit, got {type(strategy).__name__}")
    return strategy


def figures_of(report: RoundReport) -> dict[str, float]:
    """Return a round's report in numbers."""
    scores = [v.score for v in report.nodes if v.score is not None]
    return {
        **{f"nodes/{outcome}": float(count) for outcome, count in report.counts().items()},
        **{f"seconds/{phase}": float(seconds) for phase, seconds in report.seconds.items()},
        "nodes/verified": float(len(report.verified)),
        "nodes/banned": float(sum(v.banned for v in report.nodes)),
        **({"score/largest": max(scores)} if scores else {}),
    }


def _watch_start(strategy: Any, log: Callable[[int, str, object], None]) -> Callable[..., Any]:
    """Return a ``start`` that tells of the server's evaluation, which the Message API is given only there."""
    original = strategy.start

    @wraps(original)
    def start(*args: Any, evaluate_fn: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        if evaluate_fn is None:
            return original(*args, **kwargs)

        def evaluate(server_round: int, arrays: Any) -> Any:
            metrics = evaluate_fn(server_round, arrays)
            log(server_round, "server", metrics)
            return metrics

        return original(*args, evaluate_fn=evaluate, **kwargs)

    return start


def _plain(result: object) -> dict[str, Any]:
    """Return metrics by name from what a strategy's method returns: metrics, or a pair whose second they are."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, tuple) and len(result) == 2:
        first, metrics = result
        loss = {"loss": first} if isinstance(first, (int, float)) else {}
        return {**loss, **_plain(metrics)}
    return {}
