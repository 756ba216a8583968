"""FAA-DL around a project's own strategy: its sampling, its aggregation and its metrics, on the replies that are kept.

:class:`flwr_faa.FAADL` averages for itself. A strategy of Flower's, or a project's own that inherits from ``FedAvg``,
is protected instead: nodes are sampled, enrolled, detected, verified and banned as ever, and then the strategy
aggregates what is left, as if the others had not replied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flwr_faa import legacy
from flwr_faa.defence import Defence
from flwr_faa.errors import ArgumentTypeError
from flwr_faa.guard import Guard
from flwr_faa.holdout.base import Holdout
from flwr_faa.ledger.store import Ledger
from flwr_faa.legacy_guard import LegacyGuard, counted
from flwr_faa.policy import Policy
from flwr_faa.report import RoundReport
from flwr_faa.strategy import FAADL
from flwr_faa.verification.base import Verifier

S = TypeVar("S", FedAvg, LegacyFedAvg)


def protect(
    strategy: S,
    *,
    detector: object | None = None,
    verifier: Verifier | Holdout | None = None,
    policy: Policy | None = None,
    ledger: Ledger | None = None,
    verify_timeout: float = 60.0,
    seed: int | None = None,
    observe: bool = False,
    holdout: Holdout | None = None,
) -> S:
    """Return the strategy, of whichever API, behind FAA-DL.

    Parameters
    ----------
    strategy : FedAvg
        An instance of Flower's ``FedAvg`` or of any class that inherits from it (FedAdam, FedProx, your own). All
        nodes must get the same model. It is wrapped, not copied: what its own methods and callbacks write to it is
        found in it.
    detector, verifier, policy, ledger, verify_timeout, seed, observe, holdout
        As in :class:`flwr_faa.FAADL`. ``policy.weighting`` decides which ``num-examples`` the strategy sees:
        ``capped`` (default) or ``uniform``, which is 1; ``policy.renormalise`` is the strategy's own affair.

    Returns
    -------
    FedAvg
        A wrapper that passes for the strategy (``isinstance`` too), with ``reports`` and ``defence`` as FAADL has them.
        Every other attribute is the strategy's own, to read and to write.

    Raises
    ------
    TypeError
        If the strategy does not inherit from ``FedAvg``, is protected already, or combines models that are no arrays.

    See Also
    --------
    flwr.serverapp.strategy.FedAvg, flwr.server.strategy.FedAvg : From which a strategy has to inherit.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> mine = FedAdam(fraction_train=0.5)
    >>> twin = protect(mine)
    >>> isinstance(twin, FedAdam), twin.fraction_train, twin.reports
    (True, 0.5, [])
    """
    wrapper = next((w for base, w in ((FedAvg, _Message), (LegacyFedAvg, _Legacy)) if isinstance(strategy, base)), None)
    if wrapper is None or isinstance(strategy, FAADL | legacy.FAADL) or isinstance(_kind(strategy), _Wrapped):
        got = type(strategy).__name__
        inner = isinstance(getattr(strategy, "strategy", None), FedAvg | LegacyFedAvg)
        hint = f": protect the strategy inside it, {got}(protect(strategy), ...)" if inner else ""
        raise ArgumentTypeError(f"expected a FedAvg, or what inherits from it, without a defence, got {got}{hint}")
    trees = [cls.__name__ for cls in type(strategy).__mro__ if "Xgb" in cls.__name__]
    if trees:
        raise ArgumentTypeError(
            f"expected a strategy that combines arrays, got {trees[0]}: trees have no distance that a detector could "
            "measure. Protected can be whatever averages weights (FedAvg, FedAdam, FedProx, Krum, your own)"
        )
    defence = Defence(detector, verifier, policy, ledger, verify_timeout, seed, None, observe, holdout)
    protected: Any = wrapper(strategy, defence)
    return protected  # type: ignore[no-any-return]


def _kind(strategy: object) -> object:
    """Return the object if it is a wrapper, else None; a wrapper hides behind the class of what it wraps."""
    return strategy if issubclass(type(strategy), _Wrapped) else None


class _Front:
    """Passes for a strategy, whose attributes it reads and writes; defines what differs.

    ``__class__`` is the strategy's, so that ``isinstance`` and the ``super()`` of its methods work with this object.
    """

    _faa: Any
    _faa_own: Any

    def __init__(self, own: Any, guard: Any) -> None:
        object.__setattr__(self, "_faa_own", own)
        object.__setattr__(self, "_faa", guard)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(object.__getattribute__(self, "_faa_own"))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_faa_own"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._faa_own, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._faa_own, name)


class _MessageFront(_Front):
    """The four methods that a run of the Message API calls."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages: list[Message] = self._faa.configure_train(
            self._faa_own, self._faa_own.configure_train, server_round, arrays, config, grid
        )
        return messages

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages: list[Message] = self._faa.configure_evaluate(
            self._faa_own, self._faa_own.configure_evaluate, server_round, arrays, config, grid
        )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Detect, verify, remove; the project aggregates the rest."""
        arrays, report, accepted = self._faa.decide(self._faa_own, server_round, list(replies))
        metrics: MetricRecord | None = None
        if accepted:  # with nobody left the model stays
            made, metrics = self._faa_own.aggregate_train(server_round, accepted)
            arrays = self._faa.restored(made, arrays)
        metrics = MetricRecord() if metrics is None else metrics
        metrics.update(report.metrics())
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics: MetricRecord | None = self._faa_own.aggregate_evaluate(
            server_round, self._faa.evaluated(self._faa_own, list(replies))
        )
        return metrics


class _LegacyFront(_Front):
    """The methods that a run of the legacy API calls."""

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        self._faa.model(parameters)
        evaluated: tuple[float, dict[str, Scalar]] | None = self._faa_own.evaluate(server_round, parameters)
        return evaluated

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        instructions: list[tuple[ClientProxy, FitIns]] = self._faa.configure_fit(
            self._faa_own, self._faa_own.configure_fit, server_round, parameters, client_manager
        )
        return instructions

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        instructions: list[tuple[ClientProxy, EvaluateIns]] = self._faa.configure_evaluate(
            self._faa_own, self._faa_own.configure_evaluate, server_round, parameters, client_manager
        )
        return instructions

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Detect, verify, remove; the project aggregates the rest."""
        if failures and not self.accept_failures:
            return None, {}
        found: Parameters | None
        found, report, accepted = self._faa.decide(server_round, results, failures)
        metrics: Any = {}
        if accepted:  # with nobody left the model stays
            made, metrics = self._faa_own.aggregate_fit(server_round, self._faa.mended(accepted), failures)
            found = self._faa.restored(made, found)
        return found, counted(metrics, report)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        aggregated: tuple[float | None, dict[str, Scalar]] = self._faa_own.aggregate_evaluate(
            server_round, self._faa.evaluated(results), failures
        )
        return aggregated


