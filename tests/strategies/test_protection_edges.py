"""The edges of ``protect`` and ``FAADL``: a project's own state, names, copies, records, metrics, late enrolment."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg, Result

from flwr_faa import FAADL, defence, legacy, protect
from flwr_faa.defence import ENROL_SECONDS, Defence
from tests.helpers.federation import run_message
from tests.helpers.models import Model
from tests.helpers.rounds import IDS, Answer, legacy_rounds, message_rounds
from tests.helpers.toy import PLANS

START: Model = {"fc.weight": np.zeros((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)}
RUN: dict[str, Callable[..., list[Model]]] = {"message": message_rounds, "legacy": legacy_rounds}
BOTH = pytest.mark.parametrize("api", RUN)


def client(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
    rng = np.random.default_rng(node)
    return {k: w + rng.normal(1, 0.1, w.shape).astype(w.dtype) for k, w in model.items()}, {"num-examples": 10}


class Own(FedAvg):
    """A project's class that has our names for things of its own, and remembers its best round."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._model, self._asked, self._metrics, self._own, self._guard = "net", 1, [0.5], "mine", "dog"
        self.reports: list[str] = ["their own report"]
        self.best = 0.0

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        assert (self._model, self._asked, self._metrics, self._own, self._guard) == ("net", 1, [0.5], "mine", "dog")
        self.reports.append(f"round {server_round}")
        self.best = float(server_round)
        return super().aggregate_train(server_round, replies)


class LegacyOwn(LegacyFedAvg):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._model, self._asked, self._metrics, self._own, self._guard = "net", 1, [0.5], "mine", "dog"
        self.reports: list[str] = ["their own report"]
        self.best = 0.0

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        assert (self._model, self._asked, self._metrics, self._own, self._guard) == ("net", 1, [0.5], "mine", "dog")
        self.reports.append(f"round {server_round}")
        self.best = float(server_round)
        return super().aggregate_fit(server_round, results, failures)


OWN: dict[str, Any] = {"message": Own, "legacy": LegacyOwn}


@BOTH
def test_the_object_that_the_user_holds_has_the_state_and_its_own_names(api: str) -> None:
    mine = OWN[api]()
    protected = protect(mine)
    RUN[api](protected, START, client, rounds=2)
    assert mine.best == protected.best == 2.0
    assert mine.reports == ["their own report", "round 1", "round 2"]
    assert [r.round for r in protected.reports] == [1, 2]
    protected.best = 7.0  # as a callback that holds the protected one would
    assert mine.best == 7.0 and protected._own == "mine" and protected._model == "net"


class OwnStart(Own):
    """Overrides ``start``, as Flower's advanced-pytorch does."""

    def start(self, grid: Any, initial_arrays: ArrayRecord, num_rounds: int = 3, **more: Any) -> Result:
        assert isinstance(self, OwnStart) and self.__class__.__name__ == "OwnStart"
        self.history: list[int] = []
        self.reports = []  # the project's own, not ours
        arrays, result = initial_arrays, Result()
        for server_round in range(1, num_rounds + 1):
            replies = grid.send_and_receive(self.configure_train(server_round, arrays, ConfigRecord(), grid))
            new, metrics = self.aggregate_train(server_round, replies)
            arrays = new or arrays
            result.train_metrics_clientapp[server_round] = metrics
            self.history.append(server_round)
            assert self._own == "mine"
        result.arrays = arrays
        return result


class SuperStart(Own):
    def start(self, *args: Any, **kwargs: Any) -> Result:
        self.history = ["before"]
        result: Result = super().start(*args, **kwargs)
        self.history.append("after")
        return result


@pytest.mark.parametrize("cls", [OwnStart, SuperStart])
def test_a_start_of_ones_own_calls_what_is_defended(cls: type[Own]) -> None:
    made: list[Any] = []

    def wrap(strategy: Any) -> Any:
        made.extend([strategy, protect(strategy, seed=1)])
        return made[1]

    def poison(model: Any, honest: Any) -> Any:
        return [w - 50 * (a - w) for a, w in zip(honest, model, strict=True)]

    run = run_message(PLANS["logistic"], nodes=10, attacks={1: poison}, strategy_class=cls, rounds=2, wrap=wrap)
    own, protected = made
    assert own.history and own.best == 2.0
    assert len(run.reports) == 2 and [r.round for r in protected.reports] == [1, 2]
    assert all(run.grid.node_ids[1] not in {v.node_id for v in r.accepted} for r in run.reports)
    assert own.reports[-2:] == ["round 1", "round 2"] and run.metrics[1]["faa-accepted"] == 9


MAKE: dict[str, Callable[[], Any]] = {
    "message": lambda: protect(Own(), seed=3),
    "legacy": lambda: protect(LegacyOwn(), seed=3),
    "message FAADL": lambda: FAADL(seed=3),
    "legacy FAADL": lambda: legacy.FAADL(seed=3),
}


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])  # noqa: S301
@pytest.mark.parametrize("which", MAKE)
def test_a_copy_goes_on_by_itself(which: str, clone: Callable[[Any], Any]) -> None:
    strategy, run = MAKE[which](), RUN[which.split(maxsplit=1)[0]]
    run(strategy, START, client, rounds=2)
    twin = clone(strategy)
    assert type(twin) is type(strategy) and isinstance(twin, strategy.__class__)
    assert [r.to_json() for r in twin.reports] == [r.to_json() for r in strategy.reports]
    if clone is copy.copy:
        return  # it shares what it is made of, as any shallow copy
    assert len(run(twin, START, client, rounds=1)) == 1
    assert len(twin.reports) == 3 and len(strategy.reports) == 2


