"""The same small federation through both of Flower's APIs, in process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp as LegacyServerApp
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from apps.lab.running.local_grid import Fault, LocalGrid, run_server_app
from flwr_faa import FAADL, Policy, TrainingPlan, VerifiableClient, verifiable
from flwr_faa import legacy as faa_legacy
from flwr_faa.client import NONCE
from flwr_faa.defence import Defence
from flwr_faa.report import RoundReport
from flwr_faa.verification.spotcheck.device import Device
from tests.helpers.toy import PLANS, seen_by, slice_of

Arrays = list[np.ndarray]
#: What an attacker makes of its honest result: (global model, honest result) to what it sends.
Attack = Callable[[Arrays, Arrays], Arrays]


@dataclass
class Outcome:
    """What a run left behind."""

    arrays: Arrays
    reports: list[RoundReport]
    metrics: dict[int, Any]
    grid: LocalGrid
    evaluated: list[Any] = field(default_factory=list)


def sign_flip(model: Arrays, honest: Arrays) -> Arrays:
    return [-a for a in honest]


def device_of(device: Device | Callable[[int], Device] | None, partition: int) -> Device | None:
    """A node's own: a folder serves one client."""
    if isinstance(device, Device):
        return replace(device, folder=device.folder / str(partition))
    return device(partition) if device else None


def answers_of(device: Device | None) -> tuple[str, ...]:
    """All that a client may answer: these data are public."""
    return () if device is not None and device.authority is not None else ("paper", "encrypted")


class Attacked(VerifiableClient):
    """Trains honestly, sends something else, and answers verification honestly."""

    def __init__(self, plan: TrainingPlan, partition: int, attack: Attack | None, device: Device | None) -> None:
        super().__init__(
            plan, seen_by(plan, slice_of(partition)), plaintext=True, device=device, answers=answers_of(device)
        )
        self.attack = attack

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Any:
        arrays, examples, metrics = super().fit(parameters, config)
        return (self.attack(parameters, arrays) if self.attack else arrays), examples, {**metrics, "loss": 1.0}

    def evaluate(self, parameters: Arrays, config: dict[str, Any]) -> Any:
        return 0.5, len(self.data[1]), {"accuracy": 0.5}


def nonces(seed: int) -> Callable[[int], int]:
    """What FAA-DL with this seed tells its clients, by round."""
    return Defence(None, None, Policy(), None, 1.0, seed).nonce


def run_legacy(
    plan: TrainingPlan = PLANS["mlp"],
    nodes: int = 6,
    rounds: int = 2,
    attacks: Mapping[int, Attack] = {},
    faults: Mapping[int, Fault] | None = None,
    defended: bool = True,
    strategy_class: type[faa_legacy.FAADL] = faa_legacy.FAADL,
    device: Device | Callable[[int], Device] | None = None,
    wrap: Callable[[Any], Any] = lambda strategy: strategy,
    **strategy_args: Any,
) -> Outcome:
    """Legacy API: NumPyClient and aggregate_fit."""

    def client_fn(context: Context) -> Any:
        partition = int(context.node_config["partition-id"])
        own = device_of(device, partition)
        return Attacked(plan, partition, attacks.get(partition), own).to_client()

    final: dict[int, Arrays] = {}
    losses: list[Any] = []

    def keep(server_round: int, arrays: Arrays, config: Any) -> None:
        final[server_round] = [a.copy() for a in arrays]

    if not defended:  # the same batch orders as FAA-DL's, or the results could not be compared
        nonce = nonces(strategy_args.pop("seed"))
        strategy_args["on_fit_config_fn"] = lambda server_round: {NONCE: nonce(server_round)}

    class Logged(strategy_class if defended else LegacyFedAvg):  # type: ignore[misc]
        def aggregate_evaluate(self, *args: Any) -> Any:
            losses.append(super().aggregate_evaluate(*args))
            return losses[-1]

        def aggregate_fit(self, server_round: int, *args: Any) -> Any:
            parameters, metrics[server_round] = super().aggregate_fit(server_round, *args)
            return parameters, {}

    metrics: dict[int, Any] = {}
    strategy = wrap(
        Logged(
            initial_parameters=ndarrays_to_parameters(plan.initial_arrays(0)),
            evaluate_fn=keep,
            min_available_clients=nodes,
            min_fit_clients=nodes,
            **strategy_args,
        )
    )
    app = LegacyServerApp(
        server_fn=lambda context: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))
    )
    grid = LocalGrid(ClientApp(client_fn=client_fn), nodes, faults=faults)
    run_server_app(app, grid)
    return Outcome(final[rounds], getattr(strategy, "reports", []), metrics, grid, losses)


