"""What a spot check asks, what it costs, and what follows: by hand, on both sides of every limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from apps.lab.clients.spotcheck_lies import changed
from flwr_faa.authority import AuthorityUnavailable, LocalAuthority, Registration
from flwr_faa.authority.information import of_step
from flwr_faa.verification.base import Case, Exhausted, Finding, Misconfigured
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment, Enrolled
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import PLANS, slice_of
from tests.verification.spotcheck.spot import SHAPE, Node

UNITS, WIDTH = 2, 30


def plan(**more: Any) -> TrainingPlan:
    return TrainingPlan(lambda: nn.Linear(WIDTH, UNITS), 0.1, **{"batch_size": 10, **more})


def opened(samples: int, top: int = 255, units: int = UNITS, bits: int = 8, width: int = WIDTH) -> int:
    """Dimensions that one step tells of each of its samples, by units of at most 256, and by two vectors of 128s."""
    return of_step([256 * 2**bits] * units + [128 * width] * 2, units, width, samples, top).opened


def every(units: int = UNITS, width: int = WIDTH) -> int:
    """Dimensions that a step's key tells of every sample."""
    return of_step([256 * 2**8] * units + [128 * width] * 2, units, width, 1, 255).every


# What it is set up with


def test_a_spot_check_by_its_defaults() -> None:
    """Two steps are drawn, besides first, last, the longest by each measure, and the one that grew most."""
    check = SpotCheck(plan())
    assert (check.name, check.simulation_only, check.tau, check.enrol_timeout) == ("spotcheck", False, 1e-3, 3600)
    assert check.most == 2 + 3 + 1 and SpotCheck(plan(momentum=0.5), steps=0).most == 3 + 2
    assert check.check_affordable(10, 255) is None
    with pytest.raises(
        Misconfigured, match=r"^expected samples from 0 to 255, got 256: scale them, or SpotCheck\(max_v"
    ):
        check.check_affordable(10, 256)
    assert check != SpotCheck(check.plan) and len({check, check}) == 1  # each remembers nodes of its own


def test_tolerance_is_wider_behind_a_convolution() -> None:
    assert SpotCheck(PLANS["cnn"], SHAPE, allow_convolution=True).tau == 0.02
    assert SpotCheck(PLANS["cnn"], SHAPE, allow_convolution=True, tau=0.5).tau == SpotCheck(plan(), tau=0.5).tau == 0.5
    with pytest.raises(ValueError, match="expected a dense first layer, got a convolution"):
        SpotCheck(PLANS["cnn"], SHAPE)


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [("max_value", 1, 0), ("tau", 0.5, 0), ("tau", 0.5, -1), ("steps", 0, -1), ("enrol_timeout", 1e-3, 0)],
)
def test_each_argument_has_a_least_value(name: str, least: float, below: float) -> None:
    assert getattr(SpotCheck(plan(), **{name: least}), name) == least  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^expected {name} to be a"):
        SpotCheck(plan(), **{name: below})  # type: ignore[arg-type]


def test_other_arguments_are_refused_by_their_kind() -> None:
    with pytest.raises(TypeError, match="expected allow_convolution to be True or False"):
        SpotCheck(plan(), allow_convolution="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected sample_shape as a tuple of positive integers"):
        SpotCheck(plan(), (0, 30))
    shaped = replace(plan(), model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, UNITS)))
    assert SpotCheck(shaped, [5, 6]).sample_shape == (5, 6)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="authority"):
        SpotCheck(plan(), authority="https://")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="TrainingPlan"):
        SpotCheck(nn.Linear(2, 2))  # type: ignore[arg-type]


# What a check tells, before it is asked