def test_what_cannot_be_copied_says_so_itself() -> None:
    mine = Own(train_metrics_aggr_fn=lambda contents, key: MetricRecord())
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(protect(mine))
    assert copy.deepcopy(protect(mine)).best == 0.0


def test_records_in_any_order_and_by_any_name() -> None:
    def reversed_arrays(answer: Answer) -> Answer:
        arrays, metrics = answer.values()
        return {"numbers": metrics, "a model": ArrayRecord({k: arrays[k] for k in reversed(list(arrays))})}

    def renamed(answer: Answer) -> Answer:
        arrays, metrics = answer.values()
        return {"net": arrays, "scores": metrics}

    expected = message_rounds(FedAvg(), START, client)[-1]
    odd = {IDS[0]: reversed_arrays, IDS[3]: renamed, IDS[4]: renamed}
    for strategy in (protect(FedAvg()), FAADL()):
        found = message_rounds(strategy, START, client, edit=odd)[-1]
        assert all(len(r.accepted) == len(IDS) for r in strategy.reports)
        assert list(found) == list(START)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6)


METRICS: list[Mapping[int, Any]] = [
    {0: math.nan, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0},
    {0: "good", 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0},
    dict.fromkeys(range(6), math.nan),
    dict.fromkeys(range(6), "good"),
    {0: [1.0, 2.0], 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0},
    {0: True, 1: 3, 2: 1.0, 3: math.inf, 4: 10**18, 5: b"raw"},
]


@BOTH
@pytest.mark.parametrize("ours", ["protect", "FAADL"])
@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("values", METRICS)
def test_a_metric_of_any_kind_costs_the_metric_at_most(
    api: str, ours: str, differ: bool, values: Mapping[int, Any]
) -> None:
    def told(model: Model, node: int) -> tuple[Model, dict[str, Any]]:
        arrays, metrics = client(model, node)
        value = values[node - IDS[0]]
        if api == "message" and isinstance(value, str | bytes | bool):
            value = float(len(str(value)))  # Flower's records hold numbers only
        return arrays, {**metrics, f"metric of {node}" if differ else "metric": value}

    def mean(pairs: list[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
        return {name: [m.get(name) for _, m in pairs] for _, m in pairs for name in m} and {}

    legacy_settings = {"fit_metrics_aggregation_fn": mean} if api == "legacy" else {}
    plain = {"message": FedAvg, "legacy": LegacyFedAvg}[api]
    cls = {"message": FAADL, "legacy": legacy.FAADL}[api]
    strategy = protect(plain(**legacy_settings)) if ours == "protect" else cls(**legacy_settings)
    if (api, ours, differ) == ("message", "protect", True):  # Flower's FedAvg takes no names that differ
        for same in (strategy, FedAvg()):
            with pytest.raises(InconsistentMessageReplies, match="All MetricRecords must have the same keys"):
                message_rounds(same, START, told, rounds=1)
        return
    RUN[api](strategy, START, told, rounds=2)
    assert [len(r.accepted) for r in strategy.reports] == [len(IDS)] * 2


def test_what_averages_no_arrays_is_refused_by_whatever_name() -> None:
    from flwr.serverapp.strategy import FedXgbBagging

    class Trees(FedXgbBagging):
        pass

    with pytest.raises(TypeError, match="combines arrays, got FedXgbBagging"):
        protect(Trees())
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping as Private

    with pytest.raises(TypeError, match=r"protect the strategy inside it, Differential\w+\(protect\(strategy\), ...\)"):
        protect(Private(FedAvg(), 0.1, 1.0, 5))


class Slow:
    """Enrols who has worked long enough; time passes only while somebody waits for it."""

    name, simulation_only, notes, enrol_timeout = "slow", False, (), 600.0

    def __init__(self, needs: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.needs, self.now, self.enrolled = needs, 0.0, set[int]()
        monkeypatch.setattr(defence.time, "monotonic", lambda: self.now)

    def enrolment(self, node_id: int) -> bytes | None:
        return None if node_id in self.enrolled else b"?"

    def enrol(self, node_id: int, answer: bytes) -> None:
        self.enrolled.add(node_id)

    def samples(self, node_id: int) -> int | None:
        return None

    def challenge(self, case: Any) -> bytes:
        return b"?"

    def judge(self, case: Any, evidence: bytes) -> Any:
        raise AssertionError("nobody is asked")

    def ask(self, requests: Mapping[int, bytes], timeout: float) -> dict[int, bytes | str]:
        last = max(self.needs.get(node, 0.0) for node in requests)
        self.now = min(self.now + timeout, max(self.now, last))
        return {node: b"!" for node in requests if self.needs.get(node, 0.0) <= self.now}


def test_a_silent_node_stalls_nobody_and_a_slow_honest_one_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = list(range(8))
    slow = Slow({6: 100.0, 7: math.inf}, monkeypatch)
    defended = Defence(None, slow, None, None, 1.0, 1)
    waits, out = [], []
    for _ in range(12):
        before = slow.now
        out.append(set(defended.enrol(nodes, slow.ask)))
        waits.append(slow.now - before)
        slow.now += 60.0  # a round
    assert out[0] <= {6, 7} and waits[0] <= ENROL_SECONDS
    assert out[-1] == {7} and 6 in slow.enrolled
    # Asked after 1, 2, 4 rounds: of a dozen rounds, few wait for a node that never answers.
    assert sum(w > 0 for w in waits) <= 4


def test_when_all_are_slow_the_first_round_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(dict.fromkeys(range(4), 400.0), monkeypatch)
    assert Defence(None, slow, None, None, 1.0, 1).enrol(range(4), slow.ask) == {}
    assert slow.now == 400.0
