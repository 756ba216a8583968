"""FAA-DL around a project's own strategy: its sampling, its aggregation and its metrics, on the replies that are kept.

:class:`flwr_faa.FAADL` averages for itself. A subclass of Flower's ``FedAvg`` with an ``aggregate_train`` (or
``aggregate_fit``) of its own is protected instead: nodes are sampled, enrolled, detected, verified and banned as ever,
and then the subclass aggregates what is left, as if the others had not replied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import FitRes, Parameters, Scalar
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flwr_faa import legacy
from flwr_faa.client import COMMIT, COMMITMENT, NONCE
from flwr_faa.defence import Defence, consistent
from flwr_faa.ledger import Ledger
from flwr_faa.legacy import node_id
from flwr_faa.pipeline import Policy
from flwr_faa.strategy import FAADL
from flwr_faa.updates import weigh
from flwr_faa.verification.base import Verifier

S = TypeVar("S", FedAvg, LegacyFedAvg)
_ODD = "expected metrics like the others', finite and of the same names and types, got other ones"


def protect(
    strategy: S,
    *,
    detector: object | None = None,
    verifier: Verifier | None = None,
    policy: Policy | None = None,
    ledger: Ledger | None = None,
    verify_timeout: float = 60.0,
    seed: int | None = None,
    observe: bool = False,
) -> S:
    """The same strategy, of whichever API, behind FAA-DL.

    Parameters
    ----------
    strategy : FedAvg
        An instance of Flower's ``FedAvg`` or of any class that inherits from it (FedAdam, FedProx, your own). Its
        class is left as it is. All nodes must get the same model.
    detector, verifier, policy, ledger, verify_timeout, seed, observe
        As in :class:`flwr_faa.FAADL`. ``policy.weighting`` decides which ``num-examples`` the strategy sees:
        ``capped`` (default) or ``uniform``, which is 1; ``policy.renormalise`` is the strategy's own affair.

    Returns
    -------
    FedAvg
        A copy, which is still an instance of the strategy's class, with ``reports`` and ``defence`` as FAADL has them.

    Raises
    ------
    TypeError
        If the strategy does not inherit from ``FedAvg``, or is protected already.
    """
    guards: dict[type, type] = {FedAvg: _Guard, LegacyFedAvg: _LegacyGuard}
    guard = next((g for base, g in guards.items() if isinstance(strategy, base)), None)
    if guard is None or isinstance(strategy, FAADL | legacy.FAADL):
        raise TypeError(
            f"Expected a FedAvg, or what inherits from it, without a defence, got {type(strategy).__name__}"
        )
    cls = type(strategy)
    protected: Any = copy.copy(strategy)
    # The guard comes first, so that its `super()` is the project's class and that class' own `start` finds the guard.
    protected.__class__ = type(f"Protected{cls.__name__}", (guard, cls), {})
    protected._defend(Defence(detector, verifier, policy or Policy(), ledger, verify_timeout, seed, None, observe))
    result: S = protected
    return result


class _Guard(FAADL):
    """Stands before the project's class in the order of inheritance."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the project does, without the banned."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:  # the project may have made configs of its own
            told = message.content.config_records.get(self.configrecord_key)
            if told is None:
                told = message.content[self.configrecord_key] = ConfigRecord()
            told.update({key: config[key] for key in (NONCE, COMMIT) if key in config})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Detect, verify, remove; the project aggregates the rest."""
        messages = [m for m in replies if not m.has_error()]
        sound = {m.metadata.src_node_id for m in self._sound(messages)}
        odd = {m.metadata.src_node_id: _ODD for m in messages if m.metadata.src_node_id not in sound}
        model, report = self._decide(server_round, messages, odd)
        kept = {v.node_id for v in report.accepted}
        left = sorted((m for m in messages if m.metadata.src_node_id in kept), key=lambda m: m.metadata.src_node_id)
        arrays: ArrayRecord | None = model
        metrics: MetricRecord | None = None
        if left:  # with nobody left the model stays
            key, told = self.weighted_by_key, [next(iter(m.content.metric_records.values())) for m in left]
            for metric, weight in zip(told, _weights([m[key] for m in told], self.defence.policy), strict=True):
                metric[key] = weight
            for message in left:
                message.content.pop(COMMITMENT, None)
            arrays, metrics = super(FAADL, self).aggregate_train(server_round, left)
        metrics = MetricRecord() if metrics is None else metrics
        metrics.update(report.metrics())
        return arrays, metrics


class _LegacyGuard(legacy.FAADL):
    """The same for ``aggregate_fit``."""

    def __repr__(self) -> str:
        return f"protect({super(legacy.FAADL, self).__repr__()})"

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Detect, verify, remove; the project aggregates the rest."""
        if failures and not self.accept_failures:
            return None, {}
        told = {node_id(c): {k: v for k, v in r.metrics.items() if k != COMMITMENT} for c, r in results}
        sound = consistent(told, sorted(told))
        model, report = self._decide(server_round, results, {n: _ODD for n in told if n not in sound})
        kept = {v.node_id for v in report.accepted}
        left = sorted(((c, r) for c, r in results if node_id(c) in kept), key=lambda pair: node_id(pair[0]))
        parameters: Parameters | None = model
        metrics: dict[str, Scalar] = {}
        if left:  # with nobody left the model stays
            weights = _weights([r.num_examples for _, r in left], self.defence.policy)
            left = [(c, replace(r, num_examples=weight)) for (c, r), weight in zip(left, weights, strict=True)]
            parameters, metrics = super(legacy.FAADL, self).aggregate_fit(server_round, left, failures)
        return parameters, {**metrics, **report.metrics()}


def _weights(examples: list[Any], policy: Policy) -> list[int]:
    """What the project is told of the numbers of examples: validated, and as the policy weighs them."""
    return [max(1, round(w)) for w in weigh(np.array(examples, np.float64), policy.weighting)]
