"""A spot check without an authority: what both sides count, what a device refuses, and what nobody can borrow."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.lab.clients.spotcheck_lies import changed, rewrite
from flwr_faa.authority import LocalAuthority
from flwr_faa.client import answer
from flwr_faa.verification.base import Exhausted, Misconfigured
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment, Enrol, Enrolled
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import OPENED, PLANS, slice_of
from tests.verification.spotcheck.spot import BINDINGS, Node, backends


def committed(folder: Path, name: str = "narrow", **more: Any) -> Node:
    return Node(folder, name, binding="commitments", **more)


def told_by_device(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "disclosed.sqlite")) as db:
        return int(db.execute("SELECT max(known) FROM disclosed").fetchone()[0])


# What is counted


def test_commitments_are_what_binds_unless_an_authority_is_given() -> None:
    plan = PLANS["logistic"]
    assert type(SpotCheck(plan)._binding).__name__ == "CommittedBinding"
    assert type(SpotCheck(plan, authority=LocalAuthority("arkworks", 1.0))._binding).__name__ == "EncryptedBinding"
    assert "each device says at enrolment" in SpotCheck(plan).notes[0]


def test_both_sides_count_the_same_and_the_server_asks_for_nothing_beyond(tmp_path: Path) -> None:
    node = committed(tmp_path, budget=0.9)
    node.enrol()
    assert node.verifier.affordable(node.node_id) == (9 * 64 // 10) / OPENED
    for check in range(1, 3):
        assert not node.judge(node.train(check)).convicted
        known = node.verifier.disclosure(node.node_id)
        assert known.max_rank == told_by_device(tmp_path) <= check * OPENED
        assert (known.budget, known.remaining, known.keys_issued) == (57, 57 - known.max_rank, 0)
    later = node.train(3)
    node.verifier._binding._accounts[node.node_id].before += OPENED
    with pytest.raises(Exhausted, match="budget spent"):
        node.verifier.challenge(later)


def test_no_more_is_known_than_with_encryption(tmp_path: Path) -> None:
    known = {}
    for binding in BINDINGS:
        node = Node(tmp_path / binding, "narrow", binding=binding)
        node.enrol()
        assert not node.judge(node.train()).convicted
        known[binding] = node.verifier.disclosure(node.node_id).max_rank
    assert known["commitments"] < known["encryption"]  # by the keys


def test_a_server_that_starts_anew_learns_what_was_told_before(tmp_path: Path) -> None:
    """And so does another server, which has the device under another node id."""
    node = committed(tmp_path, budget=0.5)
    node.enrol()
    assert not node.judge(node.train()).convicted
    told = node.verifier.disclosure(node.node_id).max_rank
    again = committed(tmp_path, budget=0.5, node_id=8)
    again.enrol()
    known = again.verifier.disclosure(8)
    assert (known.max_rank, known.samples_opened) == (told, 0)
    with pytest.raises(Exhausted, match="budget spent"):
        again.verifier.challenge(again.train(24))


def test_enrolling_again_forgets_nothing_whatever_the_device_says(tmp_path: Path) -> None:
    node = committed(tmp_path)
    node.enrol()
    assert not node.judge(node.train()).convicted
    told = node.verifier.disclosure(node.node_id).max_rank
    node.verifier.challenge(node.train(24))  # left open: it is asked to enrol again
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    honest = Enrolled.from_bytes(enrolment.enrol(node.device, node.data, request))
    assert honest.spent == told
    node.verifier.enrol(node.node_id, replace(honest, spent=0).to_bytes())
    known = node.verifier.disclosure(node.node_id)
    assert (known.max_rank, known.enrolments) == (told, 2)


def test_a_device_refuses_what_is_beyond_its_budget_whoever_asks(tmp_path: Path) -> None:
    node = committed(tmp_path, budget=0.5)
    node.enrol()
    assert not node.judge(node.train()).convicted
    later = node.train(24)
    root = Commitment.from_bytes(later.commitment, 2, 1).root
    data = node.verifier._registered[node.node_id].root
    curious = Challenge(root, data, node.key, (0, 1), bytes(32))
    with pytest.raises(WireError, match="at most 32 of 64 dimensions"):
        node.answer(curious.to_bytes())


def test_a_device_with_too_small_a_budget_is_told_so_and_takes_no_part(tmp_path: Path) -> None:
    node = committed(tmp_path, budget=0.1)
    with pytest.raises(Misconfigured, match="64 dimensions of a sample, got 6: "):
        node.enrol()
    assert node.verifier.samples(node.node_id) is None


@pytest.mark.parametrize("stated", [{"allowed": -1}, {"allowed": 65}, {"spent": -1}, {"allowed": 2**62}])
def test_a_device_states_a_budget_that_can_be(stated: dict[str, int], tmp_path: Path) -> None:
    node = committed(tmp_path)
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    honest = Enrolled.from_bytes(enrolment.enrol(node.device, node.data, request))
    with pytest.raises(WireError, match="expected a budget"):
        node.verifier.enrol(node.node_id, replace(honest, **stated).to_bytes())


# Who is bound, and to what


def test_a_node_belongs_to_the_device_that_enrolled_first(tmp_path: Path) -> None:
    node = committed(tmp_path / "one")
    node.enrol()
    other = replace(node.device, folder=tmp_path / "two")
    node.verifier._pending[node.node_id] = None  # type: ignore[assignment]
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    with pytest.raises(WireError, match="device that enrolled as node"):
        node.verifier.enrol(node.node_id, enrolment.enrol(other, node.data, request))


def test_a_registration_is_signed_for_one_node(tmp_path: Path) -> None:
    node = committed(tmp_path)
    other = Enrol.from_bytes(node.verifier.enrolment(5) or b"")
    signed = enrolment.enrol(node.device, node.data, other.to_bytes())
    with pytest.raises(WireError, match="signature"):
        node.verifier.enrol(node.node_id, signed)
    forged = Enrolled.from_bytes(signed)
    wrong = replace(forged, registration=replace(forged.registration, root=bytes(32)))
    with pytest.raises(WireError, match="signature"):
        node.verifier.enrol(5, wrong.to_bytes())
    node.verifier.enrol(5, signed)


def test_a_device_commits_under_no_parameters_but_its_own(tmp_path: Path) -> None:
    node = committed(tmp_path)
    asked = Enrol.from_bytes(node.verifier.enrolment(node.node_id) or b"")
    for wrong in (b"", asked.parameters + b"2", asked.parameters.replace(b"commitments/2", b"commitments/1")):
        with pytest.raises(WireError, match="other parameters"):
            enrolment.enrol(node.device, node.data, replace(asked, parameters=wrong).to_bytes())
    with pytest.raises(WireError, match="parameters"):
        enrolment.enrol(node.device, node.data, replace(asked, group="secp").to_bytes())
    assert not (tmp_path / "enrolments").exists()


def test_a_device_that_pins_no_authority_encrypts_for_nobody(tmp_path: Path) -> None:
    """Or a server could ask for encryption under a key of its own, and read everything."""
    node = Node(tmp_path, "logistic", binding="encryption")
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    with pytest.raises(WireError, match="'encrypted': refused"):
        answer(node.plan, node.data, request, device=Device(tmp_path))
    pinned = Device(tmp_path, authority=node.authority.verify_key)  # type: ignore[union-attr]
    assert answer(node.plan, node.data, request, device=pinned)
    assert answer(node.plan, node.data, committed(tmp_path / "c", "logistic").verifier.enrolment(7), device=pinned)  # type: ignore[arg-type]


# What nobody can borrow


def roll(proofs: np.ndarray) -> np.ndarray:
    return np.roll(proofs, 1, 0)


PROOFS: dict[str, Callable[[np.ndarray], Any]] = {
    "another step's": roll,
    "none": np.zeros_like,
    "a bit of one": lambda proofs: proofs.__setitem__((0, -1), proofs[0, -1] ^ 1),
    "a bit of a point": lambda proofs: proofs.__setitem__((0, 3), proofs[0, 3] ^ 1),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    node = committed(tmp_path_factory.mktemp("device"), "mlp")
    node.enrol()
    return node


@pytest.mark.parametrize("lie", PROOFS)
def test_other_proofs_convict(lie: str, node: Node) -> None:
    finding = node.judge(node.train(), changed(proofs=PROOFS[lie]))
    assert finding.convicted, finding


def test_a_proof_for_another_challenge_or_round_convicts(node: Node) -> None:
    """The same run challenged twice, and the next round's."""
    case = node.train()
    first = Answer.from_bytes(node.answer(node.verifier.challenge(case)))
    assert node.judge(case, lambda honest: replace(honest, proofs=first.proofs)).convicted
    assert node.judge(node.train(24), lambda honest: replace(honest, proofs=first.proofs)).convicted
    # Sent whole it is of other vectors s, too.
    node.verifier.challenge(case)
    assert node.verifier.judge(case, first.to_bytes()).convicted


