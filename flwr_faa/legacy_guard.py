"""The guard around a strategy of the legacy API; the counterpart of ``guard.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from logging import ERROR
from typing import Any, TypeVar, cast

from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    Parameters,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.logger import log
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.criterion import Criterion
from flwr.server.strategy import FedAvg

from flwr_faa import expected
from flwr_faa.client import CHALLENGE, COMMITMENT, EVIDENCE
from flwr_faa.defence import Defence, failure, lower_minima, readable
from flwr_faa.errors import ArgumentValueError, RunError
from flwr_faa.guard import ONE_MODEL, limit, read_model
from flwr_faa.replies import npy
from flwr_faa.replies.metrics import mend
from flwr_faa.replies.updates import Arrays, Reply, complete, plausible, weigh_nodes
from flwr_faa.report import RoundReport

#: Challenges under way at once.
_THREADS = 32
_FIRST_MODEL = (
    ". A strategy without initial_parameters has Flower ask a client, drawn at random, for the first model: give it "
    "initial_parameters=ndarrays_to_parameters(...)"
)
Ins = TypeVar("Ins", FitIns, EvaluateIns)
Results = list[tuple[ClientProxy, FitRes]]
Failures = Sequence[tuple[ClientProxy, Any] | BaseException]


class LegacyGuard:
    """The defence of one strategy.

    Parameters
    ----------
    defence : Defence

    Notes
    -----
    The methods that draw clients are told whose guard it is: its minimum numbers of clients are lowered by the banned
    meanwhile.
    """

    def __init__(self, defence: Defence) -> None:
        self.defence = defence
        self._model: Arrays = ()
        self._asked: dict[int, ClientProxy] = {}
        self._unenrolled: dict[int, str] = {}
        self._started = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_asked": {}}  # connections cannot be copied; each round brings its own

    def model(self, parameters: Parameters) -> Arrays:
        """Return the arrays that are about to be broadcast.

        Raises
        ------
        ValueError
            If they cannot be averaged. The first ones may come from any client.
        """
        hint = "" if self.defence.reports else _FIRST_MODEL
        try:
            found = list(read_model({str(i): tensor for i, tensor in enumerate(parameters.tensors)}).values())
        except ValueError as why:
            raise ArgumentValueError(f"{why}{hint}") from why
        if not found:
            raise ArgumentValueError(f"expected a model of at least one array, got none{hint}")
        return found

    def configure_fit(
        self,
        strategy: FedAvg,
        own: Callable[[int, Parameters, ClientManager], list[tuple[ClientProxy, FitIns]]],
        server_round: int,
        parameters: Parameters,
        manager: ClientManager,
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Return what the strategy's own ``configure_fit`` sends, without the banned and those not enrolled."""
        if not self.defence.reports:
            self.defence.summary()  # the legacy server does not call it
        self._model = self.model(parameters)
        with self.without_banned(strategy, manager, "min_fit_clients") as view:
            instructions = self._to_others(own(server_round, parameters, view) if view else [])
        if (broadcast := _sent([ins.parameters for _, ins in instructions] or [parameters])) is not parameters:
            self._model = self.model(broadcast)
        self.defence.check_room(len(instructions), self._model)
        self._asked = {node_id(client): client for client, _ in instructions}
        for client in self._asked.values():
            self.defence.check_grid(getattr(client, "grid", None))
        self._unenrolled = self.defence.enrol(self._asked, partial(self._ask, server_round))
        self._asked = {node: client for node, client in self._asked.items() if node not in self._unenrolled}
        told = self.defence.told(server_round)
        self._started = time.perf_counter()
        if self._unenrolled and not self._asked:
            self.decide(server_round, [], [])  # the legacy server cancels a round of nobody: it must be on record
        return [
            (client, FitIns(ins.parameters, {**ins.config, **told}) if told else ins)
            for client, ins in instructions
            if node_id(client) in self._asked
        ]

    def configure_evaluate(
        self,
        strategy: FedAvg,
        own: Callable[[int, Parameters, ClientManager], list[tuple[ClientProxy, EvaluateIns]]],
        server_round: int,
        parameters: Parameters,
        manager: ClientManager,
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Return what the strategy's own ``configure_evaluate`` sends, without the banned."""
        with self.without_banned(strategy, manager, "min_evaluate_clients") as view:
            return self._to_others(own(server_round, parameters, view) if view else [])

    def decide(
        self, server_round: int, results: Results, failures: Failures
    ) -> tuple[Parameters, RoundReport, Results]:
        """Decide a round.

        Returns
        -------
        parameters, report, accepted
            The average of the accepted (the model as it was where nobody is); what was decided; and the accepted
            results in the order of node ids, rebuilt from what was validated, without the commitments.

        Raises
        ------
        RuntimeError
            If there is no model to compare with, or all results hold the same one: SecAgg+ puts the average into each.
        """
        if not self._model:
            raise RunError("expected configure_fit before aggregate_fit, got no global model")
        if len(results) > 1 and len({id(result.parameters) for _, result in results}) == 1:
            raise RunError(
                f"expected a model from each client, got the same one for all {len(results)}: secure aggregation "
                "(SecAgg+) gives a strategy nothing but the average, in which nobody can be told from the others "
                "(docs/results/compatibility.md)"
            )
        seconds = {"train": time.perf_counter() - self._started}
        read = [readable(node_id(client), partial(self._read, client, result)) for client, result in results]
        missing = self._asked.keys() - {r.node_id for r in read}
        away = {**dict.fromkeys(missing, _why(failures)), **self._unenrolled}
        read += [Reply(node, problem=why, absent=True) for node, why in away.items()]
        ask = partial(self._ask, server_round, timeout=self.defence.timeout)
        arrays, report = self.defence.decide(server_round, read, self._model, ask, seconds)
        kept = {v.node_id for v in report.accepted}
        models = complete([r for r in read if r.node_id in kept], self._model)
        weights = weigh_nodes({r.node_id: r.num_examples for r in read if r.node_id in kept}, self._weighting)
        by_node = {node_id(client): (client, result) for client, result in results}
        accepted = []
        for node in sorted(models):
            client, result = by_node[node]
            metrics = {k: v for k, v in result.metrics.items() if k != COMMITMENT}
            parameters = Parameters([npy.write(a) for a in models[node]], "numpy.ndarray")
            accepted.append(
                (client, FitRes(result.status, parameters, cast(int, weights[node]), metrics))  # may be a fraction
            )
        return ndarrays_to_parameters(arrays), report, accepted

    def restored(self, parameters: Parameters | None, average: Parameters) -> Parameters | None:
        """Return a model that the strategy made with the dtypes of the one that was broadcast.

        Raises
        ------
        ValueError
            If it has other arrays, or values that are not finite where the broadcast's are.
        """
        if parameters is None:
            return None
        found = {str(i): a for i, a in enumerate(parameters_to_ndarrays(parameters))}
        model = {str(i): a for i, a in enumerate(self._model)}
        own = parameters_to_ndarrays(average)
        return ndarrays_to_parameters(list(self.defence.restored(found, model, own).values()))

    def mended(self, accepted: Results) -> Results:
        """Return the results with metrics that can be averaged."""
        weights: dict[int, float] = {node_id(c): r.num_examples for c, r in accepted}
        metrics = mend({node_id(c): r.metrics for c, r in accepted}, weights)
        return [(c, replace(r, metrics=metrics[node_id(c)])) for c, r in accepted]

    def evaluated(self, results: list[tuple[ClientProxy, EvaluateRes]]) -> list[tuple[ClientProxy, EvaluateRes]]:
        """Return the evaluations that can be averaged, with losses and metrics mended, by node id."""
        by_node = {node_id(c): (c, r) for c, r in results if plausible(r.num_examples)}
        nodes = sorted(by_node)
        weights = weigh_nodes({n: by_node[n][1].num_examples for n in nodes}, self._weighting)
        losses = mend({n: {"loss": by_node[n][1].loss} for n in nodes}, weights)
        metrics = mend({n: by_node[n][1].metrics for n in nodes}, weights)
        return [
            (
                by_node[n][0],
                replace(by_node[n][1], loss=losses[n]["loss"], num_examples=cast(int, weights[n]), metrics=metrics[n]),
            )
            for n in nodes
        ]

    @contextmanager
    def without_banned(self, strategy: FedAvg, manager: ClientManager, minimum: str) -> Iterator[ClientManager | None]:
        """Give the manager without the banned; the strategy's minima are lowered by their number while it is open."""
        connected = self.defence.present(lambda: {node_id(client) for client in manager.all().values()})
        banned = self.defence.ledger.bans.keys()  # read after that, which may take long: bans can be lifted
        if connected and connected <= banned:
            log(ERROR, "every connected node is banned: nobody is asked this round")
            yield None
            return
        with lower_minima(strategy, (minimum, "min_available_clients"), len(connected & banned)):
            yield cast(ClientManager, _View(manager, {str(n) for n in banned}))

    def _to_others(self, instructions: Sequence[tuple[ClientProxy, Ins]]) -> list[tuple[ClientProxy, Ins]]:
        """Return the instructions for clients that are not banned: a project's own sampling may remember others."""
        banned = self.defence.ledger.bans.keys()
        return [(client, ins) for client, ins in instructions if node_id(client) not in banned]

    @property
    def _weighting(self) -> Any:
        return self.defence.policy.weighting

    def _read(self, client: ClientProxy, result: FitRes) -> Reply:
        """Read a result without trusting any of it."""
        node, tensors = node_id(client), result.parameters.tensors
        commitment = result.metrics.get(COMMITMENT, b"")
        told = commitment if isinstance(commitment, bytes) else b""
        if len(tensors) != len(self._model):
            return Reply(node, problem=f"expected {len(self._model)} arrays, got {len(tensors)}")
        arrays = [npy.read(tensor, limit(own)) for tensor, own in zip(tensors, self._model, strict=True)]
        return Reply(node, arrays, result.num_examples, commitment=told)

    def _ask(self, server_round: int, challenges: Mapping[int, bytes], timeout: float) -> dict[int, bytes | str]:
        """Send requests to their nodes, many at once, and collect what they answer."""
        asked = self._asked

        def ask_one(item: tuple[int, bytes]) -> bytes | str:
            node, challenge = item
            try:
                result = asked[node].get_properties(
                    GetPropertiesIns({CHALLENGE: challenge}), timeout=timeout, group_id=server_round
                )
            # The proxy is somebody's transport, fed by somebody's client: whatever it raises, this node did not answer.
            except Exception as error:  # noqa: BLE001
                return f"no answer: {failure(error or type(error).__name__)}"
            evidence = result.properties.get(EVIDENCE)
            if EVIDENCE not in result.properties:
                return "its get_properties() answers no verification: a NumPyClient does that as a VerifiableClient"
            return evidence if isinstance(evidence, bytes) else f"expected bytes, got {type(evidence).__name__}"

        with ThreadPoolExecutor(min(_THREADS, len(challenges) or 1)) as pool:
            return dict(zip(challenges, pool.map(ask_one, challenges.items()), strict=True))


class _View(Criterion):
    """The part of a client manager that Flower's sampling uses, without some nodes.

    It passes for the manager, since projects ask for managers of their own by class.
    """

    def __init__(self, manager: ClientManager, without: set[str], also: Criterion | None = None) -> None:
        self._manager, self._without, self._also = manager, without, also

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._manager)

    def select(self, client: ClientProxy) -> bool:
        return client.cid not in self._without and (self._also is None or self._also.select(client))

    def all(self) -> dict[str, ClientProxy]:
        return {cid: client for cid, client in self._manager.all().items() if self.select(client)}

    def num_available(self) -> int:
        return len(self.all())

    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        chosen = _View(self._manager, self._without, criterion)
        clients: list[ClientProxy] = self._manager.sample(num_clients, min_num_clients, chosen)
        return clients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)  # what else a project's own sampling may ask


def _sent(told: Sequence[Parameters]) -> Parameters:
    """Return the model that all of these clients are sent: a strategy need not send the one that it was given.

    Raises
    ------
    ValueError
        If they are sent different ones.
    """
    first, *others = {id(parameters): parameters for parameters in told}.values()
    if any(other.tensors != first.tensors for other in others):
        raise ArgumentValueError(f"{ONE_MODEL} got different ones")
    return first


def counted(metrics: Any, report: RoundReport) -> Any:
    """Add the report's numbers to a round's metrics; what is no mapping is left to the project's own class."""
    return {**metrics, **report.metrics()} if isinstance(metrics, Mapping) else metrics


def node_id(client: ClientProxy) -> int:
    """Return a proxy's node id; its ``cid`` is that number as text. Raises TypeError for what is no proxy."""
    expected.kind("client", client, ClientProxy, "the first of each pair in the results of aggregate_fit")
    return int(client.cid)


def _why(failures: Failures) -> str:
    """Say why nodes have no result: Flower tells the server what went wrong, but not for which node."""
    told = sorted({failure(f) for f in failures if isinstance(f, BaseException)})
    return "; or ".join(["no reply in time", *told[:3]])
