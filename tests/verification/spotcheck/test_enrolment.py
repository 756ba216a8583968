"""What a node may enrol, and what its enrolment costs the others: nothing that it has only stated."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.authority import LocalAuthority, Registration
from flwr_faa.authority.registration import MAX_SAMPLES
from flwr_faa.detection import Everyone
from flwr_faa.pipeline import Pipeline
from flwr_faa.report import Outcome
from flwr_faa.verification.base import Misconfigured
from flwr_faa.verification.spotcheck import enrolment
from flwr_faa.verification.spotcheck.messages import Commitment, Enrolled
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import WireError
from tests.helpers.federation import RUNNERS
from tests.helpers.toy import FINE, NARROW, honest_replies, seen_by, slice_of
from tests.verification.spotcheck.spot import SHAPE, Node


def stated(node: Node, samples: int, width: int = 64) -> bytes:
    """An enrolment answer of 237 bytes about data that nobody has."""
    public = node.verifier.authority.signed_public_key(node.node_id, 64).public
    lie = Registration(bytes(32), samples, width, FINE, b"")
    try:
        lie = lie.signed(Ed25519PrivateKey.generate(), node.node_id, public)
    except Exception:  # noqa: BLE001 - not even expressible: sent unsigned
        lie = replace(lie, verify_key=bytes(32), signature=bytes(64))
    return Enrolled(lie, width, 0).to_bytes()


def test_a_registration_of_millions_of_samples_costs_nobody_anything(tmp_path: Path) -> None:
    """237 bytes that state 2^20 samples: no list of them, at the server, at the authority, or in an answer."""
    node = Node(tmp_path, "narrow", budget=0.9)
    tracemalloc.start()
    for number in range(20):
        node.node_id = number
        answer = stated(node, MAX_SAMPLES)
        assert len(answer) < 300
        node.verifier.enrol(number, answer)
        assert node.verifier.samples(number) == MAX_SAMPLES
        case = replace(node.train(0), node_id=number)
        with pytest.raises(WireError, match="52429 moves"):  # far from what was committed to: nothing is drawn for it
            node.verifier.challenge(case)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    assert isinstance(node.verifier.authority.disclosure(3).remaining, int)


ONE = cache(lambda: Node(Path("unused"), "narrow"))


@given(st.sampled_from([0, -1, MAX_SAMPLES + 1, 2**24, 2**32, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 0))
def test_no_other_number_of_samples_can_be_registered(samples: int) -> None:
    node = ONE()  # one for all: whoever is refused leaves nothing behind
    with pytest.raises(WireError):
        node.verifier.enrol(node.node_id, stated(node, samples))
    assert node.verifier.samples(node.node_id) is None


def test_a_device_refuses_what_server_and_authority_would(tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow")
    request = node.verifier.enrolment(node.node_id)
    assert request is not None
    many = np.zeros((MAX_SAMPLES + 1, 0), np.uint8), np.zeros(MAX_SAMPLES + 1, np.int64)
    with pytest.raises(WireError, match=f"at most {MAX_SAMPLES}"):
        enrolment.enrol(node.device, many, request)


# What could never be checked


UNAFFORDABLE = [(21, "leave out 1 samples, add 7,"), (41, "leave out 1 samples"), (3, "; add 5,")]


@pytest.mark.parametrize(("samples", "told"), UNAFFORDABLE)
def test_data_that_no_budget_covers_are_refused_with_what_to_change(samples: int, told: str, tmp_path: Path) -> None:
    """The last batch of one: its gradient is its sample, and no check could ever open it."""
    node = Node(tmp_path, "narrow", budget=0.95, data=slice_of(0, samples))
    with pytest.raises(Misconfigured, match="a check discloses") as refused:
        node.enrol()
    assert told in str(refused.value)
    assert node.verifier.enrolment(node.node_id) is not None and node.verifier.samples(node.node_id) is None
    node.data = seen_by(node.plan, slice_of(0, 40))
    node.enrol()
    assert not node.judge(node.train()).convicted


@given(st.integers(1, 90), st.integers(1, 25), st.sampled_from([0.2, 0.3, 0.5, 0.7, 0.99, 1.0]))
def test_whoever_may_enrol_can_be_checked_at_least_once(samples: int, batch: int, budget: float) -> None:
    """And whoever may not could never be: enrolment and the first challenge agree."""
    plan = replace(NARROW, batch_size=batch)
    try:
        verifier = SpotCheck(plan, SHAPE, LocalAuthority("arkworks", budget), steps=1, max_value=FINE)
    except ValueError:  # not even full batches
        return
    node = Node(Path("unused"), "narrow")
    node.plan, node.verifier = plan, verifier
    try:
        verifier.enrol(node.node_id, stated(node, samples))
    except Misconfigured:
        return
    moves = np.ones((plan.steps(samples), 1), np.float32)
    sent = Commitment(bytes(32), bytes(32), moves).to_bytes()
    case = replace(honest_case(node), commitment=sent, num_examples=samples)
    assert verifier.challenge(case)


def honest_case(node: Node) -> Any:
    from flwr_faa.verification.base import Case

    start = node.plan.initial_arrays(0)
    return Case(1, node.node_id, 1, start, start, 1)


@pytest.mark.parametrize("api", RUNNERS)
def test_who_enrols_what_could_never_be_checked_takes_no_part(api: str, tmp_path: Path, caplog: Any) -> None:
    from flwr_faa.verification.spotcheck.device import Device

    plan = replace(NARROW, batch_size=39)  # everybody has 40 samples
    verifier = SpotCheck(plan, authority=LocalAuthority("arkworks", 0.65), steps=1, max_value=FINE)
    device = Device(tmp_path, 0.65, progress=lambda done, total: None)
    done = RUNNERS[api](plan, nodes=3, rounds=1, verifier=verifier, detector=Everyone(), device=device, seed=3)
    assert caplog.text.count("leave out 1 samples") >= 3
    assert {(v.verdict, v.banned) for r in done.reports for v in r.nodes} <= {(Outcome.REJECTED, False)}


@pytest.mark.parametrize("reported", [10**6, 39, 40.5, 1, True])
def test_another_number_of_examples_than_enrolled_is_rejected_unsuspected(reported: Any, tmp_path: Path) -> None:
    node = Node(tmp_path, "narrow")
    node.node_id = 999
    node.enrol()
    start = node.plan.initial_arrays(0)
    replies = honest_replies(node.plan, start, 0, 4)
    for told in (reported, 40, 40.0):
        sent = [replace(r, num_examples=told) if r.node_id == 999 else r for r in replies]
        quiet = Pipeline(detector=Nobody(), verifier=node.verifier)
        _, report = quiet.run(1, sent, start, lambda challenges: {})
        verdict = next(v for v in report.nodes if v.node_id == 999)
        assert verdict.accepted == (told == 40)
        assert (
            told == 40 or ("expected a number" if told is True else "40 samples that it has enrolled") in verdict.reason
        )
        assert sum(v.accepted for v in report.nodes) >= 3


class Nobody:
    """Suspects nobody, and audits nobody."""

    def detect(self, batch: Any, seed: int) -> Any:
        from flwr_faa.detection.base import Detection

        return Detection(np.zeros(len(batch)), 1.0, (), ("",) * len(batch))

    def more(self, batch: Any, detection: Any, judged: Any) -> tuple[int, ...]:
        return ()
