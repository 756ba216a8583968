"""Every strategy of Flower's, defended, in a federation of ten of which one is a poisoner.

Ten clients train a softmax regression for three rounds, each on its own sixty of scikit-learn's digits; one sends its
update times -10. Both APIs are tried, with real messages.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flwr.server.strategy as legacy_strategies
import flwr.serverapp.strategy as message_strategies
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import adaptiveclipping_mod as legacy_adaptive
from flwr.client.mod import fixedclipping_mod as legacy_fixed
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp as LegacyServerApp
from flwr.server import ServerAppComponents, ServerConfig
from flwr.serverapp import Grid, ServerApp

from apps.lab.markdown import untitled
from apps.lab.running.local_grid import node_of, run_server_app
from apps.studies.compat.outcome import Kind, Notes, Outcome, Watched, outcome
from flwr_faa import FAADL, legacy, protect
from flwr_lomar import LoMar, LoMarDetector
from flwr_lomar.legacy import LoMar as LegacyLoMar

CLIENTS, ROUNDS, SAMPLES, POISONER = 10, 3, 60, 9
MODULES: dict[str, Any] = {"message": message_strategies, "legacy": legacy_strategies}
OURS: dict[str, dict[str, Any]] = {
    "message": {"FAADL": FAADL, "LoMar": LoMar},
    "legacy": {"FAADL": legacy.FAADL, "LoMar": LegacyLoMar},
}
#: Exported with the strategies, but none.
NONE = {"Result", "Strategy"}
#: What classes must be told.
NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    "message": {"FedProx": {"proximal_mu": 0.1}, "QFedAvg": {"client_learning_rate": 0.1}},
    "legacy": {"FedProx": {"proximal_mu": 0.1}},
}
DP = {"noise_multiplier": 0.01, "num_sampled_clients": CLIENTS}
#: What stands around another strategy, and what it must be told.
AROUND: dict[str, dict[str, Any]] = {
    "DifferentialPrivacyClientSideAdaptiveClipping": DP,
    "DifferentialPrivacyClientSideFixedClipping": DP | {"clipping_norm": 5.0},
    "DifferentialPrivacyServerSideAdaptiveClipping": DP,
    "DifferentialPrivacyServerSideFixedClipping": DP | {"clipping_norm": 5.0},
    "DPFedAvgAdaptive": DP,
    "DPFedAvgFixed": DP | {"clip_norm": 5.0},
}
#: What the clients of some must have beside their training.
MODS: dict[str, dict[str, Any]] = {
    "message": {"ClientSideAdaptive": adaptiveclipping_mod, "ClientSideFixed": fixedclipping_mod},
    "legacy": {"ClientSideAdaptive": legacy_adaptive, "ClientSideFixed": legacy_fixed},
}

Arrays = list[np.ndarray]
Strategy = Any


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    samples, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return samples[order].astype(np.float32) / 16, labels[order]


def initial() -> Arrays:
    """Return a softmax regression: weight, shape (10, 64), and bias, shape (10,)."""
    return [np.random.default_rng(0).normal(0, 0.01, (10, 64)).astype(np.float32), np.zeros(10, np.float32)]


def trained(arrays: Arrays, partition: int) -> Arrays:
    """Return what a client sends: its model after one epoch; the poisoner sends one far on the other side."""
    samples, labels = (a[partition * SAMPLES : (partition + 1) * SAMPLES] for a in _digits())
    weight, bias = (np.array(a, np.float32) for a in arrays)
    for batch in np.split(np.arange(SAMPLES), 6):
        logits = samples[batch] @ weight.T + bias
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = chances / chances.sum(axis=1, keepdims=True) - np.eye(10, dtype=np.float32)[labels[batch]]
        weight -= np.float32(0.1) * error.T @ samples[batch] / len(batch)
        bias -= np.float32(0.1) * error.mean(axis=0)
    honest = [weight, bias]
    if partition != POISONER:
        return honest
    return [np.asarray(w - 10 * (own - w), np.float32) for own, w in zip(honest, arrays, strict=True)]


class _Client(NumPyClient):
    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters: Arrays, config: Any) -> Any:
        asked = {"dpfedavg_norm_bit": True} if "dpfedavg_clip_norm" in config else {}  # of DPFedAvgAdaptive's clients
        return trained(parameters, self.partition), SAMPLES, {"train_loss": 1.0, **asked}

    def evaluate(self, parameters: Arrays, config: Any) -> Any:
        return 1.0, SAMPLES, {"accuracy": 0.5}


def _clients(api: str, mods: list[Any]) -> ClientApp:
    if api == "legacy":
        return ClientApp(lambda context: _Client(int(context.node_config["partition-id"])).to_client(), mods=mods)
    app = ClientApp(mods=mods)

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        record = next(iter(msg.content.array_records.values()))
        arrays = trained(record.to_numpy_ndarrays(), int(context.node_config["partition-id"]))
        metrics = MetricRecord({"num-examples": SAMPLES, "train_loss": 1.0})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": SAMPLES, "loss": 1.0})}), reply_to=msg)

    return app


def run(api: str, name: str, make: Callable[[], Strategy]) -> Outcome:
    """Run a federation under a strategy.

    Parameters
    ----------
    api : {"message", "legacy"}
    name : str
        The class's, which says what the clients must have beside their training.
    make : callable
        Constructs the strategy.
    """
    mods = [mod for part, mod in MODS[api].items() if part in name]
    grid = Watched(_clients(api, mods), CLIENTS)

    def go() -> list[Any]:
        strategy = make()
        if api == "legacy":
            components = ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))
            run_server_app(LegacyServerApp(server_fn=lambda context: components), grid)
        else:
            server = ServerApp()

            @server.main()
            def main(grid: Grid, context: Context) -> None:
                strategy.start(grid=grid, initial_arrays=ArrayRecord(initial()), num_rounds=ROUNDS)

            run_server_app(server, grid)
        defended = (strategy, getattr(strategy, "strategy", None))
        return [found for s in defended if (found := getattr(s, "reports", None)) is not None]

    return outcome(go, grid, node_of(POISONER))


def names(api: str) -> list[str]:
    """Return the strategies of one of Flower's APIs, as its package exports them."""
    return sorted(set(MODULES[api].__all__) - NONE)


