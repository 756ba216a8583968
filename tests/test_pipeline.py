"""The round without I/O: who is asked, what follows from the answers, and what is averaged."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from flwr_faa.detection import Everyone
from flwr_faa.detection.base import Detection
from flwr_faa.pipeline import Pipeline
from flwr_faa.policy import Policy
from flwr_faa.replies.updates import Batch, Reply
from flwr_faa.report import DataDisclosure, Outcome, RoundReport
from flwr_faa.verification import replay
from flwr_faa.verification.base import Case, Finding
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


# At the bounds: eight nodes with a model of three numbers

W = [np.zeros(3, np.float32)]
EIGHT = [Reply(i, [np.full(3, i + 1, np.float32)], 10) for i in range(8)]


@dataclass(frozen=True)
class Knows:
    """A verifier that knows who is guilty, how many samples are enrolled, and what has been disclosed."""

    guilty: frozenset[int] = frozenset()
    enrolled: Mapping[int, int] = field(default_factory=dict)
    ranks: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    checks: Mapping[int, float] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    name = "knows"
    simulation_only = True
    notes = ()
    enrol_timeout = 1.0

    def challenge(self, case: Case) -> bytes:
        self.cases.append(case)
        return b"?"

    def judge(self, case: Case, evidence: bytes) -> Finding:
        guilty = case.node_id in self.guilty
        return Finding(guilty, float(guilty), 0.5, "judged")

    def enrolment(self, node_id: int) -> None:
        return None

    def enrol(self, node_id: int, answer: bytes) -> None:
        raise AssertionError("nobody has to enrol")

    def samples(self, node_id: int) -> int | None:
        return self.enrolled.get(node_id)

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        rank, budget = self.ranks.get(node_id, (None, 0))
        return None if rank is None else DataDisclosure(node_id, "ab", 9, 9, rank, 64, budget, budget - rank, 1, 1)

    def affordable(self, node_id: int) -> float:
        return self.checks.get(node_id, math.inf)


@dataclass(frozen=True)
class Remembering(Everyone):
    """Names everybody, and remembers what it was given."""

    given: list[tuple[Batch, int]] = field(default_factory=list)

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        self.given.append((batch, seed))
        return super().detect(batch, seed)


def decide(
    verifier=None, policy=Policy(), replies=EIGHT, silent=(), detector=None, strikes=None, **more
) -> RoundReport:
    pipeline = Pipeline(detector or Everyone(), verifier, policy, **more)
    answers = lambda challenges: {n: b"!" for n in challenges if n not in silent}  # noqa: E731
    arrays, report = pipeline.run(1, replies, W, answers, strikes=strikes)
    assert report.accepted or np.array_equal(arrays[0], W[0])
    return report


def banned(report: RoundReport) -> list[int]:
    return [v.node_id for v in report.nodes if v.banned]


@pytest.mark.parametrize(("share", "most"), [(0.5, 4), (0.25, 2), (0.0, 0), (1.0, 8)])
def test_as_many_convictions_as_there_may_be_attackers_are_believed_and_one_more_is_a_mistake(share, most) -> None:
    policy = Policy(assumed_share=share)
    believed = decide(Knows(frozenset(range(most))), policy)
    assert banned(believed) == list(range(most)) and not believed.failed_closed
    assert len(believed.accepted) == 8 - most
    if most < 8:
        doubted = decide(Knows(frozenset(range(most + 1))), policy)
        assert banned(doubted) == [] and doubted.failed_closed and not doubted.accepted
        assert len(doubted.convicted) == most + 1


@pytest.mark.parametrize(("silent", "expected"), [(3, [0, 1, 2, 7]), (4, [7])])
def test_more_silent_nodes_than_there_may_be_attackers_are_nobody_s_fault(silent, expected) -> None:
    """Together with the convicted, who are banned all the same."""
    report = decide(Knows(frozenset({7})), Policy(max_strikes=1), silent=set(range(silent)))
    assert banned(report) == expected
    assert not report.failed_closed and len(report.accepted) == 7 - silent


@pytest.mark.parametrize(
    ("max_strikes", "before", "out"),
    [(1, None, True), (2, None, False), (2, 1, True), (3, 1, False), (3, 2, True), (3, 5, True)],
)
def test_the_last_strike_bans(max_strikes: int, before: int | None, out: bool) -> None:
    strikes = None if before is None else {3: before, 4: 9}
    report = decide(Knows(), Policy(max_strikes=max_strikes), silent={3}, strikes=strikes)
    assert banned(report) == [3] * out
    assert banned(decide(Knows(), Policy(max_strikes=max_strikes, ban=False), silent={3}, strikes=strikes)) == []


@pytest.mark.parametrize(("removed", "closed"), [(4, False), (5, True)])
def test_failing_closed_counts_the_updates_of_this_round_alone(removed: int, closed: bool) -> None:
    """Without a verifier the suspects are out; replies that were no update are not counted."""
    broken = [Reply(100 + i, problem="no reply in time") for i in range(9)]
    report = decide(None, Policy(fail_closed=True), [*EIGHT, *broken], detector=Largest(removed))
    assert report.failed_closed is closed and len(report.accepted) == (0 if closed else 4)
    assert len(report.having(Outcome.REJECTED)) == 9 and len(report.having(Outcome.REMOVED)) == removed
    lenient = decide(None, Policy(), [*EIGHT, *broken], detector=Largest(removed))
    assert not lenient.failed_closed and len(lenient.accepted) == 8 - removed


@pytest.mark.parametrize(("limit", "dropped"), [(1.0, []), (0.99, list(range(8)))])
def test_a_score_at_the_limit_is_not_above_it(limit: float, dropped: list[int]) -> None:
    """Everyone's score is 1."""
    report = decide(Knows(), Policy(drop_above=limit))
    assert [v.node_id for v in report.having(Outcome.DROPPED)] == dropped
    assert len(report.accepted) == 8 - len(dropped)