def test_notes_say_what_a_check_discloses() -> None:
    (note,) = SpotCheck(plan()).notes
    start = (
        f"spotcheck: a check discloses up to {opened(10)} of 30 dimensions of a sample, its share of the gradient incl"
    )
    assert note.startswith(start)
    assert "each device says at enrolment how much it allows" in note
    (note,) = SpotCheck(PLANS["cnn"], SHAPE, allow_convolution=True).notes
    assert "EVERY IMAGE OPENED IS DISCLOSED" in note and note.endswith("honest labels and data are not proven")


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_sample_is_in_one_step_an_epoch_and_a_key_is_for_all(epochs: int) -> None:
    """At most as many steps as are opened: here three besides those drawn, one of them by a measure."""
    for steps in (0, 1):
        check = SpotCheck(plan(epochs=epochs, batch_size=100), steps=steps)
        assert check._need(check.most, 100, 255) == min(30, opened(100) * min(epochs, steps + 4))
        asks = SpotCheck(plan(epochs=epochs, batch_size=100), steps=steps, authority=LocalAuthority(budget=1.0))
        wanted = opened(100) * min(epochs, steps + 4) + every() * (steps + 4)
        assert asks._need(asks.most, 100, 255) == min(30, wanted)
        assert asks._need(1, 100, 255) == min(30, opened(100) + every())


def wide(units: int = 2, batch: int = 100, budget: float = 1.0, **more: Any) -> SpotCheck:
    """A check of vectors of 784 values by an authority of that budget; one step is drawn, five are opened at most."""
    shape = TrainingPlan(lambda: nn.Linear(784, units), 0.1, batch, **more)
    return SpotCheck(shape, authority=LocalAuthority("arkworks", budget), steps=1)


def needed(batch: int) -> int:
    """Of 784 dimensions, by such a check."""
    return opened(batch, width=784) + 5 * every(width=784)


