"""The spot check against one node: honest ones pass with margin, every way to cheat is a contradiction."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.lab.clients.spotcheck_lies import answer_off_the_curve, changed, off_the_curve, within_range
from apps.lab.clients.spotcheck_tampering import Tampered
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.exact import exact_product
from flwr_faa.verification.base import Finding, Misconfigured
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.binding import encrypted
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment, Enrol
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import slice_of
from tests.verification.spotcheck.spot import BINDINGS, SHAPE, Node, backends


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("back_end", backends())
@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])
def test_honest_clients_pass_with_margin(name: str, back_end: str, binding: str, tmp_path: Path) -> None:
    node = Node(tmp_path, name, back_end, binding)
    node.enrol()
    for nonce in range(3):
        finding = node.judge(node.train(nonce))
        assert not finding.convicted, finding
        assert finding.error < 0.05 * finding.threshold, finding


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_client_with_other_kernels_is_still_honest(name: str, tmp_path: Path) -> None:
    node = Node(tmp_path, name)
    node.enrol()
    with torch.backends.mkldnn.flags(enabled=False):
        case = node.train()
    assert not node.judge(case).convicted


# Attackers. ``node`` is trained honestly on its enrolled data unless a test says otherwise.


@pytest.fixture(scope="module", params=BINDINGS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Enrolled once for all tests: its budget is everything, and checks leave nothing behind."""
    node = Node(tmp_path_factory.mktemp("device"), binding=request.param)
    node.enrol()
    return node


def nudge(index: tuple[int, ...], by: int = 1) -> Callable[[np.ndarray], None]:
    def edit(array: np.ndarray) -> None:
        array[index] += by

    return edit


