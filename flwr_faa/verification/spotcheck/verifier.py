r"""``spotcheck``: a few committed steps of the local run, recomputed from what the client claims of its data.

The client binds itself twice before it learns what it will be asked:

* to its data, once, by enrolment (``enrolment.py``): a Merkle root over what binds each sample, and its label;
* to its run, with every update, by a Merkle root over all its checkpoints (``commitments.py``), and by what every step
  changed (``trace.py``).

A suspect then opens some steps: the last, the ones that changed most, and some drawn at random. Of each it shows the
checkpoints before and after, what binds the batch's samples, and their labels. It *claims* the outputs of the first
layer, ``Z1 = X W1^T``, and the projections ``P = X s``. The s are random integer vectors, a hash of the run's root and
of a seed of the server: neither side chooses them. The server never sees X. It does this (``evidence.py``):

1. It compares. Checkpoint 0 is the broadcast model, the last one is the update, everything that is opened is what was
   committed to, and what the trace says.
2. It tests the claims against what binds the samples (``binding/``). With commitments, the default, the client proves
   them, and nobody else takes part (``binding/claim_proofs.py``). With encryption an authority issues a key that tests
   them (``binding/encrypted.py``). All the rest is the same for both.
3. It recomputes each step from Z1. All layers but the first must agree within ``tau``. For the first,
   ``(W1_t - W1_{t+1}) s`` must agree with ``lr sum_i delta_i P_i``: that is the gradient times s (Freivalds), with
   momentum and weight decay.
4. It bounds ``|P|``. That bounds every x, since s was unknown when the client bound itself to x.

What it does not do: it does not show that data or labels are honest, only that the client trained on what it enrolled.
And it tells the server something. Of every opened sample that is a value for every unit of the layer, one for every s,
and its share of the gradient that the checkpoints show. With commitments closed samples tell nothing; with encryption
each key tells a value of every sample of the node. All of it is counted by the information that it can hold
(``authority/information.py``), and a device refuses more than its budget. For a convolution it is the image itself.

This module draws the steps, and remembers of each node its enrolment, the open question, and how much is known.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.authority import Authority, Disclosure, Registration
from flwr_faa.authority.budget import allowance
from flwr_faa.errors import ArgumentValueError
from flwr_faa.report import DataDisclosure
from flwr_faa.verification.base import Case, Exhausted, Finding, Misconfigured, outcome, worst
from flwr_faa.verification.integer_layer import check_plan
from flwr_faa.verification.refusals import translated
from flwr_faa.verification.settings import check_authority, check_given
from flwr_faa.verification.spotcheck.binding.base import Binding, Tested
from flwr_faa.verification.spotcheck.binding.committed import CommittedBinding
from flwr_faa.verification.spotcheck.binding.encrypted import EncryptedBinding
from flwr_faa.verification.spotcheck.evidence import Bound, Shown
from flwr_faa.verification.spotcheck.first_layer import CALM, LARGEST, IntegerLayer
from flwr_faa.verification.spotcheck.merkle import SIZE
from flwr_faa.verification.spotcheck.messages import (
    VECTOR_MAX,
    VECTORS,
    Answer,
    Challenge,
    Commitment,
    Enrolled,
)
from flwr_faa.verification.spotcheck.plan_check import check_recomputable
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import largest
from flwr_faa.verification.training import Checkpoint, Training, side_by_side
from flwr_faa.verification.wire import WireError


@dataclass(eq=False)
class SpotCheck:
    """Verify some steps of a suspect's run on the data that it is bound to.

    Parameters
    ----------
    plan : Training
        The client's.
    sample_shape : tuple of int, optional
        Of one sample; needed if the first layer is a convolution or the model wants more than vectors.
    authority : Authority, optional
        Binds the data by inner-product encryption under its keys. Without one they are bound by commitments, which
        needs nobody's trust.
    steps : int
        Steps drawn at random, besides the last and those that changed most.
    tau : float, optional
        Relative L2 error of a step above which a suspect is convicted; 1e-3 if the first layer is dense, .02 if it is a
        convolution, since a ReLU or a maximum behind one may fall to another side on another machine.
    max_value : int
        Samples are integers from 0 to this.
    allow_convolution : bool
        A convolutional first layer discloses the image. It must be allowed here, by the client's own budget, and by
        the authority's, if there is one.
    enrol_timeout : float
        Seconds that enrolments may take.
    back_end : {"arkworks", "charm", "auto"}
        Group of the commitments. Every installation has arkworks; charm must be on all devices.

    Raises
    ------
    ValueError
        If the model's first layer is a convolution and that is not allowed, if something other than reshaping happens
        before it, if its steps cannot be recomputed from its first layer (``plan_check.py``), or if the authority's
        budget allows no check at all.

    Examples
    --------
    >>> from torch import nn
    >>> from flwr_faa import FAADL, TrainingPlan
    >>> from flwr_faa.authority import LocalAuthority
    >>> plan = TrainingPlan(model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), lr=0.1)
    >>> strategy = FAADL(verifier=SpotCheck(plan, authority=LocalAuthority(budget=1.0)))
    """

    plan: Training
    sample_shape: tuple[int, ...] | None = None
    authority: Authority | None = None
    steps: int = 2
    tau: float | None = None
    max_value: int = 255
    allow_convolution: bool = False
    enrol_timeout: float = 3600.0
    back_end: str = "arkworks"

    name = "spotcheck"
    simulation_only = False

    def __post_init__(self) -> None:
        check_given(self.plan)
        if self.authority is not None:
            check_authority(self.authority)
        expected.integer("max_value", self.max_value, least=1)
        if self.tau is not None:
            expected.number("tau", self.tau, above=0)
        expected.integer("steps", self.steps, least=0)
        expected.flag("allow_convolution", self.allow_convolution)
        expected.number("enrol_timeout", self.enrol_timeout, above=0)
        if self.sample_shape is not None:
            self.sample_shape = expected.shape("sample_shape", self.sample_shape)
        layer = IntegerLayer.of(self.plan, self.sample_shape)
        if layer.spatial and not self.allow_convolution:
            raise ArgumentValueError(
                "expected a dense first layer, got a convolution: checking it discloses the image (allow_convolution)"
            )
        check_plan(self.plan, layer.sample_shape)
        self._layer = layer
        self._binding: Binding = (
            CommittedBinding(self.back_end) if self.authority is None else EncryptedBinding(self.authority)
        )
        layout = StateLayout.of(self.plan)
        self._measures, self._lengths = layout.measures, layout.lengths
        if self.tau is None:
            self.tau = 0.02 if layer.spatial else 1e-3
        check_recomputable(self.plan, layer, self.tau)
        self._allowed = self._affordable()
        # What is remembered of each node: its enrolment, the question that is open, and how much is known of its data.
        self._registered: dict[int, Registration] = {}
        self._pending: dict[int, Bound] = {}
        self._known: dict[int, Disclosure] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        need, width = self._need(self.most, self.plan.batch_size, self.max_value), self._layer.width
        told = (
            "EVERY IMAGE OPENED IS DISCLOSED TO THE SERVER (its first layer is a convolution)"
            if self._layer.spatial
            else f"a check discloses up to {need} of {width} dimensions of a sample, its share of the gradient "
            f"included: {self._allowed} (docs/threat-model.md)"
        )
        return (f"spotcheck: {told}; labels are in the clear; honest labels and data are not proven",)

    @property
    def most(self) -> int:
        """Steps that a challenge opens at most: first, last, the ones that changed most, and those drawn."""
        return self.steps + 3 + self._measures

    def _need(self, steps: int, smallest: int, top: int) -> int:
        """The most that a check of so many steps tells of a sample, in dimensions, of batches of at least ``smallest``.

        A sample is in one step an epoch, whichever; a step's key tells of all samples. What weights and vectors there
        will be is not known yet, but how large a device lets them be.
        """
        told = self._layer.told(self._layer.largest(VECTORS, VECTOR_MAX), smallest, top)
        every = told.every * steps if self._binding.tells_all else 0
        return min(self._layer.width, told.opened * min(steps, self.plan.epochs) + every)

    def _need_of(self, samples: int, top: int) -> int:
        """The most that any check of so many samples with values up to ``top`` tells of one of them."""
        return self._need(min(self.plan.steps(samples), self.most), self.plan.smallest_batch(samples), top)

    def _affordable(self) -> str:
        """How many checks of full batches the budget allows, in words; raises ValueError if none."""
        size, width = self.plan.batch_size, self._layer.width
        need = self._need(self.most, size, self.max_value)
        if self.authority is None:
            return "each device says at enrolment how much it allows"
        try:
            budget = allowance(width, self._binding.budget)
        except Exhausted:
            return "how often the budget allows it, the authority will say once it is there"
        if need > budget:
            raise ArgumentValueError(self._unaffordable(need, budget))
        return f"the budget of {budget} allows {budget // need}" if budget < width else "nothing is refused"

    def _unaffordable(self, need: int, budget: int) -> str:
        """What to change where no check of full batches is affordable."""
        width, size = self._layer.width, self.plan.batch_size
        wider = self._wide_enough(size, budget)
        larger = f"larger batches than {size}" + (f", of {wider} say" if wider else "")
        return (
            f"expected a budget that allows a check, {need} of {width} dimensions of a sample, got {budget}: take "
            f"{larger}, a first layer narrower than {self._layer.outputs}, fewer TrainingPlan(bits) than "
            f"{self.plan.bits}, or a budget of {math.ceil(100 * need / width) / 100} on devices, and at the authority "
            "if there is one"
        )

    def _wide_enough(self, size: int, budget: int) -> int:
        """The smallest batches from ``size`` on that the budget allows a check of; 0 if none do."""
        enough = [b for b in range(size, 64 * size + 1) if self._need(self.most, b, self.max_value) <= budget]
        return min(enough, default=0)

    # Enrolment

    def enrolment(self, node_id: int) -> bytes | None:
        # A node that left a challenge open may have changed its data: it is asked to enrol (again).
        if node_id in self._registered and node_id not in self._pending:
            return None
        return self._binding.enrolment(node_id, self._layer.width).to_bytes()

    def enrol(self, node_id: int, answer: bytes) -> None:
        enrolled = Enrolled.from_bytes(answer)
        registration = enrolled.registration
        if registration.width != self._layer.width:
            raise WireError(f"expected samples of {self._layer.width} values, got {registration.width}")
        with translated():
            registration.check_form()
        self.check_affordable(registration.samples, registration.top, enrolled.allowed)
        self._binding.register(node_id, self._layer.width, enrolled)
        self._look(node_id)
        self._pending.pop(node_id, None)
        self._registered[node_id] = registration

    def check_affordable(self, samples: int, top: int, allowed: int | None = None) -> None:
        """Refuse so many samples with values up to ``top`` if they could never be checked: whoever enrols them could
        never be asked, or be convicted.

        Parameters
        ----------
        samples, top : int
        allowed : int, optional
            Dimensions of a sample that their device allows; as many as the authority does, or all, if not given.

        Raises
        ------
        Misconfigured
            With what to change.
        """
        if top > self.max_value:
            raise Misconfigured(
                f"expected samples from 0 to {self.max_value}, got {top}: scale them, or SpotCheck(max_value={top})"
            )
        width, size, smallest = self._layer.width, self.plan.batch_size, self.plan.smallest_batch(samples)
        need = self._need_of(samples, top)
        budget = min(width if allowed is None else allowed, allowance(width, self._binding.budget))
        full = self._need(self.most, size, top)
        if full > budget:
            raise Misconfigured(self._unaffordable(full, budget))
        if need > budget:
            wider = next((b for b in range(smallest + 1, size) if self._need(self.most, b, top) <= budget), size)
            fewer = f"leave out {smallest} samples, " if smallest < samples else ""
            raise Misconfigured(
                f"expected samples that a check can be afforded of, got {samples} in batches of "
                f"{size}, the last of an epoch of {smallest}: a check discloses {need} of {width} dimensions of these, "
                f"the budget is {budget}; {fewer}add {wider - smallest}, or change the batch size"
            )

    def samples(self, node_id: int) -> int | None:
        registration = self._registered.get(node_id)
        return None if registration is None else registration.samples

    def disclosure(self, node_id: int) -> DataDisclosure | None:
        registration = self._registered.get(node_id)
        if registration is None:
            return None
        known = self._known[node_id]
        return DataDisclosure(
            node_id, registration.root.hex(), known.samples, known.samples_opened, known.max_rank, known.dimension,
            known.budget, known.remaining, known.enrolments, known.keys_issued,
        )  # fmt: skip

    def affordable(self, node_id: int) -> float:
        registration = self._registered.get(node_id)
        if registration is None:
            return math.inf
        known = self._known[node_id]
        if known.budget >= known.dimension:
            return math.inf
        return known.remaining / self._need_of(registration.samples, registration.top)

    def _look(self, node_id: int) -> Disclosure:
        """Look the count up, and remember it for the report."""
        self._known[node_id] = self._binding.disclosure(node_id)
        return self._known[node_id]

    # The question

    def challenge(self, case: Case) -> bytes:
        registration = self._registered.get(case.node_id)
        if registration is None:
            raise WireError("expected an enrolled node, got one that is not")
        if not case.commitment:
            raise WireError("expected a commitment with the update, got none")
        self._check_weights(case)
        count = self.plan.steps(registration.samples)
        commitment = Commitment.from_bytes(case.commitment, count, self._measures)
        always = {count - 1, *largest(commitment.moves, self._lengths)}
        others = [i for i in range(count) if i not in always]
        drawn = secrets.SystemRandom().sample(others, min(self.steps, len(others)))
        steps = tuple(sorted({*always, *drawn}))
        disclosure = self._look(case.node_id)
        # Where one sample's budget is spent, nothing is asked at all: a client that could foresee which steps can still
        # be checked would cheat in the others.
        smallest = self.plan.smallest_batch(registration.samples)
        need = self._need(len(steps), smallest, registration.top)  # whichever steps were drawn
        if disclosure.budget < self._layer.width and disclosure.remaining < need:
            raise Exhausted(f"disclosure budget spent: a check discloses up to {need} more; {disclosure}")
        key, receipt = self._binding.promise(case.node_id, self._layer.width)
        challenge = Challenge(commitment.root, registration.root, key, steps, secrets.token_bytes(SIZE), receipt)
        self._pending[case.node_id] = Bound(challenge, commitment, registration)
        return challenge.to_bytes()

    def _check_weights(self, case: Case) -> None:
        """Raise Exhausted where devices might refuse to answer: the first layer of the global model is too large."""
        size = float(np.abs(_rows(case.model[self._layer.weight])).sum(1).max())
        if not size <= CALM:
            raise Exhausted(
                f"the global model's first layer has weights whose sizes sum to {size:.3g} in a unit, expected at most "
                f"{CALM} (devices refuse above {LARGEST}): take a lower learning rate or more weight decay"
            )

    # The judgement

    def judge(self, case: Case, evidence: bytes) -> Finding:
        (found,) = self.judge_all([(case, evidence)])
        if isinstance(found, Exception):
            raise found
        return found

    def judge_all(self, answers: Sequence[tuple[Case, bytes]]) -> list[Finding | Exception]:
        # What each shows is held against what it promised.
        opened = [outcome(partial(self._open, case, evidence)) for case, evidence in answers]
        # What they claim is tested together, whoever it is of.
        kept = [o for o in opened if not isinstance(o, Exception)]
        wrong = iter(self._binding.test([o.tested for o in kept]))
        failed = [o if isinstance(o, Exception) else next(wrong) for o in opened]
        # Every step of those whose claims are true is recomputed, over the cores.
        sound = [o for o, why in zip(opened, failed, strict=True) if not isinstance(o, Exception) and why is None]
        calls = [partial(o.shown.error, o.checkpoints, step) for o in sound for step in o.tested.claims]
        errors = iter(side_by_side(calls))
        steps = iter([[next(errors) for _ in o.tested.claims] for o in sound])
        return [
            outcome(partial(self._find, case.node_id, next(steps) if why is None else [why]))
            for (case, _), why in zip(answers, failed, strict=True)
        ]

    def _open(self, case: Case, evidence: bytes) -> _Opened:
        bound = self._pending.get(case.node_id)
        if bound is None:
            raise WireError("expected an answer to a challenge, got one without")
        answer = Answer.from_bytes(evidence)
        shown = Shown(self.plan, self._layer, self._binding.sizes(self._layer), self.max_value, case, bound, answer)
        shown.check_form()
        checkpoints = shown.checkpoints()
        samples, registration = shown.samples(), bound.registration
        context = bound.challenge.context(registration.verify_key, registration.samples)
        claims = shown.claims(checkpoints)
        tested = Tested(case.node_id, registration.root, context, claims, samples, answer.proofs)
        return _Opened(shown, checkpoints, tested)

    def _find(self, node_id: int, errors: Sequence[float | Exception]) -> Finding:
        """What follows from the errors of a node's steps, or from what went wrong before or in one of them.

        Raises what is no contradiction. Its challenge stays open if it has shown nothing that could be judged.
        """
        problems = [e for e in errors if isinstance(e, Exception)]
        if problems and not isinstance(problems[0], Contradiction):
            if isinstance(problems[0], Exhausted):  # no authority any more: nothing that it should enrol again for
                self._pending.pop(node_id)
            raise problems[0]
        bound, tau = self._pending.pop(node_id), self.tau or 0.0
        with suppress(Exhausted):  # the verdict stands, also if the count cannot be looked up
            self._look(node_id)
        if problems:
            return Finding(True, math.nan, tau, str(problems[0]))
        error = worst(e for e in errors if not isinstance(e, Exception))
        told = f"{len(bound.challenge.steps)} of {len(bound.commitment.moves)} steps; {self._known[node_id]}"
        if not error <= tau:
            return Finding(True, error, tau, f"a step differs by {error:.3g}, tolerance {tau:g}; {told}")
        return Finding(False, error, tau, f"steps agree to {error:.3g}, tolerance {tau:g}; {told}")


@dataclass(frozen=True)
class _Opened:
    """An answer that keeps what was promised: what is left is to test its claims and to recompute its steps."""

    shown: Shown
    checkpoints: dict[int, Checkpoint]
    tested: Tested


def _rows(weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return weight.reshape(len(weight), -1).astype(np.float64)
