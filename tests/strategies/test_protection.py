"""A project's own strategy behind FAA-DL: its sampling, aggregation and metrics; only the removed are out of sight."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.strategy import FedMedian as LegacyFedMedian
from flwr.serverapp.strategy import FedAdam, FedAvg

from flwr_faa import FAADL, protect
from flwr_faa.report import Outcome
from flwr_faa.verification.replay import Replay
from tests.helpers.federation import RUNNERS, closeness, sign_flip
from tests.helpers.toy import PLANS

PLAN = PLANS["logistic"]
BOTH = pytest.mark.parametrize("api", RUNNERS)
SEEN: list[tuple[int, ...]] = []


def median(replies: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.median(arrays, axis=0).astype(np.float32) for arrays in zip(*replies, strict=True)]


class Median(FedAvg):
    """Asks for a rate of its own in configs of its own, aggregates by medians, and keeps count."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content[self.configrecord_key] = type(config)({"server-round": server_round, "mine": 7})
        return messages

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        SEEN.append(tuple(m.metadata.src_node_id for m in replies))
        records = [m.content["arrays"] for m in replies]
        new = median([[a.numpy() for a in r.values()] for r in records])
        examples = [m.content["metrics"]["num-examples"] for m in replies]
        metrics = MetricRecord({"most-examples": max(examples), "mine": len(replies)})
        return ArrayRecord({k: Array(a) for k, a in zip(records[0], new, strict=True)}), metrics


class LegacyMedian(LegacyFedAvg):
    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        assert len(client_manager.all()) == client_manager.num_available()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        SEEN.append(tuple(int(c.cid) for c, _ in results))
        new = median([parameters_to_ndarrays(r.parameters) for _, r in results])
        examples = [r.num_examples for _, r in results]
        return ndarrays_to_parameters(new), {"most-examples": max(examples), "mine": len(results)}


OWN = {"message": Median, "legacy": LegacyMedian}


@BOTH
def test_the_projects_own_rule_sees_the_kept_and_only_them(api: str) -> None:
    SEEN.clear()
    run = RUNNERS[api](
        PLAN, attacks={1: sign_flip}, strategy_class=OWN[api], rounds=2,
        wrap=lambda own: protect(own, verifier=Replay(PLAN), seed=5),
    )  # fmt: skip
    attacker = run.grid.node_ids[1]
    assert [v.node_id for v in run.reports[0].convicted] == [attacker]
    assert [tuple(sorted(set(run.grid.node_ids) - {attacker}))] * 2 == SEEN
    assert run.metrics[1]["mine"] == 5

    # By hand: the median of what the five honest nodes send, twice, with the batch order that they were told.
    from tests.helpers.federation import nonces
    from tests.helpers.toy import slice_of

    arrays = PLAN.initial_arrays(0)
    for server_round in (1, 2):
        nonce = nonces(5)(server_round)
        arrays = median([PLAN.train(arrays, slice_of(i), nonce) for i in range(6) if i != 1])
    assert closeness(run.arrays, arrays) < 1e-6


@BOTH
def test_nobody_weighs_what_it_claims_to(api: str) -> None:
    def greedy(message: Any) -> Any:
        if message.metadata.message_type == "train":
            for metric in message.content.metric_records.values():
                for key in metric:
                    if "examples" in key:
                        metric[key] = 10**8
        return message

    run = RUNNERS[api](PLAN, strategy_class=OWN[api], rounds=1, faults={2: greedy}, wrap=protect)
    assert run.metrics[1]["most-examples"] == 3 * 40


@BOTH
def test_replies_that_would_break_the_projects_class_cost_their_sender_the_round(api: str) -> None:
    def odd(message: Any) -> Any:
        if message.metadata.message_type == "train":
            for metric in message.content.metric_records.values():
                metric["stray"] = 1.0
            for config in message.content.config_records.values():
                if "metric" in str(config.keys()) or api == "legacy":
                    config["stray"] = 1.0
        return message

    attacks = {4: lambda model, honest: [np.full_like(a, np.nan) for a in honest]}
    own = OWN[api]
    run = RUNNERS[api](PLAN, nodes=8, strategy_class=own, attacks=attacks, faults={2: odd}, rounds=2, wrap=protect)
    for report in run.reports:
        assert {run.grid.node_ids[4]} <= {v.node_id for v in report.having(Outcome.REJECTED)}
    assert all(np.isfinite(a).all() for a in run.arrays)


def test_flowers_own_subclasses_keep_their_class_and_their_state() -> None:
    own: list[FedAdam] = []

    def wrap(strategy: FedAdam) -> FedAdam:
        own.append(protect(strategy, verifier=Replay(PLAN), seed=5))
        return own[0]

    run = RUNNERS["message"](PLAN, attacks={1: sign_flip}, strategy_class=FedAdam, rounds=2, wrap=wrap)
    assert isinstance(own[0], FedAdam) and own[0].m_t is not None
    assert [v.node_id for v in run.reports[0].convicted] == [run.grid.node_ids[1]]
    run_legacy = RUNNERS["legacy"](PLAN, nodes=10, attacks={3: sign_flip}, strategy_class=LegacyFedMedian, wrap=protect)
    assert run_legacy.grid.node_ids[3] in {v.node_id for v in run_legacy.reports[0].having(Outcome.REMOVED)}


def test_the_strategy_given_is_left_alone() -> None:
    mine = Median(fraction_train=0.5)
    twin = protect(mine)
    assert type(mine) is Median and not hasattr(mine, "reports")
    assert isinstance(twin, Median) and twin.fraction_train == 0.5 and twin.reports == []


@pytest.mark.parametrize("wrong", [FAADL(), protect(Median()), object()])
def test_what_cannot_be_protected(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a FedAvg"):
        protect(wrong)