def test_a_budget_allows_as_many_checks_as_it_holds() -> None:
    need = needed(100)
    assert 100 < need < 120
    for budget, allowed in ((need, 1), (2 * need - 1, 1), (2 * need, 2), (783, 783 // need)):
        assert f"the budget of {budget} allows {allowed} " in wide(budget=(budget + 0.5) / 784).notes[0]
    wanted = rf"^expected a budget that allows a check, {need} of 784 dim.*, got {need - 1}: "
    with pytest.raises(ValueError, match=wanted):
        wide(budget=(need - 0.5) / 784)
    assert "nothing is refused" in wide(units=32, batch=1).notes[0]  # all of a sample is told, and may be


def test_a_refusal_says_what_is_enough() -> None:
    """The first batch size that is, up to 64 times as large; and the next hundredth of a budget."""
    budget = needed(100)
    with pytest.raises(ValueError) as why:
        wide(batch=10, budget=(budget + 0.5) / 784)
    wider, need = next(b for b in range(10, 641) if needed(b) <= budget), needed(10)
    assert str(why.value) == (
        f"expected a budget that allows a check, {need} of 784 dimensions of a sample, got {budget}: take larger "
        f"batches than 10, of {wider} say, a first layer narrower than 2, fewer TrainingPlan(bits) than 8, or a "
        f"budget of {math.ceil(need / 7.84) / 100} on devices, and at the authority if there is one"
    )
    assert wide(batch=wider, budget=(budget + 0.5) / 784)
    # Batches 64 times as large are named, larger ones are not.
    large = next(b for b in range(640, 0, -64) if needed(b - 1) > needed(b))
    for batch, named in ((large // 64, True), (large // 64 - 1, False)):
        with pytest.raises(ValueError) as why:
            wide(batch=batch, budget=(needed(large) + 0.5) / 784)
        assert (f", of {large} say" in str(why.value)) == (" say" in str(why.value)) == named


class Away(LocalAuthority):
    """One that does not answer."""

    @property
    def budget(self) -> float:  # type: ignore[override]
        raise AuthorityUnavailable("expected an authority, got none")

    @budget.setter
    def budget(self, value: float) -> None:
        pass


def test_an_authority_that_is_away_at_the_start_will_say_later() -> None:
    (note,) = SpotCheck(plan(), authority=Away("arkworks", 1.0)).notes
    assert "how often the budget allows it, the authority will say once it is there" in note


# Who may enrol


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_device_that_allows_a_check_just_so_may_enrol(epochs: int) -> None:
    check = SpotCheck(plan(epochs=epochs, batch_size=240), steps=0)
    need = opened(240) * epochs
    assert need < 29
    for samples in (240, 480):
        check.check_affordable(samples, 255, need)
        wanted = rf"^expected a budget that allows a check, {need} of 30 dim.* got {need - 1}:"
        with pytest.raises(Misconfigured, match=wanted):
            check.check_affordable(samples, 255, need - 1)
    check.check_affordable(1, 255, 30)
    check.check_affordable(1, 255)
    with pytest.raises(Misconfigured):
        check.check_affordable(1, 255, 29)


def test_a_smaller_last_batch_must_be_affordable_too() -> None:
    """With what to change: samples to leave out, or to add until a batch is large enough."""
    check = SpotCheck(plan(batch_size=100), steps=0)
    enough = next(b for b in range(1, 101) if opened(b) <= 15)
    assert opened(100) <= 15 < opened(enough - 1)
    for samples in (100 + enough, 100 - 1, 300):
        check.check_affordable(samples, 255, 15)
    for samples, last in ((100 + enough - 1, enough - 1), (201, 1), (enough - 1, enough - 1)):
        fewer = f"leave out {last} samples, " if last < samples else ""
        wanted = (
            f"expected samples that a check can be afforded of, got {samples} in batches of 100, the last of an epoch "
            f"of {last}: a check discloses {opened(last)} of 30 dimensions of these, the budget is 15; {fewer}add "
            f"{enough - last}, or change the batch size"
        )
        with pytest.raises(Misconfigured) as why:
            check.check_affordable(samples, 255, 15)
        assert str(why.value) == wanted


def test_values_that_hold_less_are_known_sooner() -> None:
    check = SpotCheck(plan(batch_size=100), steps=0)
    assert opened(100, top=1) == 30 > opened(100, top=255)
    check.check_affordable(100, 255, 15)
    with pytest.raises(Misconfigured, match="got 15"):
        check.check_affordable(100, 1, 15)


def stated(check: SpotCheck, **more: Any) -> Enrolled:
    """Somebody's registration with a commitment scheme's signature, which is all that is tested."""
    told = {"root": bytes(32), "samples": 20, "width": WIDTH, "top": 255, "verify_key": b"", **more}
    parameters = check._binding.enrolment(7, WIDTH).parameters
    return Enrolled(Registration(**told).signed(Ed25519PrivateKey.generate(), 7, parameters), told["width"], 0)


def test_who_has_enrolled_is_asked_again_only_if_a_question_is_open() -> None:
    check = SpotCheck(plan())
    assert check.samples(7) is check.disclosure(7) is None and check.affordable(7) == math.inf
    request = check.enrolment(7)
    assert request is not None
    first = stated(check)
    check.enrol(7, first.to_bytes())
    assert (check.samples(7), check.enrolment(7)) == (20, None) and check.enrolment(8) is not None
    known = check.disclosure(7)
    assert known is not None and (known.node_id, known.data, known.samples) == (7, bytes(32).hex(), 20)
    assert check.affordable(7) == math.inf  # it allows everything
    check.challenge(case(check))
    assert check.enrolment(7) == request
    check.enrol(7, first.to_bytes())
    assert check.enrolment(7) is None and check.disclosure(7).enrolments == 2  # type: ignore[union-attr]


def case(check: SpotCheck, moves: Any = ((1, 1),), **more: Any) -> Case:
    start = check.plan.initial_arrays(0)
    sent = Commitment(bytes(32), bytes(32), np.array(moves, np.float32).T).to_bytes()
    return replace(Case(1, 7, 1, start, start, 20, sent), **more)


@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_samples_of_another_width_are_refused(width: int) -> None:
    check = SpotCheck(plan())
    with pytest.raises(WireError, match=f"^expected samples of 30 values, got {width}$"):
        check.enrol(7, stated(check, width=width).to_bytes())
    bad = replace(stated(check), registration=replace(stated(check).registration, root=bytes(31)))
    with pytest.raises(WireError, match="expected root, key and signature"):
        check.enrol(7, bad.to_bytes())
    assert check.samples(7) is None


# The question


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
def test_a_question_opens_what_it_must_and_as_many_more_as_are_drawn(steps: int) -> None:
    """Of six steps the first, the last and the second, which is longest; of the others as many as there are."""
    check = SpotCheck(plan(batch_size=4), steps=steps)
    check.enrol(7, stated(check, samples=24).to_bytes())
    seen = set()
    for _ in range(40):
        asked = Challenge.from_bytes(check.challenge(case(check, [[1, 3, 1, 1, 1, 1]])))
        assert {0, 1, 5} <= {*asked.steps} and len(asked.steps) == 3 + min(steps, 3)
        seen |= {*asked.steps}
        bound = check._pending[7]
        assert bound.challenge == asked and bound.registration is check._registered[7]
    assert seen == ({0, 1, 2, 3, 4, 5} if steps else {0, 1, 5})
    assert len(asked.seed) == 32 and asked.run == bytes(32) and asked.receipt == b""
    assert asked.key == check._binding.promise(7, WIDTH)[0]


def test_nobody_is_asked_without_enrolment_or_commitment() -> None:
    check = SpotCheck(plan())
    with pytest.raises(WireError, match=r"^expected an enrolled node, got one that is not$"):
        check.challenge(case(check))
    check.enrol(7, stated(check).to_bytes())
    with pytest.raises(WireError, match=r"^expected a commitment with the update, got none$"):
        check.challenge(case(check, commitment=b""))
    with pytest.raises(WireError, match="expected 2 moves by 1 measures"):
        check.challenge(case(check, [[1, 1, 1]]))
    assert check._pending == {}


@pytest.mark.parametrize("sign", [1, -1])
def test_nobody_is_asked_where_devices_might_refuse(sign: int) -> None:
    """Weights of at most 128 in a unit, so that a step further on they are below 256, which devices refuse."""
    check = SpotCheck(plan())
    check.enrol(7, stated(check).to_bytes())
    start = check.plan.initial_arrays(0)
    for unit in (0, 1):
        weight = np.zeros((UNITS, WIDTH), np.float32)
        weight[unit, :2] = [100 * sign, 28]
        assert check.challenge(case(check, model=[weight, *start[1:]]))
        weight[unit, 2] = 0.25
        wanted = (
            "^the global model's first layer has weights whose sizes sum to 128 in a unit, expected at most "
            r"128 \(devices refuse above 256\): take a lower"
        )
        with pytest.raises(Exhausted, match=wanted):
            check.challenge(case(check, model=[weight, *start[1:]]))
        weight[unit, 2] = np.nan
        with pytest.raises(Exhausted, match="sizes sum to nan"):
            check.challenge(case(check, model=[weight, *start[1:]]))


def test_a_spent_budget_is_nobodys_fault_and_its_last_dimension_is_used() -> None:
    check = SpotCheck(plan(batch_size=100), steps=0)
    need = opened(100)
    for left, asked in ((need, True), (need - 1, False)):
        said = replace(stated(check, samples=100), allowed=need + 3, spent=need + 3 - left)
        check._binding._accounts.clear()  # type: ignore[attr-defined]
        check.enrol(7, said.to_bytes())
        assert check.affordable(7) == left / need
        if asked:
            assert check.challenge(case(check, [[1]], num_examples=100))
        else:
            wanted = rf"^disclosure budget spent: a check discloses up to {need} more; 0 of 100"
            with pytest.raises(Exhausted, match=wanted):
                check.challenge(case(check, [[1]], num_examples=100))


def test_of_a_sample_that_may_be_known_whole_any_number_of_checks_is_asked() -> None:
    check = SpotCheck(plan(batch_size=100), steps=0)
    check.enrol(7, replace(stated(check, samples=100), spent=WIDTH).to_bytes())
    known = check.disclosure(7)
    assert known is not None and (known.budget, known.max_rank, known.remaining) == (WIDTH, WIDTH, 0)
    assert check.challenge(case(check, [[1]], num_examples=100)) and check.affordable(7) == math.inf


# The judgement


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path, "mlp", binding="commitments", data=slice_of(0, 6))
    node.plan = replace(node.plan, batch_size=4)
    node.verifier = replace(node.verifier, plan=node.plan, sample_shape=SHAPE)
    node.enrol()
    return node


def test_an_error_of_just_the_tolerance_is_within_it(node: Node) -> None:
    sent = node.train()
    evidence = node.answer(node.verifier.challenge(sent))
    question = node.verifier._pending[node.node_id]
    first = node.verifier.judge(sent, evidence)
    assert 0 < first.error < first.threshold == node.verifier.tau == 1e-3
    assert node.node_id not in node.verifier._pending
    told = str(node.verifier._known[node.node_id])
    assert first.reason.startswith(f"steps agree to {first.error:.3g}, tolerance 0.001; ")
    assert f"{len(question.challenge.steps)} of 4 steps; {told}" in first.reason and "6 of 6 samples opened" in told
    for tau, convicted in ((first.error, False), (np.nextafter(first.error, 0), True)):
        node.verifier.tau = float(tau)
        node.verifier._pending[node.node_id] = question
        found = node.verifier.judge(sent, evidence)
        assert (found.convicted, found.error, found.threshold) == (convicted, first.error, tau)
        assert found.reason.startswith("a step differs by " if convicted else "steps agree to ")


OUTCOMES: dict[str, tuple[Callable[[bytes], bytes], str | None, bool]] = {
    "honest": (lambda evidence: evidence, None, False),
    "false": (lambda e: changed(claims=lambda a: a + 1)(Answer.from_bytes(e)).to_bytes(), "claim", False),
    "contradicting": (lambda e: changed(labels=lambda a: a + 1)(Answer.from_bytes(e)).to_bytes(), "enrolled", False),
    "none": (lambda evidence: b"", "no evidence", True),
}


@pytest.mark.parametrize("what", OUTCOMES)
def test_what_follows_from_an_answer(what: str, node: Node) -> None:
    """A question stays open only if nothing was shown that could be judged: then the node enrols again."""
    change, reason, still_open = OUTCOMES[what]
    sent = node.train()
    evidence = change(node.answer(node.verifier.challenge(sent)))
    (found,) = node.verifier.judge_all([(sent, evidence)])
    assert (node.node_id in node.verifier._pending) == still_open
    if still_open:
        assert isinstance(found, WireError)
        return
    assert isinstance(found, Finding) and found.convicted == (reason is not None)
    assert math.isnan(found.error) == found.convicted and found.threshold == 1e-3
    assert reason is None or reason in found.reason
    with pytest.raises(WireError, match=r"^expected an answer to a challenge, got one without$"):
        node.verifier.judge(sent, evidence)


def test_what_went_wrong_first_decides(node: Node) -> None:
    """Of a step that could not be recomputed, and of one whose labels contradict."""
    for errors, outcome in (
        ([0.5, Contradiction("first"), WireError("second")], Finding(True, math.nan, 1e-3, "first")),
        ([0.5, WireError("first"), Contradiction("second")], WireError),
        ([Exhausted("first")], Exhausted),
        ([1e-4, math.nan, 1e-5], math.inf),
        ([1e-4, 2e-4], 2e-4),
    ):
        node.verifier.challenge(node.train())
        if isinstance(outcome, type):
            with pytest.raises(outcome, match="first"):
                node.verifier._find(node.node_id, errors)  # type: ignore[arg-type]
        else:
            found = node.verifier._find(node.node_id, errors)  # type: ignore[arg-type]
            if isinstance(outcome, Finding):
                assert (found.convicted, found.reason) == (True, "first") and math.isnan(found.error)
            else:
                assert (found.error, found.convicted) == (outcome, outcome > 1e-3)
        assert (node.node_id in node.verifier._pending) == (outcome is WireError)


def test_a_verdict_stands_where_the_count_cannot_be_looked_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = node.train()
    evidence = node.answer(node.verifier.challenge(sent))

    def away(node_id: int) -> Any:
        raise Exhausted("no authority to ask")

    monkeypatch.setattr(node.verifier._binding, "disclosure", away)
    assert not node.verifier.judge(sent, evidence).convicted
