"""FAA-DL for Flower's legacy API: ``Strategy`` and ``aggregate_fit``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from logging import ERROR
from typing import Any, cast

from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.logger import log
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.criterion import Criterion
from flwr.server.strategy import FedAvg

from flwr_faa import npy
from flwr_faa.client import CHALLENGE, COMMIT, COMMITMENT, EVIDENCE, NONCE
from flwr_faa.defence import Defence, accounted, consistent, lowered, readable
from flwr_faa.ledger import Ledger
from flwr_faa.pipeline import Policy, Rule
from flwr_faa.strategy import limit
from flwr_faa.updates import MAX_EXAMPLES, Arrays, Reply
from flwr_faa.verdict import RoundReport
from flwr_faa.verification.base import Verifier

#: Challenges under way at once.
_THREADS = 32


class FAADL(FedAvg):
    """Federated Anomaly Analytics (FAA-DL) for the legacy API: detect, verify, remove, then FedAvg.

    The same pipeline as :class:`flwr_faa.FAADL`, with the same parameters; ``*args`` and ``**kwargs`` are those of the
    legacy ``FedAvg``. Suspects are asked through ``get_properties``.
    """

    def __init__(
        self,
        *args: Any,
        detector: object | None = None,
        verifier: Verifier | None = None,
        policy: Policy | None = None,
        ledger: Ledger | None = None,
        verify_timeout: float = 60.0,
        seed: int | None = None,
        rule: Rule | None = None,
        observe: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._defend(Defence(detector, verifier, policy or Policy(), ledger, verify_timeout, seed, rule, observe))

    def _defend(self, defence: Defence) -> None:
        self.defence = defence
        self._model: Arrays = ()
        self._asked: dict[int, ClientProxy] = {}
        self._unenrolled: dict[int, str] = {}
        self._started = 0.0

    def __repr__(self) -> str:
        return f"FAADL(detector={self.defence.detector!r}, accept_failures={self.accept_failures})"

    @property
    def reports(self) -> list[RoundReport]:
        return self.defence.reports

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        self.defence.summary()

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Configure the next round of training, without the banned."""
        if not self.reports:
            self.summary()  # the legacy server does not call it
        self._model = parameters_to_ndarrays(parameters)
        with self._unbanned(client_manager, "min_fit_clients") as view:
            instructions = super().configure_fit(server_round, parameters, view) if view else []
        self._asked = {node_id(client): client for client, _ in instructions}
        for client in self._asked.values():
            self.defence.check_grid(getattr(client, "grid", None))
        self._unenrolled = self.defence.enrol(self._asked, partial(self._ask, server_round))
        self._asked = {node: client for node, client in self._asked.items() if node not in self._unenrolled}
        more: dict[str, Scalar] = {NONCE: self.defence.nonce(server_round)}
        if self.defence.commits:
            more[COMMIT] = True
        self._started = time.perf_counter()
        return [
            (client, FitIns(ins.parameters, {**ins.config, **more}))
            for client, ins in instructions
            if node_id(client) in self._asked
        ]

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Configure the next round of evaluation, without the banned."""
        with self._unbanned(client_manager, "min_evaluate_clients") as view:
            return super().configure_evaluate(server_round, parameters, view) if view else []

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Detect, verify, remove, and aggregate the rest."""
        if failures and not self.accept_failures:
            return None, {}
        parameters, report = self._decide(server_round, results)
        return parameters, self._metrics(results, report)

    def _decide(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], problems: Mapping[int, str] | None = None
    ) -> tuple[Parameters, RoundReport]:
        """The new global model, and what was decided; ``problems`` says whose reply is no good for other reasons."""
        if not self._model:
            raise RuntimeError("expected configure_fit before aggregate_fit, got no global model")
        seconds = {"train": time.perf_counter() - self._started}
        read = [readable(node_id(client), partial(self._read, client, result)) for client, result in results]
        silent = dict.fromkeys(self._asked.keys() - {r.node_id for r in read}, "no reply, or the client failed")
        read = accounted(read, problems or {}, silent, self._unenrolled)
        ask = partial(self._ask, server_round, timeout=self.defence.timeout)
        arrays, report = self.defence.decide(server_round, read, self._model, ask, seconds)
        return ndarrays_to_parameters(arrays), report

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Aggregate the losses and metrics of those whose numbers are sound."""
        by_node = {node_id(c): (c, r) for c, r in results if _plausible(r.num_examples)}
        metrics = {n: {**r.metrics, "loss": r.loss} for n, (_, r) in by_node.items()}
        sound = [by_node[n] for n in consistent(metrics, sorted(by_node))]
        aggregated: tuple[float | None, dict[str, Scalar]] = super().aggregate_evaluate(server_round, sound, failures)
        return aggregated

    def _read(self, client: ClientProxy, result: FitRes) -> Reply:
        """What a result holds, without trusting any of it."""
        node, tensors = node_id(client), result.parameters.tensors
        commitment = result.metrics.pop(COMMITMENT, b"")  # nothing that a user's metrics should meet
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
                return f"no answer ({type(error).__name__})"
            evidence = result.properties.get(EVIDENCE)
            return evidence if isinstance(evidence, bytes) else f"expected bytes, got {type(evidence).__name__}"

        with ThreadPoolExecutor(min(_THREADS, len(challenges) or 1)) as pool:
            return dict(zip(challenges, pool.map(ask_one, challenges.items()), strict=True))

    def _metrics(self, results: list[tuple[ClientProxy, FitRes]], report: RoundReport) -> dict[str, Scalar]:
        metrics: dict[str, Scalar] = {}
        if self.fit_metrics_aggregation_fn:
            by_node = {node_id(c): r for c, r in results}
            kept = [v.node_id for v in report.accepted]
            sound = consistent({n: by_node[n].metrics for n in kept}, kept)
            metrics = dict(
                self.fit_metrics_aggregation_fn([(by_node[n].num_examples, by_node[n].metrics) for n in sound])
            )
        return metrics | report.metrics()

    @contextmanager
    def _unbanned(self, manager: ClientManager, minimum: str) -> Iterator[ClientManager | None]:
        """The manager without the banned; the strategy's minima are lowered by their number while it is open."""
        connected = self.defence.present(lambda: {node_id(client) for client in manager.all().values()})
        banned = self.defence.ledger.bans.keys()  # read after that, which may take long: bans can be lifted
        if connected and connected <= banned:
            log(ERROR, "every connected node is banned: nobody is asked this round")
            yield None
            return
        with lowered(self, (minimum, "min_available_clients"), len(connected & banned)):
            yield cast(ClientManager, _View(manager, {str(n) for n in banned}))


class _View(Criterion):
    """The part of a client manager that Flower's sampling uses, without some nodes."""

    def __init__(self, manager: ClientManager, without: set[str], also: Criterion | None = None) -> None:
        self._manager, self._without, self._also = manager, without, also

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


def node_id(client: ClientProxy) -> int:
    """A proxy's node id; its ``cid`` is that number as text."""
    return int(client.cid)


def _plausible(examples: object) -> bool:
    return isinstance(examples, (int, float)) and 0 < examples <= MAX_EXAMPLES