class _Wrapped(_Front):
    """What the user holds: a front with ``reports`` and ``defence``, which the project's own methods do not see."""

    _faa_guard: Callable[[Defence], Any]

    def __init__(self, own: Any, defence: Defence) -> None:
        super().__init__(own, type(self)._faa_guard(defence))

    @property
    def defence(self) -> Defence:
        defence: Defence = self._faa.defence
        return defence

    @property
    def reports(self) -> list[RoundReport]:
        return self.defence.reports

    def __repr__(self) -> str:
        return f"protect({self._faa_own!r})"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _copied, (type(self), self._faa_own, self._faa)


class _Message(_Wrapped, _MessageFront):
    _faa_guard = Guard

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        self.defence.summary()
        self._faa_own.summary()

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """Run the project's own ``start``, which finds the defended methods and its own attributes."""
        return type(self._faa_own).start(_Start(self), *args, **kwargs)


class _Start(_MessageFront):
    """What a project's ``start`` has as ``self``: all names but the defended methods are the project's own."""

    def __init__(self, wrapped: _Message) -> None:
        super().__init__(wrapped._faa_own, wrapped._faa)
        object.__setattr__(self, "summary", wrapped.summary)


class _Legacy(_Wrapped, _LegacyFront):
    _faa_guard = LegacyGuard


def _copied(cls: type[_Wrapped], own: Any, guard: Any) -> Any:
    """Return a copy of a protected strategy, from copies of its parts."""
    copied = object.__new__(cls)
    _Front.__init__(copied, own, guard)
    return copied
