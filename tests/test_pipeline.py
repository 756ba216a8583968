"""The round without I/O: who is asked, what follows from the answers, and what is averaged."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from flwr_faa.detection.base import Detection
from flwr_faa.pipeline import Pipeline
from flwr_faa.policy import Policy
from flwr_faa.replies.updates import Batch, Reply
from flwr_faa.report import Outcome, RoundReport
from flwr_faa.verification import replay
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.wire import pack
from tests.helpers.toy import PLANS, honest_replies, slice_of

PLAN = PLANS["mlp"]
START = PLAN.initial_arrays(0)
NONCE = 17


@dataclass(frozen=True)
class Largest:
    """Suspects the `count` longest updates; asks for one more as long as the last was convicted."""

    count: int
    audits: int = 0

    def detect(self, batch: Batch, seed: int) -> Detection:
        norms = np.linalg.norm(batch.updates.astype(np.float64), axis=1)
        order = [int(i) for i in np.argsort(-norms)]
        end = self.count + self.audits
        return Detection(norms, 0.0, tuple(order[: self.count]), ("norm",) * len(batch), tuple(order[self.count : end]))

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        left = [int(i) for i in np.argsort(-detection.scores) if int(i) not in judged]
        return tuple(left[:1]) if list(judged.values())[-1] else ()


def flipped(reply: Reply) -> Reply:
    return Reply(reply.node_id, [-a for a in reply.arrays], reply.num_examples)


def partition(node_id: int) -> int:
    return 1000 - node_id


class Nodes:
    """Answers challenges from each node's own slice, but for those that behave otherwise."""

    def __init__(self, silent: set[int] = frozenset(), garbage: Mapping[int, bytes] = {}) -> None:
        self.silent, self.garbage, self.asked = silent, garbage, []

    def __call__(self, challenges: Mapping[int, bytes]) -> dict[int, bytes | str]:
        self.asked.append(sorted(challenges))
        return {
            n: self.garbage.get(n) or replay.answer(slice_of(partition(n)), c)
            for n, c in challenges.items()
            if n not in self.silent
        }


def run(replies, detector, ask=None, policy=Policy(), rule=None, **kwargs) -> tuple[list[np.ndarray], RoundReport]:
    verifier = Replay(PLAN) if ask is not None else None
    pipeline = Pipeline(detector, verifier, policy, rule)
    return pipeline.run(1, replies, START, ask or Nodes(), nonce=NONCE, seed=3, **kwargs)


@pytest.fixture(scope="module")
def honest() -> list[Reply]:
    return honest_replies(PLAN, START, NONCE, 8)


def mean_of(replies: list[Reply]) -> list[np.ndarray]:
    return [np.mean([r.arrays[i] for r in replies], 0, np.float64) for i in range(len(START))]


def assert_close(arrays: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_attack_the_result_is_fedavg(honest: list[Reply]) -> None:
    arrays, report = run(honest, Largest(4), Nodes())
    assert_close(arrays, mean_of(honest))
    assert len(report.having(Outcome.CLEARED)) == 4
    assert len(report.having(Outcome.TRUSTED)) == 4


def test_convicted_are_removed_and_banned_and_the_rest_renormalised(honest: list[Reply]) -> None:
    replies = [flipped(r) for r in honest[:2]] + honest[2:]
    nodes = Nodes()
    arrays, report = run(replies, Largest(1, audits=1), nodes)
    assert {v.node_id for v in report.convicted} == {1000, 999}
    assert all(v.banned and not v.accepted and v.error > 0.5 and "differs" in v.reason for v in report.convicted)
    assert_close(arrays, mean_of(honest[2:]))
    assert sum(len(a) for a in nodes.asked) == len(report.verified)
    assert [len(a) for a in nodes.asked] == [2] + [1] * (len(nodes.asked) - 1)


@pytest.mark.parametrize("count", [1, 3])
def test_without_verifier_suspects_are_removed_and_audits_left_alone(honest: list[Reply], count: int) -> None:
    _, report = run(honest, Largest(count, audits=2))
    removed = report.having(Outcome.REMOVED)
    assert len(removed) == count
    assert not any(v.accepted or v.banned for v in removed)
    assert len(report.accepted) == 8 - count


def test_no_answer_is_a_strike_and_never_a_conviction(honest: list[Reply]) -> None:
    nodes = Nodes(silent={999}, garbage={998: b"garbage", 997: pack(replay.EVIDENCE, {"samples": b"", "labels": b""})})
    arrays, report = run(honest, Largest(8), nodes, strikes={997: 2})
    missing = {v.node_id: v for v in report.having(Outcome.MISSING)}
    assert missing.keys() == {999, 998, 997}
    assert not report.convicted
    assert missing[997].banned and not missing[998].banned
    assert all("no valid evidence" in v.reason for v in missing.values())
    assert_close(arrays, mean_of([r for r in honest if r.node_id not in missing]))


@pytest.mark.parametrize(
    ("samples", "labels", "outcome"),
    [
        (np.zeros((40, 1, 8, 8), np.uint8), np.zeros(40, np.int64), Outcome.CONVICTED),  # other data
        (slice_of(1)[0][:30], slice_of(1)[1][:30], Outcome.CONVICTED),  # fewer than reported
        (slice_of(1)[0].astype(np.float32), slice_of(1)[1], Outcome.MISSING),
        (slice_of(1)[0][:, :, :4], slice_of(1)[1], Outcome.MISSING),  # a shape the model does not take
        (slice_of(1)[0], slice_of(1)[1] + 10, Outcome.MISSING),  # labels out of range
        (slice_of(1)[0], slice_of(1)[1][:, None], Outcome.MISSING),
    ],
)
def test_evidence_that_does_not_fit(honest: list[Reply], samples, labels, outcome) -> None:
    evidence = pack(replay.EVIDENCE, {"samples": samples, "labels": labels})
    _, report = run(honest, Largest(8), Nodes(garbage={999: evidence}))
    verdict = next(v for v in report.nodes if v.node_id == 999)
    assert verdict.verdict is outcome
    assert len(report.accepted) == 7
    assert report.to_json()  # NaN errors must survive


def test_order_of_replies_changes_nothing_bit_for_bit(honest: list[Reply]) -> None:
    replies = [flipped(r) for r in honest[:3]] + honest[3:]
    first, expected = run(replies, Largest(4), Nodes())
    for seed in range(5):
        shuffled = replies[:]
        random.Random(seed).shuffle(shuffled)
        arrays, report = run(shuffled, Largest(4), Nodes())
        assert report.nodes == expected.nodes
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, first, strict=True))


