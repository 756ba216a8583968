"""Strategies as other people write them: small imitations of what public projects and Flower's baselines do."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common import FitIns, FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import FedAvg

from flwr_faa import FAADL, legacy, protect
from flwr_faa.detection import MultiView
from flwr_faa.detection.base import Detection
from flwr_faa.replies.updates import Batch
from tests.helpers.models import Model, trained
from tests.helpers.rounds import IDS, Answer, legacy_rounds, message_rounds, record

START: Model = {"fc.weight": np.zeros((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)}
RUN: dict[str, Callable[..., list[Model]]] = {"message": message_rounds, "legacy": legacy_rounds}
BOTH = pytest.mark.parametrize("api", RUN)
POISONER = IDS[2]


def client(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
    rng = np.random.default_rng(node)
    step = -90 if node == POISONER else 1
    moved = {k: w + (step * rng.normal(1, 0.1, w.shape)).astype(np.float32) for k, w in model.items()}
    return moved, {"num-examples": 10}


class Lengths:
    """Suspects nobody and keeps the largest change that it was shown."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def detect(self, batch: Batch, seed: int) -> Detection:
        self.largest.append(float(np.abs(batch.updates).max()))
        return Detection(np.zeros(len(batch)), 0.0, (), ("",) * len(batch))

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        return ()


class Lookahead(FedAvg):
    """Sends another model than the one that it is given: here, one that is far ahead of it."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        ahead = record({k: a.numpy() + np.float32(1000) for k, a in arrays.items()})
        return super().configure_train(server_round, ahead, config, grid)


class LegacyLookahead(LegacyFedAvg):
    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        ahead = ndarrays_to_parameters([a + np.float32(1000) for a in parameters_to_ndarrays(parameters)])
        return super().configure_fit(server_round, ahead, client_manager)


class OtherName(Lookahead):
    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        for message in super().configure_train(server_round, arrays, config, grid):
            yield Message(
                RecordDict({"net": message.content["arrays"]}),
                dst_node_id=message.metadata.dst_node_id,
                message_type="train",
            )


@BOTH
def test_updates_are_differences_to_what_was_sent(api: str) -> None:
    for cls in {"message": [Lookahead, OtherName], "legacy": [LegacyLookahead]}[api]:
        seen = Lengths()
        found = RUN[api](protect(cls(), detector=seen), START, lambda m, n: client(m, IDS[0]), rounds=3)
        assert max(seen.largest) < 2
        np.testing.assert_allclose(found[-1]["fc.bias"], 3003, rtol=1e-3)

    def broken(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        return {k: np.full_like(w, np.nan) for k, w in model.items()}, {"num-examples": 10}

    # With nobody accepted, what was sent stays.
    protected = protect({"message": Lookahead, "legacy": LegacyLookahead}[api]())
    RUN[api](protected, START, client, rounds=1)
    np.testing.assert_allclose(RUN[api](protected, START, broken, rounds=1)[0]["fc.bias"], 1000)


class Personal(FedAvg):
    """Sends each node a model of its own."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for i, m in enumerate(messages):
            m.content = RecordDict(dict(m.content))
            m.content["arrays"] = record({k: a.numpy() + np.float32(i) for k, a in arrays.items()})
        return messages


class LegacyPersonal(LegacyFedAvg):
    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        found = super().configure_fit(server_round, parameters, client_manager)
        model = parameters_to_ndarrays(parameters)
        return [
            (proxy, FitIns(ndarrays_to_parameters([a + np.float32(i) for a in model]), ins.config))
            for i, (proxy, ins) in enumerate(found)
        ]


@BOTH
def test_different_models_for_the_nodes_are_refused(api: str) -> None:
    own = {"message": Personal, "legacy": LegacyPersonal}[api]()
    with pytest.raises(ValueError, match="expected a strategy that sends all nodes the same model"):
        RUN[api](protect(own), START, client)


class Remembers(FedAvg):
    """Asks the nodes that it found in its first round, by its own list."""

    nodes: list[int] | None = None

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        self.nodes = self.nodes or [101, *grid.get_node_ids()]
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content, dst_node_id=node, message_type="train") for node in sorted(set(self.nodes))]

    configure_evaluate = configure_train


class LegacyRemembers(LegacyFedAvg):
    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        return [(proxy, FitIns(parameters, {})) for proxy in client_manager.clients.values()]


@BOTH
def test_the_banned_are_out_whatever_the_projects_own_sampling_remembers(api: str) -> None:
    protected = protect({"message": Remembers, "legacy": LegacyRemembers}[api](), detector=Lengths())
    protected.defence.ledger._bans[101] = "convicted before"
    RUN[api](protected, START, client, rounds=2)
    assert {v.node_id for r in protected.reports for v in r.nodes} == set(IDS) - {101}