def test_who_reports_another_number_of_examples_than_it_has_enrolled_is_rejected() -> None:
    told = {0: 10, 1: 10.0, 2: 11, 3: 9, 4: -1, 5: "many", 6: 10, 7: 10}
    replies = [Reply(r.node_id, r.arrays, told[r.node_id]) for r in EIGHT]
    replies[7] = Reply(7, problem="no reply in time")
    verifier = Knows(enrolled=dict.fromkeys([0, 1, 2, 3, 4, 5, 7], 10))  # 6 has not enrolled
    report = decide(verifier, replies=replies)
    why = {v.node_id: v.reason for v in report.having(Outcome.REJECTED)}
    assert why.keys() == {2, 3, 4, 5, 7} and why[7] == "node 7: no reply in time"
    assert why[2] == "node 2: num-examples: expected the 10 samples that it has enrolled, got 11"
    assert "got 9" in why[3] and "enrolled" not in why[4] + why[5]
    assert not any(case.node_id in why for case in verifier.cases)
    watching = decide(Knows(enrolled=verifier.enrolled), replies=replies, observe=True)
    assert {v.node_id for v in watching.having(Outcome.REJECTED)} == {4, 5, 7}


def test_chances_of_an_audit_follow_from_what_is_known_and_the_last_check_is_kept() -> None:
    """One less what is spent, at least a quarter; nothing where less than two checks are left."""
    ranks = {0: (0, 16), 1: (4, 16), 2: (14, 16), 3: (1, 1), 4: (0, 0), 5: (4, 16), 6: (4, 16)}
    seeing = Remembering()
    report = decide(Knows(ranks=ranks, checks={5: 2.0, 6: 1.99}), detector=seeing)
    ((batch, _),) = seeing.given
    assert batch.chances.tolist() == [1.0, 0.75, 0.25, 0.25, 1.0, 0.75, 0.0, 1.0]
    assert [d.node_id for d in report.disclosures] == [0, 1, 2, 3, 4, 5, 6]
    assert report.verifier == "knows" and decide().verifier == ""


def test_a_round_s_nonce_and_seed_go_where_they_belong_and_are_zero_unless_given() -> None:
    for given, nonce, seed in (({}, 0, 0), ({"nonce": 5, "seed": 9}, 5, 9)):
        verifier, seeing = Knows(), Remembering()
        Pipeline(seeing, verifier).run(4, EIGHT, W, lambda challenges: {}, **given)
        assert {(case.round, case.nonce) for case in verifier.cases} == {(4, nonce)}
        assert [told for _, told in seeing.given] == [seed]
    with pytest.raises(TypeError):
        Pipeline(Remembering(), None).run(4, EIGHT, W, lambda challenges: {}, 5)  # which of the two?


def test_a_round_without_updates_has_no_threshold_and_no_phases_of_detection() -> None:
    _, report = Pipeline(Everyone(), Knows()).run(1, [], W, lambda challenges: {}, seconds={"train": 2.0})
    assert math.isnan(report.score_threshold) and report.nodes == () and not report.failed_closed
    assert report.seconds.keys() == {"train", "aggregate"} and report.seconds["train"] == 2.0


@pytest.mark.parametrize(("removed", "renormalise", "counter"), [(0, True, 19), (1, True, 25), (1, False, 19)])
def test_a_rule_combines_parameters_and_counters_are_averaged(removed: int, renormalise: bool, counter: int) -> None:
    """Of 25 batches of three examples and 1 batch of one; the one is left out, and then counts as the broadcast 1."""
    model, rule = [np.zeros(2, np.float32), np.array(1)], lambda batch, rows: np.array([7.0, -1.0])
    sent = enumerate([(4, 25, 3), (8, 1, 1)])
    replies = [Reply(i, [np.full(2, value, np.float32), np.array(count)], e) for i, (value, count, e) in sent]
    pipeline = Pipeline(Largest(removed), None, Policy(weighting="reported", renormalise=renormalise), rule)
    arrays, _ = pipeline.run(1, replies, model, lambda challenges: {})
    assert arrays[0].tolist() == [7, -1] and arrays[1] == counter


@pytest.mark.parametrize(
    "answer", [np.zeros(4), np.zeros((3, 1)), np.array([0, 0, math.nan]), np.array([0, math.inf, 0])]
)
def test_a_rule_s_answer_has_one_finite_number_a_column(answer: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected 3 finite numbers from the rule, got shape"):
        decide(detector=Largest(0), rule=lambda batch, rows: answer)


@pytest.mark.parametrize(
    ("guilty", "silent", "withheld"), [({3}, (), "removed and banned"), (set(), (3,), "removed"), (set(), (), "")]
)
def test_observed_it_is_told_what_would_have_been_done(
    guilty: set[int], silent: tuple[int, ...], withheld: str
) -> None:
    report = decide(Knows(frozenset(guilty)), silent=silent, observe=True, replies=[*EIGHT, Reply(9, problem="late")])
    assert {v.node_id: v.withheld for v in report.nodes if v.withheld} == ({3: withheld} if withheld else {})
    assert len(report.accepted) == 8 and banned(report) == []
    (rejected,) = report.having(Outcome.REJECTED)
    assert not rejected.accepted and rejected.withheld == ""
    alone = decide(detector=Largest(2), observe=True)
    assert [v.withheld for v in alone.nodes] == [""] * 6 + ["removed"] * 2 and len(alone.accepted) == 8
