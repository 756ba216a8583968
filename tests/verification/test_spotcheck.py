"""The spot check against one node: honest ones pass with margin, every way to cheat is a contradiction."""

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from apps.lab.spotattacks import changed, off_the_curve
from apps.lab.spottampering import Tampered
from flwr_faa.authority import AuthorityUnavailable, LocalAuthority, Registration
from flwr_faa.crypto import groups, ipfe
from flwr_faa.verification import enrolment, spotclaims
from flwr_faa.verification.base import Exhausted, Finding
from flwr_faa.verification.firstlayer import exact_product
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import SpotCheck
from flwr_faa.verification.spotwire import ENROLLED, Answer, Challenge, Commitment, Enrol
from flwr_faa.verification.wire import WireError, unpack
from tests.toy import NARROW, PLANS, slice_of
from tests.verification.spot import SHAPE, Node, backends


@pytest.mark.parametrize("back_end", backends())
@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])
def test_honest_clients_pass_with_margin(name: str, back_end: str, tmp_path: Path) -> None:
    node = Node(tmp_path, name, back_end)
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


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Enrolled once for all tests: its budget is everything, and checks leave nothing behind."""
    node = Node(tmp_path_factory.mktemp("device"))
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
    "swapped ciphertexts": (changed(ciphertexts=lambda a: np.roll(a, 1, 0)), "not the one enrolled"),
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
    """One step in ten is the last, one the largest; of the other eight one is drawn: the docs' probability, 1/8."""
    many = SpotCheck(replace(node.plan, batch_size=8), SHAPE, node.verifier.authority, steps=1, max_value=16)
    many._registered.update(node.verifier._registered)
    many._receipts.update(node.verifier._receipts)
    case = node.train()
    moves = np.array([1, 1, 2, 1, 1, 1, 1, 1, 1, 1], np.float32)
    case = replace(case, commitment=Commitment(bytes(32), moves).to_bytes())
    drawn = [Challenge.from_bytes(many.challenge(case)).steps for _ in range(400)]
    assert all(len(steps) == 3 and {2, 9} <= set(steps) for steps in drawn)
    times = np.bincount(np.concatenate(drawn), minlength=10)[[0, 1, 3, 4, 5, 6, 7, 8]]
    assert times.sum() == 400 and times.min() > 20 and times.max() < 90  # 50 expected, 6.6 standard deviation


def test_understating_a_step_contradicts_the_update_or_the_step(node: Node) -> None:
    case = node.train()
    true = Commitment.from_bytes(case.commitment, 4)
    flat = replace(case, commitment=replace(true, moves=np.full(4, true.moves.min() / 2, np.float32)).to_bytes())
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
    node.enrol()
    finding = node.judge(node.train())
    assert finding.convicted and "from 0 to 16" in finding.reason