def run_message(
    plan: TrainingPlan = PLANS["mlp"],
    nodes: int = 6,
    rounds: int = 2,
    attacks: Mapping[int, Attack] = {},
    faults: Mapping[int, Fault] | None = None,
    defended: bool = True,
    strategy_class: type[FAADL] = FAADL,
    device: Device | Callable[[int], Device] | None = None,
    wrap: Callable[[Any], Any] = lambda strategy: strategy,
    **strategy_args: Any,
) -> Outcome:
    """Message API: ClientApp with @train, @query("verify") and @evaluate."""
    app = ClientApp()

    def side(context: Context) -> tuple[verifiable, Attack | None]:
        partition = int(context.node_config["partition-id"])
        own = device_of(device, partition)
        client = verifiable(
            plan, seen_by(plan, slice_of(partition)), plaintext=True, device=own, answers=answers_of(own)
        )
        return client, attacks.get(partition)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        honest, attack = side(context)
        reply = honest.train(msg, context)
        if attack:
            record = reply.content["arrays"]
            model = [a.numpy() for a in msg.content["arrays"].values()]
            sent = attack(model, [a.numpy() for a in record.values()])
            reply.content["arrays"] = ArrayRecord({k: Array(a) for k, a in zip(record, sent, strict=True)})
        return reply

    @app.query("verify")
    def verify(msg: Message, context: Context) -> Message:
        return side(context)[0].verify(msg, context)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 40, "accuracy": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=msg)

    class Ordered(FedAvg):
        def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Grid) -> Any:
            config[NONCE] = nonce(server_round)
            return super().configure_train(server_round, arrays, config, grid)

    nonce = nonces(strategy_args.pop("seed")) if not defended else None
    server = ServerApp()
    names = list(plan.model().state_dict())
    outcome: dict[str, Any] = {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = wrap(
            (strategy_class if defended else Ordered)(min_available_nodes=nodes, min_train_nodes=nodes, **strategy_args)
        )
        start = ArrayRecord({n: Array(a) for n, a in zip(names, plan.initial_arrays(0), strict=True)})
        outcome["result"] = strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds)
        outcome["reports"] = getattr(strategy, "reports", [])

    grid = LocalGrid(app, nodes, faults=faults)
    run_server_app(server, grid)
    result = outcome["result"]
    return Outcome(
        [result.arrays[n].numpy() for n in names],
        outcome["reports"],
        dict(result.train_metrics_clientapp),
        grid,
        list(result.evaluate_metrics_clientapp.values()),
    )


RUNNERS = {"legacy": run_legacy, "message": run_message}


def closeness(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    x, y = (np.concatenate([p.ravel().astype(np.float64) for p in arrays]) for arrays in (a, b))
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def evidence_fault(change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    def fault(message: Message) -> Message | None:
        return change(message) if message.metadata.message_type in ("query.verify", "get_properties") else message

    return fault


def edited(change: Callable[[bytes], bytes]) -> Callable[[Message], Message]:
    """A node's evidence, changed on its way."""

    def fault(message: Message) -> Message:
        for record in message.content.array_records.values():
            for key in record:
                record[key] = Array(np.frombuffer(change(record[key].numpy().tobytes()), np.uint8).copy())
        for config in message.content.config_records.values():
            for key, value in config.items():
                if isinstance(value, bytes):
                    config[key] = change(value)
        return message

    return fault