def test_invalid_replies_cost_their_sender_the_round(honest: list[Reply]) -> None:
    broken = Reply(5, [np.full_like(a, np.nan) for a in START], 40)
    arrays, report = run([*honest, broken, Reply(6, problem="no reply in time")], Largest(2), Nodes())
    assert_close(arrays, mean_of(honest))
    assert {v.node_id for v in report.having(Outcome.REJECTED)} == {5, 6}
    assert not any(v.accepted for v in report.having(Outcome.REJECTED))
    assert not any(v.banned for v in report.nodes)


def test_nobody_left_keeps_the_model(honest: list[Reply]) -> None:
    for replies, detector in ([], Largest(1)), ([flipped(r) for r in honest], Largest(8)):
        arrays, report = run(replies, detector, Nodes())
        assert all(np.array_equal(a, b) for a, b in zip(arrays, START, strict=True))
        assert not report.accepted


def test_fails_closed_above_the_assumed_share(honest: list[Reply]) -> None:
    replies = [flipped(r) for r in honest[:4]] + honest[4:]
    _, lenient = run(replies, Largest(8), Nodes(), Policy(fail_closed=True, assumed_share=0.5))
    assert not lenient.failed_closed
    arrays, strict = run(replies, Largest(8), Nodes(), Policy(fail_closed=True, assumed_share=0.4))
    assert strict.failed_closed and not strict.accepted
    assert len(strict.convicted) == 4
    assert all(np.array_equal(a, b) for a, b in zip(arrays, START, strict=True))


def test_weights_as_printed_in_lomars_eq_3_shorten_the_step(honest: list[Reply]) -> None:
    arrays, report = run(honest, Largest(4), policy=Policy(renormalise=False))
    kept = {v.node_id for v in report.accepted}
    full = mean_of([r for r in honest if r.node_id in kept])
    assert_close(arrays, [w + (m - w) * len(kept) / len(honest) for w, m in zip(START, full, strict=True)])


def test_no_bans_if_not_wanted(honest: list[Reply]) -> None:
    _, report = run([flipped(honest[0]), *honest[1:]], Largest(8), Nodes(), Policy(ban=False))
    assert len(report.convicted) == 1 and not report.convicted[0].banned


def test_who_is_cleared_but_far_too_odd_is_left_out_and_never_banned(honest: list[Reply]) -> None:
    # Prepare: the limit stands between the second and the third longest of the cleared; the flipped one is above it too
    replies = [flipped(honest[0]), *honest[1:]]
    norms = sorted(v.score for v in run(honest[1:], Largest(7), Nodes())[1].nodes)
    policy = Policy(drop_above=(norms[-2] + norms[-3]) / 2)

    # Execute
    arrays, report = run(replies, Largest(6), Nodes(), policy)

    # Assert
    dropped = report.having(Outcome.DROPPED)
    assert len(dropped) == 2
    assert all(not v.accepted and not v.banned and v.score > policy.drop_above for v in dropped)
    assert all("left out, not for its evidence but for its score" in v.reason for v in dropped)
    assert all("replay agrees" in v.reason and v.error < 0.05 for v in dropped)
    assert [v.node_id for v in report.convicted] == [1000] and report.convicted[0].banned
    assert len(report.having(Outcome.CLEARED)) == 3
    assert set(dropped) <= set(report.verified)
    out = {1000, *(v.node_id for v in dropped)}
    assert_close(arrays, mean_of([r for r in honest if r.node_id not in out]))


def test_nobody_is_dropped_for_a_score_without_having_been_asked(honest: list[Reply]) -> None:
    _, report = run(honest, Largest(0), Nodes(), Policy(drop_above=0.0))
    assert len(report.having(Outcome.TRUSTED)) == len(report.accepted) == 8


def test_a_rule_gets_the_kept_rows_and_its_update_is_applied(honest: list[Reply]) -> None:
    seen = []

    def first(batch: Batch, rows) -> np.ndarray:
        seen.append([batch.node_ids[i] for i in rows])
        return batch.updates[rows[0]].astype(np.float64)

    arrays, report = run(honest, Largest(3), rule=first)
    assert sorted(seen[0]) == [v.node_id for v in report.accepted]
    run(honest[::-1], Largest(3), rule=first)
    assert seen[0] == seen[1]
    assert_close(arrays, next(r.arrays for r in honest if r.node_id == seen[0][0]))


@pytest.mark.parametrize("answer", [np.zeros(3), np.full(1210, np.nan)])
def test_a_rule_that_answers_nonsense_is_a_bug_of_the_rule(honest: list[Reply], answer: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 1210 finite numbers"):
        run(honest, Largest(1), rule=lambda batch, rows: answer)
