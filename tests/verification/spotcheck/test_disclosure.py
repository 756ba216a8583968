"""Enrolment, and what checks tell of the enrolled data: kept, counted on both sides, and ended."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from flwr_faa.authority import AuthorityUnavailable, LocalAuthority, Registration
from flwr_faa.verification.base import Exhausted
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.messages import Challenge, Commitment, Enrol, Enrolled
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import EVERY, FINE, NARROW, OPENED, PLANS, slice_of
from tests.verification.spotcheck.spot import SHAPE, Node


def test_enrolment_is_kept_over_restarts_and_other_data_are_another(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    node.enrol()
    request = node.verifier._binding.enrolment(node.node_id, 64)
    assert node.verifier.enrolment(node.node_id) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "_bind", lambda *_: pytest.fail("bound again"))
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
    stored = np.load(folder / "bound.npy")
    stored[:, 100] ^= 1
    np.save(folder / "bound.npy", stored)
    with pytest.raises(RuntimeError, match="expected the bound samples that were written"):
        node.judge(node.train())


def test_disclosure_is_counted_on_both_sides_and_ends(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow", budget=0.7)  # 44 of 64
    node.enrol()
    assert f"up to {OPENED + 5 * EVERY} of 64 dimensions" in node.verifier.notes[0]  # 5 keys where there are more steps
    assert "the budget of 44 allows 1" in node.verifier.notes[0]
    case = node.train()
    assert not node.judge(case).convicted
    report = node.verifier.disclosure(node.node_id)
    assert (report.max_rank, report.samples_opened, report.remaining) == (
        OPENED + 2 * EVERY,
        40,
        44 - OPENED - 2 * EVERY,
    )
    later = node.train(24)
    with pytest.raises(Exhausted, match="budget spent"):
        node.verifier.challenge(later)
    # A curious server that asks no authority is refused by the client itself.
    registered = node.verifier._registered[node.node_id]
    key = hashlib.sha256(node.verifier.authority.public_key(node.node_id, 64).to_bytes()).digest()
    root = Commitment.from_bytes(later.commitment, 2, 1).root
    curious = Challenge(root, registered.root, key, (0,), bytes(32))
    with pytest.raises(WireError, match="at most 44 of 64 dimensions"):
        node.answer(curious.to_bytes())
    # Nor does another node id help, or shuffled data: the same samples are known as well as before.
    node.node_id += 1
    order = np.random.default_rng(0).permutation(len(node.data[1]))
    node.data = (node.data[0][order], node.data[1][order])
    node.enrol()
    with pytest.raises(WireError, match="at most 44 of 64 dimensions"):
        node.judge(node.train(25))
    node.verifier._pending.clear()


def test_claims_stated_while_the_authority_is_away_are_counted_when_it_is_back(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow")
    node.enrol()
    authority = node.verifier.authority
    issue, count = authority.check_key, authority.count

    def away(*args: Any, **kwargs: Any) -> Any:
        raise AuthorityUnavailable("expected an authority, got none")

    case = node.train()
    evidence = node.answer(node.verifier.challenge(case))
    authority.check_key = authority.count = away  # type: ignore[method-assign]
    with pytest.raises(Exhausted, match="no authority to ask"):
        node.verifier.judge(case, evidence)
    assert node.verifier.enrolment(node.node_id) is None  # nothing that the node should enrol again for
    assert node.verifier.disclosure(node.node_id).max_rank == 0
    later = node.train(24)
    with pytest.raises(Exhausted, match="no authority to ask"):
        node.verifier.challenge(later)
    authority.check_key, authority.count = issue, count  # type: ignore[method-assign]
    assert not node.verifier.judge(later, node.answer(node.verifier.challenge(later))).convicted
    assert node.verifier.disclosure(node.node_id).max_rank == min(64, 2 * OPENED + 2 * EVERY)


def test_a_device_that_pinned_the_authority_encrypts_under_no_other_key(tmp_path: Path) -> None:
    node = Node(tmp_path, "logistic")
    request = node.verifier.enrolment(node.node_id)
    stranger = LocalAuthority("arkworks").signed_public_key(node.node_id, 64)
    forged = Enrol("encryption", node.node_id, "arkworks", stranger.to_bytes()).to_bytes()
    other = replace(Enrol.from_bytes(request), node_id=node.node_id + 1).to_bytes()
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
    own = Registration(bytes(32), 40, 64, 16, b"").signed(Ed25519PrivateKey.generate(), node.node_id, public)
    receipt = authority.register(node.node_id, own)
    with pytest.raises(WireError, match="the client that registered node"):
        node.enrol()
    # It goes on as if nothing had happened.
    answer = enrolment.enrol(node.device, node.data, node.verifier.enrolment(node.node_id))
    node.verifier._registered[node.node_id] = Enrolled.from_bytes(answer).registration
    for forged in (b"", receipt, bytes(64)):
        node.verifier._binding._receipts[node.node_id] = forged
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
        SpotCheck(PLANS["cnn"], SHAPE, LocalAuthority(), allow_convolution=True)
    assert "EVERY IMAGE" in SpotCheck(PLANS["cnn"], SHAPE, LocalAuthority(budget=1), allow_convolution=True).notes[0]
    assert SpotCheck(NARROW, authority=LocalAuthority("arkworks", 0.9), max_value=FINE).tau == 1e-3


def test_a_budget_that_allows_no_check_is_refused_at_the_start() -> None:
    def image(units: int, batch: int, budget: float) -> str:
        plan = TrainingPlan(lambda: nn.Linear(784, units), 0.1, batch)
        return SpotCheck(plan, authority=LocalAuthority(budget=budget)).notes[0]

    # In bytes: 10 outputs of 24 bits, 2 projections of 25, floats of 32 shared by the batch, and 6 keys of 52.
    assert f"up to {30 + 8 + 105 + 42} of 784" in image(10, 300, 0.25)
    assert "the budget of 196 allows 1 " in image(10, 300, 0.25)
    assert "the budget of 392 allows 2 " in image(10, 300, 0.5)
    assert "the budget of 392 allows 3 " in image(10, 650, 0.5)
    wanted = r"708 of 784 .*got 196.*larger batches than 50, of 271 say, .*narrower than 10.*bits.*of 0.91"
    with pytest.raises(ValueError, match=wanted):
        image(10, 50, 0.25)
    assert "allows 1 " in image(10, 271, 0.25)
    assert "the budget of 713 allows 1 " in image(10, 50, 0.91)
    with pytest.raises(ValueError, match=r"larger batches than 50, a first layer"):
        image(100, 50, 0.25)  # no batches are large enough for so many units
    assert "nothing is refused" in image(32, 50, 1.0)


@pytest.mark.parametrize(("size", "told"), [(40, OPENED), (30, 8 + 26), (22, 64)])
def test_a_gradient_counts_by_the_size_of_its_own_batch(size: int, told: int, tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow", data=slice_of(0, size))  # batches of 20 and 20, 20 and 10, 20 and 2
    node.enrol()
    assert not node.judge(node.train()).convicted
    assert node.verifier.disclosure(node.node_id).max_rank == min(64, told + 2 * EVERY)
    with closing(sqlite3.connect(tmp_path / "disclosed.sqlite")) as db:
        (counted,) = db.execute("SELECT max(known) FROM disclosed").fetchone()  # the device's own count
    assert min(64, counted) == min(64, told + 2 * EVERY)


def test_equal_samples_in_a_batch_are_one_to_the_devices_count(tmp_path: Path) -> None:
    samples, labels = slice_of(0)
    data = np.concatenate([samples[:1].repeat(20, 0), samples[20:]]), labels
    node = Node(tmp_path, "narrow", data=data, budget=0.7)
    node.plan = replace(node.plan, batch_size=40)
    node.verifier = SpotCheck(node.plan, SHAPE, node.verifier.authority, steps=1, max_value=FINE)
    node.enrol()
    case = node.train()
    node.answer(node.verifier.challenge(case))
    with closing(sqlite3.connect(tmp_path / "disclosed.sqlite")) as db:
        known = {known for (known,) in db.execute("SELECT known FROM disclosed")}
    assert known == {8 + 13 + EVERY}  # 21 different samples: ceil(2 * 2 * 64 / 21), where 40 would count 7
    node.verifier._pending.clear()