def made(api: str, name: str, inner: Strategy | None = None) -> Strategy:
    """Construct a strategy, of Flower's or ours; around ``inner`` (default: FedAvg) what stands around another one."""
    if name in AROUND:
        return getattr(MODULES[api], name)(inner or made(api, "FedAvg"), **AROUND[name])
    cls = OURS[api].get(name) or getattr(MODULES[api], name)
    # Legacy optimisers step from the parameters that they are constructed with.
    start = {"initial_parameters": ndarrays_to_parameters(initial())} if api == "legacy" else {}
    return cls(**NEEDS[api].get(name, {}), **start)


def defended(api: str, name: str) -> dict[str, Callable[[], Strategy]]:
    """Return the ways to defend a strategy, by the column of its table."""
    if name in AROUND:
        return {
            "around FAADL()": lambda: made(api, name, made(api, "FAADL")),
            "around LoMar()": lambda: made(api, name, made(api, "LoMar")),
            "around protect(FedAvg())": lambda: made(api, name, protect(made(api, "FedAvg"))),
            "protect(it)": lambda: protect(made(api, name)),
        }
    if name in OURS[api]:
        return {"by itself": partial(made, api, name)}
    return {
        "protect(it)": lambda: protect(made(api, name)),
        "with LoMar's detector": lambda: protect(made(api, name), detector=LoMarDetector()),
    }


def measure() -> str:
    """Run all and return the tables."""
    notes, tables = Notes(), dict[tuple[str, ...], list[list[str]]]()
    gc.freeze()  # Flower collects garbage with every record that it reads: let it not walk through all that is imported
    for api in MODULES:
        for name in [*OURS[api], *names(api)]:
            ways = defended(api, name)
            found = [run(api, name, make) for make in ways.values()]
            fails = any(each.kind is Kind.FAILS for each in found)
            alone = run(api, name, partial(made, api, name)) if fails else None
            cells = [notes.cell(name, each, alone, ROUNDS) for each in found]
            tables.setdefault(tuple(ways), []).append([name, "Message" if api == "message" else api, *cells])
    texts = [untitled(["strategy", "API", *columns], lines) for columns, lines in tables.items()]
    return "\n\n".join([*texts, notes.text()])
