"""What the round makes of disclosure: whom audits prefer, and what follows from a node that cannot be asked."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from flwr_faa.detection import Detection, Everyone, MultiView, Sequential
from flwr_faa.pipeline import LEAST_CHANCE, Pipeline
from flwr_faa.replies.updates import Batch, Reply, read_replies
from flwr_faa.report import DataDisclosure, Outcome, RoundReport, describe
from flwr_faa.verification import replay
from flwr_faa.verification.base import Case, Exhausted
from flwr_faa.verification.replay import Replay
from tests.helpers.toy import PLANS, honest_replies, slice_of

PLAN = PLANS["mlp"]
START = PLAN.initial_arrays(0)
NONCE = 17


@dataclass(frozen=True)
class Counting(Replay):
    """A replay that knows how much of a budget of 16 is spent, by node, and may not ask some nodes."""

    spent: Mapping[int, int] = field(default_factory=dict)
    unaskable: frozenset[int] = frozenset()
    last_check: frozenset[int] = frozenset()

    def challenge(self, case: Case) -> bytes:
        if case.node_id in self.unaskable:
            raise Exhausted("no authority to ask")
        return super().challenge(case)

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        rank = self.spent.get(node_id)
        return None if rank is None else DataDisclosure(node_id, "ab", 40, 40, rank, 64, 16, 16 - rank, 1, 1)

    def affordable(self, node_id: int) -> float:
        return 1.5 if node_id in self.last_check else 4.0


@dataclass(frozen=True)
class Watching(Everyone):
    """Names everybody, and remembers the chances of being drawn."""

    chances: list[np.ndarray | None] = field(default_factory=list)

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        self.chances.append(batch.chances)
        return super().detect(batch, seed)


def answer(challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
    return {n: replay.answer(slice_of(1000 - n), c) for n, c in challenges.items()}


def run(replies: list[Reply], verifier: Replay, detector=None, seed: int = 3) -> tuple[list[np.ndarray], RoundReport]:
    pipeline = Pipeline(detector or Sequential(), verifier)
    return pipeline.run(1, replies, START, answer, nonce=NONCE, seed=seed)


@pytest.fixture(scope="module")
def honest() -> list[Reply]:
    return honest_replies(PLAN, START, NONCE, 8)


def test_whose_data_are_less_known_is_more_likely_to_be_audited_and_nobody_never(honest: list[Reply]) -> None:
    watching = Watching()
    spent = {1000: 0, 999: 8, 998: 14, 997: 16}
    _, report = run(honest, Counting(PLAN, spent=spent), watching)
    (chances,) = watching.chances
    by_node = dict(zip(sorted(r.node_id for r in honest), chances, strict=True))
    assert [by_node[n] for n in (1000, 999, 998, 997, 996)] == [1.0, 0.5, LEAST_CHANCE, LEAST_CHANCE, 1.0]
    assert [d.node_id for d in report.disclosures] == [997, 998, 999, 1000]
    told = describe(report.disclosures)
    assert "at most 16 of a sample's 64 dimensions known (node 997), the budget allows 16, 0 are left" in told
    free = [replace(d, budget=64, remaining=64) for d in report.disclosures]
    assert "at most 16 of a sample's 64 dimensions known (node 997), no budget limits it; " in describe(free)


def test_where_nothing_is_known_yet_all_chances_are_equal(honest: list[Reply]) -> None:
    watching = Watching()
    run(honest, Counting(PLAN, last_check=frozenset({999})), watching)
    assert watching.chances == [None]


def test_a_verifier_that_does_not_count_leaves_all_chances_equal(honest: list[Reply]) -> None:
    watching = Watching()
    _, report = run(honest, Replay(PLAN), watching)
    assert watching.chances == [None]
    assert (report.disclosures, describe(report.disclosures)) == ((), "")


def test_the_order_of_replies_changes_nothing_with_disclosure_either(honest: list[Reply]) -> None:
    verifier = Counting(PLAN, spent={r.node_id: r.node_id % 16 for r in honest})
    arrays, expected = run(honest, verifier)
    for shuffle in range(3):
        replies = honest[:]
        random.Random(shuffle).shuffle(replies)
        again, report = run(replies, verifier)
        assert report.nodes == expected.nodes and report.disclosures == expected.disclosures
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, again, strict=True))


def test_an_outage_leaves_out_who_would_be_without_a_verifier_and_nobody_else(
    honest: list[Reply],
) -> None:
    flipped = [Reply(r.node_id, [-a for a in r.arrays], r.num_examples) for r in honest[:3]]
    replies = [*flipped, *honest[3:]]
    everybody = frozenset(r.node_id for r in replies)
    _, report = run(replies, Counting(PLAN, unaskable=everybody))
    named = Sequential().detect(read_replies(replies, START), 3)
    grave = MultiView().detect(read_replies(replies, START))
    left_out = report.having(Outcome.EXHAUSTED)
    assert {v.node_id for v in left_out} == {report.nodes[0].node_id + row for row in grave.suspects}
    assert {r.node_id for r in flipped} <= {v.node_id for v in left_out}
    spared = [v for v in report.having(Outcome.TRUSTED) if v.reason.startswith("not asked, and suspected by less")]
    assert len(spared) == len(set(named.suspects) - set(grave.suspects)) > 0 and all(v.suspect for v in spared)
    assert named.audits
    assert len(report.having(Outcome.TRUSTED)) == len(replies) - len(left_out)
    assert not any(v.banned or v.accepted for v in left_out) and not report.having(Outcome.MISSING)


def test_who_cannot_be_audited_takes_part(honest: list[Reply]) -> None:
    _, report = run(honest, Counting(PLAN, unaskable=frozenset(r.node_id for r in honest)))
    named = Sequential().detect(read_replies(honest, START), 3)
    audited = [v for v in report.nodes if "not audited: no authority to ask" in v.reason]
    assert len(audited) == len(named.audits) > 0
    assert all(v.accepted and not v.suspect for v in audited)
    assert len(report.accepted) == len(honest)


def test_the_last_check_that_a_budget_allows_is_kept_for_a_suspicion(honest: list[Reply]) -> None:
    everybody = frozenset(r.node_id for r in honest)
    kept = Counting(PLAN, spent=dict.fromkeys(everybody, 3), last_check=everybody - {honest[0].node_id})
    for seed in range(20):
        _, report = run(honest, kept, seed=seed)
        assert {v.node_id for v in report.nodes if "audit" in v.reason} <= {honest[0].node_id}
    flipped = [Reply(r.node_id, [-a for a in r.arrays], r.num_examples) for r in honest[:3]]
    _, report = run([*flipped, *honest[3:]], kept)
    assert {v.node_id for v in report.convicted} == {r.node_id for r in flipped}


def test_the_search_goes_on_past_a_node_that_cannot_be_asked(honest: list[Reply]) -> None:
    flipped = [Reply(r.node_id, [-a for a in r.arrays], r.num_examples) for r in honest[:3]]
    _, report = run([*flipped, *honest[3:]], Counting(PLAN, unaskable=frozenset({999})))
    assert {v.node_id for v in report.convicted} == {1000, 998}
    (left_out,) = report.having(Outcome.EXHAUSTED)
    assert left_out.node_id == 999 and not left_out.banned