class ByFraction(SimpleClientManager):
    """A manager of the project's own, without Flower's way of sampling (FL4Health)."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("use sample_fraction")

    def sample_fraction(self, fraction: float) -> list[Any]:
        return list(self.all().values())[: int(fraction * self.num_available())]


class AsksItsManager(LegacyFedAvg):
    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        if isinstance(client_manager, ByFraction):
            return [(proxy, FitIns(parameters, {})) for proxy in client_manager.sample_fraction(1.0)]
        return super().configure_fit(server_round, parameters, client_manager)


@pytest.mark.parametrize("banned", [set(), {IDS[0]}])
def test_a_client_manager_of_the_projects_own(banned: set[int]) -> None:
    protected = protect(AsksItsManager(), detector=Lengths())
    protected.defence.ledger._bans.update(dict.fromkeys(banned, "convicted before"))
    legacy_rounds(protected, START, client, rounds=2, manager=ByFraction())
    assert all({v.node_id for v in r.nodes} == set(IDS) - banned for r in protected.reports)


@BOTH
def test_one_strategy_may_run_again_with_another_model(api: str) -> None:
    """As a search for hyperparameters does."""
    own = {"message": FedAvg, "legacy": LegacyFedAvg}[api]()
    for strategy in (protect(own), {"message": FAADL, "legacy": legacy.FAADL}[api]()):
        for start in (START, {"other": np.ones((3, 3), np.float32), "counter": np.array(3)}):
            found = RUN[api](strategy, start, lambda m, n: (trained(m, n), {"num-examples": 10}), rounds=2)
            assert found[-1].keys() == start.keys()
        assert [r.round for r in strategy.reports] == [1, 2, 1, 2] and all(r.accepted for r in strategy.reports)


def statistics(base: Any) -> Any:
    """Has metrics whose names differ by client, and a function of them that returns no dict (Flower's StatAvg)."""

    class Statistics(base):  # type: ignore[misc]
        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            parameters, self.told = super().aggregate_fit(server_round, results, failures)
            return parameters, {}

    return Statistics(fit_metrics_aggregation_fn=lambda pairs: [dict(m) for _, m in pairs])


@pytest.mark.parametrize("make", [lambda: protect(statistics(LegacyFedAvg)), lambda: statistics(legacy.FAADL)])
def test_a_function_of_metrics_may_return_what_its_own_class_wants(make: Callable[[], Any]) -> None:
    strategy = make()

    def told(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        moved, metrics = client(model, IDS[0])
        return moved, {**metrics, f"mean of {node}": 1.5, "scaler": b"raw"}

    legacy_rounds(strategy, START, told, rounds=1)
    assert strategy.told == [{f"mean of {node}": 1.5, "scaler": b"raw"} for node in IDS]


class Forest(LegacyFedAvg):
    """Sends pickled trees as bytes, and joins them."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        return results[0][1].parameters, {}


@pytest.mark.parametrize("make", [lambda: protect(Forest()), legacy.FAADL])
def test_trees_as_bytes_are_refused_before_the_first_round(make: Callable[[], Any]) -> None:
    trees = {"trees": np.frombuffer(pickle.dumps([0.5, 0.7]), np.uint8)}
    with pytest.raises(ValueError, match=r"expected a model with arrays of floats, .* got uint8 only: trees"):
        legacy_rounds(make(), trees, client)
    if make is legacy.FAADL:
        with pytest.raises(ValueError, match="got uint8 only"):
            message_rounds(FAADL(), trees, client)


class Gradients(LegacyFedAvg):
    """Its clients send what they add to the model, not the model (Flower's FedNova)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = list(START.values())

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        steps = [parameters_to_ndarrays(r.parameters) for _, r in results]
        self.model = [w + np.mean(step, axis=0) for w, step in zip(self.model, zip(*steps, strict=True), strict=True)]
        return ndarrays_to_parameters(self.model), {}


def test_clients_that_send_their_step_instead_of_the_model_are_told_apart() -> None:
    def step(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        moved, metrics = client(model, node)
        return {k: moved[k] - w for k, w in model.items()}, metrics

    protected = protect(Gradients(), detector=MultiView())
    found = legacy_rounds(protected, START, step, rounds=3)
    assert all(POISONER not in {v.node_id for v in r.accepted} for r in protected.reports)
    np.testing.assert_allclose(found[-1]["fc.bias"], 3, rtol=0.2)


class Controls(FedAvg):
    """Sends control variates beside the model, and gets them back (SCAFFOLD)."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for m in messages:
            m.content["controls"] = record({k: np.zeros_like(a.numpy()) for k, a in arrays.items()})
        return messages


def test_two_array_records_in_a_reply_are_refused_in_the_first_round() -> None:
    def both(answer: Answer) -> Answer:
        return {**answer, "controls": answer["arrays"]}

    with pytest.raises(RuntimeError, match=r"6 x rejected .*expected one ArrayRecord and one Metric\w+, got 2"):
        message_rounds(protect(Controls()), START, client, edit=dict.fromkeys(IDS, both))


class DropsStragglers(LegacyFedAvg):
    """Keeps who says that it is no straggler (Flower's FedProx)."""

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        kept = [(proxy, r) for proxy, r in results if not r.metrics["straggler"]]
        return super().aggregate_fit(server_round, kept, failures)


@pytest.mark.parametrize("late", [{101}, set(IDS)])
def test_a_rule_that_drops_some_itself_or_all(late: set[int]) -> None:
    def told(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        moved, metrics = client(model, IDS[0])
        return moved, {**metrics, "straggler": node in late}

    found = legacy_rounds(protect(DropsStragglers()), START, told, rounds=2)
    assert found[-1]["fc.bias"].any() == (len(late) == 1)


class Doubles(LegacyFedAvg):
    """Returns other arrays than were broadcast."""

    def aggregate_fit(self, server_round: int, results: list[tuple[Any, FitRes]], failures: Any) -> Any:
        return ndarrays_to_parameters(parameters_to_ndarrays(results[0][1].parameters) * 2), {}


def test_a_rule_that_returns_another_model_is_told() -> None:
    with pytest.raises(ValueError, match="expected the strategy to return the arrays that were broadcast, got others"):
        legacy_rounds(protect(Doubles()), START, client)