@pytest.mark.parametrize("back_end", backends())
def test_points_off_the_curve_are_found(back_end: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic", back_end)
    request = node.verifier.enrolment(node.node_id)
    node.verifier.enrol(node.node_id, off_the_curve(node.device, node.data, request, samples=1))
    finding = node.judge(node.train())
    assert finding.convicted and "no ciphertexts" in finding.reason


@pytest.mark.parametrize("back_end", backends())
def test_a_wrong_claim_is_caught_in_every_trial(back_end: str) -> None:
    """The exponent check alone, a thousand times: +1 in one random entry of Z1 or P."""
    group, rng = groups.open_group(back_end), np.random.default_rng(0)
    public, master = ipfe.setup(group, 6)
    x, kernels = rng.integers(0, 256, (4, 6)), rng.integers(-(2**20), 2**20, (5, 6))
    ciphertexts, truth = ipfe.encrypt_rows(public, x), x @ kernels.T
    for trial in range(1001):
        sigma, rho = spotclaims.positive(4, 23), spotclaims.positive(5, 32)
        y = [int(v) for v in rho.astype(object) @ kernels.astype(object)]
        claims = truth.copy()
        claims[rng.integers(4), rng.integers(5)] += 1 if trial else 0
        value = sum(s * v for s, v in zip(sigma.tolist(), exact_product(claims, rho), strict=True))
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
    true = Commitment.from_bytes(case.commitment, 4)
    for moves in (np.ones(3, np.float32), np.array([1, 2, np.nan, 1], np.float32), -np.ones(4, np.float32)):
        with pytest.raises(WireError):
            node.verifier.challenge(replace(case, commitment=replace(true, moves=moves).to_bytes()))
    with pytest.raises(WireError):
        node.verifier.challenge(replace(case, commitment=b"x"))
    with pytest.raises(WireError, match="not"):
        node.verifier.challenge(replace(case, node_id=3))


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_fuzzed_answers_never_raise_anything_else(node: Node, data: st.DataObject) -> None:
    case = node.train()
    honest = node.answer(node.verifier.challenge(case))
    evidence = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        # most of an answer is ciphertexts; aim at its structure and the ends as well
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


# Enrolment and disclosure


def test_enrolment_is_kept_over_restarts_and_other_data_are_another(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    node.enrol()
    request = Enrol(node.node_id, "arkworks", node.verifier.authority.signed_public_key(node.node_id, 64).to_bytes())
    assert node.verifier.enrolment(node.node_id) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "_encrypt", lambda *_: pytest.fail("encrypted again"))
        again = replace(node.device)
        answer = enrolment.enrol(again, node.data, request.to_bytes())
        node.verifier.enrol(node.node_id, answer)
    assert node.verifier.disclosure(node.node_id).enrolments == 1

    other = slice_of(1)
    case = node.train(data=other)
    with pytest.raises(WireError, match="another"):  # the client will not answer for data that it did not enrol
        node.answer(node.verifier.challenge(case), other)
    assert node.verifier.enrolment(node.node_id) is not None  # and is asked to enrol again
    node.enrol(other)
    assert node.verifier.disclosure(node.node_id).enrolments == 2
    node.data = other
    assert not node.judge(node.train()).convicted
    identity = tmp_path / "identity.key"
    assert identity.stat().st_mode & 0o077 == 0


def test_an_enrolment_damaged_on_disk_is_noticed_by_its_owner(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    node.enrol()
    (folder,) = (tmp_path / "enrolments").iterdir()
    stored = np.load(folder / "ciphertexts.npy")
    stored[:, 100] ^= 1
    np.save(folder / "ciphertexts.npy", stored)
    with pytest.raises(RuntimeError, match="expected the ciphertexts that were written"):
        node.judge(node.train())


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


def test_disclosure_is_counted_on_both_sides_and_ends(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow", budget=0.25)  # 16 of 64; a check of both steps: 2 + 2 stated, 7, and 2 keys
    node.enrol()
    assert "up to 14 of 64 dimensions" in node.verifier.notes[0]  # 3 keys where there are more steps
    assert "the budget of 16 allows 1" in node.verifier.notes[0]
    case = node.train()
    assert not node.judge(case).convicted
    report = node.verifier.disclosure(node.node_id)
    assert (report.max_rank, report.samples_opened, report.remaining) == (13, 40, 3)
    later = node.train(24)
    with pytest.raises(Exhausted, match="budget spent"):
        node.verifier.challenge(later)
    # A curious server that asks no authority is refused by the client itself.
    registered = node.verifier._registered[node.node_id]
    key = hashlib.sha256(node.verifier.authority.public_key(node.node_id, 64).to_bytes()).digest()
    root = Commitment.from_bytes(later.commitment, 2).root
    curious = Challenge(root, registered.root, key, (0,), np.ones((2, 64), np.int64))
    with pytest.raises(WireError, match="at most 16 functions"):
        node.answer(curious.to_bytes())
    # Nor does another node id help, or shuffled data: the same samples are known as well as before.
    node.node_id += 1
    order = np.random.default_rng(0).permutation(len(node.data[1]))
    node.data = (node.data[0][order], node.data[1][order])
    node.enrol()
    with pytest.raises(WireError, match="at most 16 functions"):
        node.judge(node.train(25))
    node.verifier._pending.clear()


def test_claims_stated_while_the_authority_is_away_are_counted_when_it_is_back(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow")
    node.enrol()
    authority = node.verifier.authority
    issue = authority.functional_keys

    def away(*args: Any, **kwargs: Any) -> Any:
        raise AuthorityUnavailable("expected an authority, got none")

    case = node.train()
    evidence = node.answer(node.verifier.challenge(case))
    authority.functional_keys = away  # type: ignore[method-assign]
    with pytest.raises(Exhausted, match="no authority to ask"):
        node.verifier.judge(case, evidence)
    assert node.verifier.enrolment(node.node_id) is None  # nothing that the node should enrol again for
    assert node.verifier.disclosure(node.node_id).max_rank == 0
    later = node.train(24)
    with pytest.raises(Exhausted, match="no authority to ask"):
        node.verifier.challenge(later)
    authority.functional_keys = issue  # type: ignore[method-assign]
    assert not node.verifier.judge(later, node.answer(node.verifier.challenge(later))).convicted
    assert node.verifier.disclosure(node.node_id).max_rank == 11 + 13


def test_a_device_that_pinned_the_authority_encrypts_under_no_other_key(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    request = node.verifier.enrolment(node.node_id)
    stranger = LocalAuthority("arkworks").signed_public_key(node.node_id, 64)
    forged = Enrol(node.node_id, "arkworks", stranger.to_bytes()).to_bytes()
    other = Enrol(node.node_id + 1, "arkworks", Enrol.from_bytes(request).public_key).to_bytes()
    pinned = replace(node.device, authority=node.verifier.authority.verify_key)
    for bad in (forged, other):
        with pytest.raises(WireError, match="public key"):
            enrolment.enrol(pinned, node.data, bad)
    assert not (tmp_path / "enrolments").exists()
    node.verifier.enrol(node.node_id, enrolment.enrol(pinned, node.data, request))


def test_a_server_that_registers_a_node_for_itself_first_is_answered_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    authority = node.verifier.authority
    node.device = replace(node.device, authority=authority.verify_key)
    public = authority.public_key(node.node_id, 64).to_bytes()
    own = Registration(bytes(32), 40, 64, b"").signed(Ed25519PrivateKey.generate(), node.node_id, public)
    receipt = authority.register(node.node_id, own)
    with pytest.raises(WireError, match="the client that registered node"):
        node.enrol()
    # It goes on as if nothing had happened.
    answer = enrolment.enrol(node.device, node.data, node.verifier.enrolment(node.node_id))
    fields = unpack(
        answer, ENROLLED, dict.fromkeys(("root", "verify_key", "signature"), bytes) | {"samples": int, "width": int}
    )
    node.verifier._registered[node.node_id] = Registration(**fields)
    for forged in (b"", receipt, bytes(64)):
        node.verifier._receipts[node.node_id] = forged
        with pytest.raises(WireError, match="expected the authority's receipt"):
            node.judge(node.train())
    node.verifier._pending.clear()
    # An honest server's challenge is answered.
    node.node_id += 1
    node.enrol()
    assert not node.judge(node.train()).convicted


def test_a_convolution_must_be_allowed_and_says_what_it_shows() -> None:
    with pytest.raises(ValueError, match="discloses the image"):
        SpotCheck(PLANS["cnn"], SHAPE)
    with pytest.raises(ValueError, match="expected a budget that allows a check, 64 of 64"):
        SpotCheck(PLANS["cnn"], SHAPE, allow_convolution=True)
    assert "EVERY IMAGE" in SpotCheck(PLANS["cnn"], SHAPE, LocalAuthority(budget=1), allow_convolution=True).notes[0]
    assert SpotCheck(NARROW).tau == 1e-3


def test_a_budget_that_allows_no_check_is_refused_at_the_start() -> None:
    def image(units: int, batch: int, budget: float) -> str:
        plan = TrainingPlan(lambda: nn.Linear(784, units), 0.1, batch)
        return SpotCheck(plan, authority=LocalAuthority(budget=budget)).notes[0]

    assert "up to 173 of 784" in image(10, 50, 0.25)  # 10 + 2 stated, 10 * 784 / 50 = 157 rounded up, 4 keys
    assert "the budget of 196 allows 1 " in image(10, 50, 0.25)
    assert "the budget of 392 allows 2 " in image(10, 50, 0.5)
    assert "the budget of 196 allows 2 " in image(10, 100, 0.25)
    with pytest.raises(ValueError, match=r"540 of 784 .*got 196.*larger batches than 50.*narrower than 32.*of 0.69"):
        image(32, 50, 0.25)
    assert "the budget of 540 allows 1 " in image(32, 50, 0.69)
    assert "nothing is refused" in image(32, 50, 1.0)


@pytest.mark.parametrize(("size", "told"), [(40, 11), (30, 4 + 13), (22, 64)])
def test_a_gradient_counts_by_the_size_of_its_own_batch(size: int, told: int, tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow", data=slice_of(0, size))  # batches of 20 and 20, 20 and 10, 20 and 2
    node.enrol()
    assert not node.judge(node.train()).convicted
    assert node.verifier.disclosure(node.node_id).max_rank == min(64, told + 2)
    with closing(sqlite3.connect(tmp_path / "disclosed.sqlite")) as db:
        assert db.execute("SELECT max(known) FROM disclosed").fetchone() == (told + 2,)  # the device's own count


def test_equal_samples_in_a_batch_are_one_to_the_devices_count(tmp_path: Path) -> None:
    samples, labels = slice_of(0)
    data = np.concatenate([samples[:1].repeat(20, 0), samples[20:]]), labels
    node = Node(tmp_path, "narrow", data=data, budget=0.5)
    node.plan = replace(node.plan, batch_size=40)
    node.verifier = SpotCheck(node.plan, SHAPE, node.verifier.authority, steps=1, max_value=16)
    node.enrol()
    case = node.train()
    node.answer(node.verifier.challenge(case))
    with closing(sqlite3.connect(tmp_path / "disclosed.sqlite")) as db:
        known = {known for (known,) in db.execute("SELECT known FROM disclosed")}
    assert known == {4 + 7 + 1}  # 21 different samples: ceil(2 * 64 / 21), where 40 would count 4
    node.verifier._pending.clear()