def test_another_nodes_commitments_are_of_no_use(tmp_path: Path, node: Node) -> None:
    """A thief registers an honest node's commitments under its own key, and trains on data of its own."""
    thief = committed(tmp_path, "mlp", node_id=9, data=(slice_of(3)[0], node.data[1]))
    thief.enrol()
    own, theirs = (enrolment.find(n.device, n.data, n.key) for n in (thief, node))
    assert own is not None and theirs is not None
    rewrite(own, theirs.bound(range(40)), node.data[1])
    thief.verifier._pending[9] = None  # type: ignore[assignment]
    thief.enrol()
    assert thief.verifier._registered[9].root == node.verifier._registered[node.node_id].root
    finding = thief.judge(thief.train())
    assert finding.convicted and "not true of the enrolled data" in finding.reason


def test_values_beyond_what_can_be_committed_to_are_refused_on_the_device(tmp_path: Path) -> None:
    node = committed(tmp_path, "logistic")
    samples = slice_of(0)[0].astype(np.int64)
    for wrong in (-1, 2**31):
        samples[0, 0, 0, 0] = wrong
        with pytest.raises(WireError, match="samples that can be bound"):
            node.enrol((samples, slice_of(0)[1]))


def test_charm_and_arkworks_agree_on_who_is_honest(tmp_path: Path) -> None:
    for back_end in backends():
        node = committed(tmp_path / back_end, "logistic", back_end=back_end)
        node.enrol()
        case = node.train()
        assert not node.judge(case).convicted
        assert node.judge(case, changed(claims=lambda a: a.__setitem__((0, 0), a[0, 0] + 1))).convicted


def test_what_binds_a_sample_is_one_point_and_a_step_one_proof(tmp_path: Path) -> None:
    node = committed(tmp_path, "logistic")
    node.enrol()
    shown = Answer.from_bytes(node.answer(node.verifier.challenge(node.train())))
    assert shown.bound.shape[1] == 96 and shown.proofs.shape[1] == 96 + 32 * 66