LIES = {
    "Z1 off by one": (changed(claims=nudge((5, 3))), "claim"),
    "Z1 off by minus one": (changed(claims=nudge((0, 0), -1)), "claim"),
    "P off by one": (changed(claims=nudge((7, 16))), "claim"),
    "Z1 and P of another sample": (changed(claims=lambda a: a[::-1].copy()), "claim"),
    "swapped samples": (changed(bound=lambda a: np.roll(a, 1, 0)), "not the one enrolled"),
    "another label": (changed(labels=lambda a: (a + 1) % 10), "not the one enrolled"),
    "a bit of a checkpoint": (changed(checkpoints=nudge((0, 100))), "not the one committed"),
    "a bit of a path": (changed(start=nudge((0, 0))), "does not start"),
    "a bit of a sample's path": (changed(paths=nudge((3, 1, 4))), "not the one enrolled"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_the_answer_are_contradictions(lie: str, node: Node) -> None:
    change, reason = LIES[lie]
    finding = node.judge(node.train(), change)
    assert finding.convicted and reason in finding.reason, finding


def test_data_chosen_after_the_challenge_are_not_the_enrolled_ones(node: Node) -> None:
    """Fresh clean data, honestly encrypted and honestly claimed, under another root."""
    case = node.train()
    challenge = Challenge.from_bytes(node.verifier.challenge(case))
    other = slice_of(5)
    public = node.verifier.enrolment(node.node_id)
    assert public is not None  # a challenge is open, so the server would let it enrol again
    enrolment.enrol(node.device, other, public)
    fresh = enrolment.find(node.device, other, challenge.key)
    assert fresh is not None
    evidence = node.answer(replace(challenge, data=fresh.root).to_bytes(), other)
    enrolment.enrol(node.device, node.data, public)  # a folder answers for what was enrolled last
    finding = node.verifier.judge(case, evidence)
    assert finding.convicted and "not the one enrolled" in finding.reason


def test_training_on_other_data_than_enrolled_is_found_in_the_claims(node: Node) -> None:
    case = node.train(data=slice_of(5))
    finding = node.judge(case)
    assert finding.convicted and finding.error > 0.1


def tampered(node: Node, spoil: Callable[[int, list[np.ndarray]], None], nonce: int = 23) -> Finding:
    """Commits to a run whose steps were spoilt, and answers for it."""

    def spoilt(index: int, before: Any, after: Any) -> list[np.ndarray]:
        new = [a.copy() for a in after]
        spoil(index, new)
        return new

    return node.judge(node.train(nonce, plan=Tampered.of(node.plan, spoilt)))


def grow(array: np.ndarray, size: float, which: str = "all") -> None:
    rng = np.random.default_rng(1)
    array += (size * rng.standard_normal(array.shape)).astype(array.dtype)


def test_a_tampered_last_step_is_always_found(node: Node) -> None:
    last = len(list(node.plan.batches(40, 0))) - 1
    for layer in range(4):
        finding = tampered(node, lambda i, new, at=layer: grow(new[at], 1e-3) if i == last else None)
        assert finding.convicted and finding.error > finding.threshold, (layer, finding)


def test_the_step_that_moved_most_is_always_found(node: Node) -> None:
    for _ in range(3):
        finding = tampered(node, lambda i, new: grow(new[0], 0.5) if i == 1 else None)
        assert finding.convicted and finding.error > 0.1


def test_tampering_with_all_steps_a_little_is_found_in_any(node: Node) -> None:
    assert tampered(node, lambda i, new: grow(new[0], 1e-4)).convicted
    assert tampered(node, lambda i, new: grow(new[2], 1e-4)).convicted
    assert not tampered(node, lambda i, new: None).convicted


def test_every_other_step_is_drawn_as_often(node: Node) -> None:
    """Of ten steps the first, the last and the longest are opened always; of the other seven one is drawn."""
    many = SpotCheck(replace(node.plan, batch_size=8), SHAPE, node.authority, steps=1, max_value=16)
    many._binding = node.verifier._binding
    many._registered.update(node.verifier._registered)
    case = node.train()
    moves = np.array([[1, 1, 2, 1, 1, 1, 1, 1, 1, 1]] * 2, np.float32).T
    case = replace(case, commitment=Commitment(bytes(32), bytes(32), moves).to_bytes())
    drawn = [Challenge.from_bytes(many.challenge(case)).steps for _ in range(400)]
    assert all(len(steps) == 4 and {0, 2, 9} <= set(steps) for steps in drawn)
    times = np.bincount(np.concatenate(drawn), minlength=10)[[1, 3, 4, 5, 6, 7, 8]]
    assert times.sum() == 400 and times.min() > 25 and times.max() < 95  # 57 expected, 7 standard deviation


def test_understating_a_step_contradicts_the_trace(node: Node) -> None:
    case = node.train()
    true = Commitment.from_bytes(case.commitment, 4, 2)
    flat = replace(case, commitment=replace(true, moves=np.full((4, 2), true.moves.min() / 2, np.float32)).to_bytes())
    finding = node.judge(flat)
    assert finding.convicted and "moved by" in finding.reason


def test_an_update_that_is_not_the_runs_end_is_found(node: Node) -> None:
    case = node.train(claimed=lambda arrays: [-a for a in arrays])
    finding = node.judge(case)
    assert finding.convicted and "does not end" in finding.reason
    other = [a + np.float32(1e-3) for a in node.plan.initial_arrays(0)]
    finding = node.judge(replace(node.train(), model=other))
    assert finding.convicted and "does not start" in finding.reason


def test_an_older_rounds_answer_is_no_answer(node: Node) -> None:
    old = node.train(1)
    evidence = node.answer(node.verifier.challenge(old))
    assert not node.verifier.judge(old, evidence).convicted
    case = node.train(2)
    node.verifier.challenge(case)
    try:
        assert node.verifier.judge(case, evidence).convicted
    except WireError:  # where the steps drawn differ, so does the form
        node.verifier._pending.clear()


def test_more_examples_than_enrolled(node: Node) -> None:
    finding = node.judge(replace(node.train(), num_examples=120))
    assert finding.convicted and "registered 40" in finding.reason


def test_encryptions_out_of_range_are_found(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    samples, labels = slice_of(0)
    node.data = samples.astype(np.int64), labels
    node.data[0][7, 0, 3, 3] = 100_000
    with pytest.raises(Misconfigured, match=r"samples from 0 to 16, got 100000: scale them, or SpotCheck\(max_value"):
        node.enrol()  # who says so is told what to change
    request = node.verifier.enrolment(node.node_id)
    node.verifier.enrol(node.node_id, within_range(node.device, node.data, request, 16))
    finding = node.judge(node.train())
    assert finding.convicted and "from 0 to 16" in finding.reason


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("back_end", backends())
def test_points_off_the_curve_are_found(back_end: str, binding: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic", back_end, binding)
    request = node.verifier.enrolment(node.node_id)
    node.verifier.enrol(node.node_id, off_the_curve(node.device, node.data, request, samples=1))
    case = node.train()
    evidence = answer_off_the_curve(node.plan, node.device, node.data, node.verifier.challenge(case))
    finding = node.verifier.judge(case, evidence)
    assert finding.convicted and "expected a point of" in finding.reason


@pytest.mark.parametrize("back_end", backends())
def test_a_wrong_claim_is_caught_in_every_trial(back_end: str) -> None:
    """The exponent check alone, a thousand times: +1 in one random entry of Z1 or P."""
    group, rng = open_group(back_end), np.random.default_rng(0)
    public, master = ipfe.setup(group, 6)
    x, kernels = rng.integers(0, 256, (4, 6)), rng.integers(-(2**20), 2**20, (5, 6))
    ciphertexts, truth = ipfe.encrypt_rows(public, x), x @ kernels.T
    for trial in range(1001):
        sigma, rho = encrypted.positive(4, 23), encrypted.positive(5, 32)
        y = [int(v) for v in rho.astype(object) @ kernels.astype(object)]
        claims = truth.copy()
        claims[rng.integers(4), rng.integers(5)] += 1 if trial else 0
        value = sum(s * v for s, v in zip(sigma.tolist(), exact_product(claims, rho.tolist()), strict=True))
        claim = ipfe.Claim(ciphertexts, sigma.tolist(), ipfe.derive_key(master, y), value)
        assert ipfe.claims_hold([claim]) == (trial == 0)


# Malformed: no evidence, and never an exception of another kind


def test_malformed_answers_and_commitments_are_no_evidence(node: Node) -> None:
    case = node.train()
    evidence = node.answer(node.verifier.challenge(case))
    bad = {
        "truncated": evidence[:-1],
        "extended": evidence + b"\0",
        "other kind": evidence.replace(b"spotcheck/answer", b"spotcheck/replay"),
        "fewer claims": changed(claims=lambda a: a[:-1])(Answer.from_bytes(evidence)).to_bytes(),
        "fewer rows": changed(labels=lambda a: a[:-1])(Answer.from_bytes(evidence)).to_bytes(),
        "another dtype": changed(labels=lambda a: a.astype("<i4"))(Answer.from_bytes(evidence)).to_bytes(),
        "empty": b"",
    }
    for what, answer in bad.items():
        with pytest.raises(WireError):
            node.verifier.judge(case, answer)
            pytest.fail(what)
    assert not node.verifier.judge(case, evidence).convicted
    with pytest.raises(WireError, match="without"):
        node.verifier.judge(case, evidence)
    true = Commitment.from_bytes(case.commitment, 4, 2)
    whole = np.ones((4, 2), np.float32)
    for moves in (whole[:3], whole[:, :1], whole[:, 0], -whole, whole * np.float32(np.nan), whole.astype(np.float64)):
        with pytest.raises(WireError):
            node.verifier.challenge(replace(case, commitment=replace(true, moves=moves).to_bytes()))
    with pytest.raises(WireError):
        node.verifier.challenge(replace(case, commitment=b"x"))
    with pytest.raises(WireError, match="not"):
        node.verifier.challenge(replace(case, node_id=3))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_fuzzed_answers_never_raise_anything_else(node: Node, data: st.DataObject) -> None:
    case = node.train()
    honest = node.answer(node.verifier.challenge(case))
    evidence = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        # most of an answer is points and scalars; aim at its structure and the ends as well
        share, near = data.draw(st.floats(0, 1, exclude_max=True)), data.draw(st.booleans())
        at = int(share * (400 if near else len(evidence)))
        evidence[at] ^= data.draw(st.integers(1, 255))
    try:
        assert node.verifier.judge(case, bytes(evidence)).convicted == (evidence != honest)
    except WireError:
        node.verifier._pending.clear()


@settings(max_examples=200)
@given(st.sampled_from([Enrol, Challenge, Answer]), st.binary(max_size=80))
def test_parsers_refuse_with_one_exception(message: Any, tail: bytes) -> None:
    for kind in ("spotcheck/enrol", "spotcheck/challenge", "spotcheck/answer"):
        with pytest.raises(WireError):
            message.from_bytes(b"FAA\x01" + bytes([len(kind)]) + kind.encode() + tail)


def test_checkpoints_are_cleaned_up_after_the_round(node: Node) -> None:
    first = node.train(5)
    node.train(5, data=slice_of(1))  # another node of this machine, same round
    assert len(list(node.device.checkpoints.iterdir())) == 2
    node.train(6)
    (left,) = node.device.checkpoints.iterdir()
    assert left.name.startswith("6-")
    with pytest.raises(WireError, match="still kept"):
        node.judge(first)
    node.verifier._pending.clear()
