"""What a suspect shows, point by point: an honest run made by hand, and one thing changed at a time.

Nothing is bound here by more than hashes: whether claims are true of the samples is the bindings' to test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flwr_faa.authority import Registration
from flwr_faa.verification.base import Case
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.enrolment import sample_leaf
from flwr_faa.verification.spotcheck.evidence import Bound, Shown
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment
from flwr_faa.verification.spotcheck.recompute import Contradiction
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace
from flwr_faa.verification.training import Checkpoint
from flwr_faa.verification.wire import WireError

States = list[Checkpoint]
#: Bytes that bind a sample, and of a step's proof.
SIZES = 5, 3


class Model(nn.Module):
    """Statistics that move, and a table of more values than may change."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.register_buffer("table", torch.zeros(4097))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.norm(0.5 * self.fc1(x.flatten(1)))))


def spatial() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(4, 2))


DENSE = TrainingPlan(Model, 0.1, batch_size=4, epochs=2, momentum=0.5, scale=1 / 16), (1, 2, 3)
SPATIAL = TrainingPlan(spatial, 0.1, batch_size=2, scale=1 / 16), (1, 2, 3)


@dataclass(frozen=True)
class Run:
    """A run on 18 samples: ten steps of two epochs, each with batches of 4, 4, 4, 4 and 2; or nine of one."""

    plan: TrainingPlan = DENSE[0]
    shape: tuple[int, ...] = DENSE[1]
    steps: tuple[int, ...] = (0, 4, 9)
    nonce: int = 11

    @cached_property
    def samples(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 17, (18, *self.shape))

    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1] * 2)

    @cached_property
    def layer(self) -> IntegerLayer:
        return IntegerLayer.of(self.plan, self.shape)

    @cached_property
    def layout(self) -> StateLayout:
        return StateLayout.of(self.plan)

    @cached_property
    def states(self) -> States:
        start = self.plan.initial_arrays(1)
        found = [self.plan.start(start)]
        first = integer_first_layer(self.samples, self.plan.scale, self.plan.bits)
        self.plan.train(start, (self.samples, self.labels), self.nonce, first, found.append)
        return found

    def shown(
        self,
        states: States | None = None,
        lie: Callable[[Trace], Trace] = lambda trace: trace,
        steps: tuple[int, ...] | None = None,
        **other: Any,
    ) -> Shown:
        """The honest answer about these states, of which some parts are others: of answer, case or commitment."""
        states, steps = states or self.states, steps or self.steps
        encoded = np.stack([np.frombuffer(self.layout.encode(s), np.uint8) for s in states])
        run = merkle.Tree([merkle.leaf(raw.tobytes()) for raw in encoded])
        trace = lie(Trace.of(self.layout, encoded, run.root))
        bound = np.random.default_rng(1).integers(0, 256, (18, SIZES[0]), np.uint8)
        data = merkle.Tree([sample_leaf(b, label) for b, label in zip(bound, self.labels.tolist(), strict=True)])
        challenge = Challenge(run.root, data.root, bytes(32), steps, bytes([3]) * 32)
        batches = [list(self.plan.batches(18, self.nonce))[i] for i in steps]
        rows = sorted({int(row) for batch in batches for row in batch})
        opened = sorted({i for step in steps for i in (step, step + 1)})
        claims = []
        for step, batch in zip(steps, batches, strict=True):
            weight = states[step].arrays[self.layer.weight]
            kernels = np.concatenate([self.layer.fixed(weight), challenge.vectors(self.layer.kernel)])
            claims.append(self.layer.claim(self.samples[batch], kernels))
        answer = {
            "start": run.paths([0])[0], "checkpoints": encoded[opened], "checkpoint_paths": run.paths(opened),
            "bound": bound[rows], "paths": data.paths(rows), "labels": self.labels[rows],
            "claims": np.concatenate(claims), "proofs": np.zeros((len(steps), SIZES[1]), np.uint8),
            "positions": trace.positions, "buffers": trace.buffers,
        }  # fmt: skip
        answer |= {name: other.pop(name) for name in list(other) if name in answer}
        moves, digest = other.pop("moves", trace.moves()), other.pop("trace", trace.digest)
        model, end = states[0].arrays, states[-1].arrays
        case = replace(Case(1, 5, self.nonce, other.pop("model", model), end, 18), **other)
        registration = Registration(data.root, 18, self.layer.width, 16, bytes(32))
        promised = Bound(challenge, Commitment(run.root, digest, moves), registration)
        return Shown(self.plan, self.layer, SIZES, 16, case, promised, Answer(**answer))


RUN, CONV = Run(), Run(*SPATIAL, steps=(0, 8))
#: A run of one step.
ONE = Run(replace(DENSE[0], batch_size=18, epochs=1), steps=(0,))


@cache
def honest(run: Run = RUN) -> Answer:
    return run.shown().answer


def edited(array: np.ndarray, at: Any, value: Any) -> np.ndarray:
    """A copy with some entries set, or by a function changed."""
    new = np.array(array)
    new[at] = value(new[at]) if callable(value) else value
    return new


def state(run: Run, step: int, name: str, at: Any, value: Any, momentum: bool = False) -> States:
    """The run's states, with entries of one array of one of them set."""
    states = list(run.states)
    if momentum:
        names = [n for n, _ in run.plan.template.named_parameters()]
        held = list(states[step].momentum)
        held[names.index(name)] = edited(held[names.index(name)], at, value)
        states[step] = replace(states[step], momentum=tuple(held))
    else:
        names, held = list(run.plan.template.state_dict()), list(states[step].arrays)
        held[names.index(name)] = edited(held[names.index(name)], at, value)
        states[step] = replace(states[step], arrays=tuple(held))
    return states


def refuses(shown: Shown, reason: str) -> None:
    with pytest.raises(Contradiction, match=reason):
        shown.checkpoints()


# What is honest


@pytest.mark.parametrize(
    ("run", "steps"), [(RUN, RUN.steps), (RUN, (0, 1, 2, 9)), (RUN, (0, 9)), (CONV, CONV.steps), (ONE, ONE.steps)]
)
def test_an_honest_answer_passes_point_by_point(run: Run, steps: tuple[int, ...]) -> None:
    shown = run.shown(steps=steps)
    shown.check_form()
    batches = list(run.plan.batches(18, run.nonce))
    assert list(shown.batches) == list(steps)
    assert all(np.array_equal(shown.batches[i], batches[i]) for i in steps)
    assert shown.chosen.tolist() == [row for i in steps for row in batches[i].tolist()]
    assert shown.rows.tolist() == sorted({*shown.chosen.tolist()})
    assert np.array_equal(shown.vectors, shown.bound.challenge.vectors(run.layer.kernel))

    opened = shown.checkpoints()
    assert list(opened) == sorted({i for step in steps for i in (step, step + 1)})
    assert all(run.layout.encode(opened[i]) == run.layout.encode(run.states[i]) for i in opened)
    bound = shown.samples()
    assert bound == {row: raw.tobytes() for row, raw in zip(shown.rows, shown.answer.bound, strict=True)}

    claims = shown.claims(opened)
    assert [c.step for c in claims] == list(steps)
    for claim in claims:
        batch = batches[claim.step]
        weight = run.layer.fixed(run.states[claim.step].arrays[run.layer.weight])
        assert claim.layer is run.layer and claim.rows == batch.tolist()
        assert np.array_equal(claim.kernels, np.concatenate([weight, shown.vectors]))
        assert np.array_equal(claim.claimed, run.layer.claim(run.samples[batch], claim.kernels))
        assert shown.error(opened, claim) < 1e-5


def test_labels_are_those_of_the_batchs_own_rows() -> None:
    """Any other label of any row of a step makes it another step."""
    for row in range(len(RUN.shown().rows)):
        shown = RUN.shown(labels=edited(honest().labels, row, lambda label: 1 - label))
        opened = shown.checkpoints()
        wrong = {c.step for c in shown.claims(opened) if shown.error(opened, c) > 1e-3}
        assert wrong == {i for i, batch in shown.batches.items() if shown.rows[row] in batch}


# The form of an answer


SHAPES = {
    "start": (4, 32), "checkpoints": (6, RUN.layout.size), "checkpoint_paths": (6, 4, 32),
    "bound": (5, 5), "paths": (5, 5, 32), "labels": (5,), "claims": (8, 5), "proofs": (3, 3),
    "positions": (11, 2, 32), "buffers": (11, 7),
}  # fmt: skip


def test_all_shapes_follow_from_the_question() -> None:
    """Eleven checkpoints, of which six are opened; batches of 4, 2 and 2; three outputs and two s.

    The last batches of two epochs may share a sample. There are four levels above 11 leaves, and five above 18.
    """
    shown = RUN.shown()
    rows = len({row for batch in shown.batches.values() for row in batch.tolist()})
    for name, shape in SHAPES.items():
        wanted = (rows, *shape[1:]) if name in ("bound", "paths", "labels") else shape
        assert getattr(shown.answer, name).shape == wanted, name
    shown.check_form()
    assert [len(batch) for batch in shown.batches.values()] == [4, 2, 2]
    assert CONV.shown().answer.claims.shape == (4, 1, 2, 3) and CONV.shown().answer.positions.shape == (10, 1, 32)


@pytest.mark.parametrize("name", SHAPES)
def test_each_array_of_another_shape_is_refused(name: str) -> None:
    right = getattr(honest(), name)
    others = [right[:-1], np.concatenate([right, right[-1:]]), right[None]]
    others += [right[:, :-1], np.concatenate([right, right[:, -1:]], axis=1)] if right.ndim > 1 else []
    for wrong in others:
        with pytest.raises(WireError) as refused:
            RUN.shown(**{name: wrong}).check_form()
        assert str(refused.value) == f"{name}: expected shape {right.shape}, got {wrong.shape}"


def test_claims_are_below_what_a_float_holds_exactly() -> None:
    for value in (2**53 - 1, 1 - 2**53):
        RUN.shown(claims=edited(honest().claims, (1, 2), value)).check_form()
    for value in (2**53, -(2**53), 2**63 - 1, -(2**63)):
        with pytest.raises(WireError, match=r"^claims: expected integers below 2\^53 in size, got larger ones$"):
            RUN.shown(claims=edited(honest().claims, (1, 2), value)).check_form()


# The run's checkpoints


@pytest.mark.parametrize("examples", [0, 17, 19])
def test_as_many_examples_as_were_registered(examples: int) -> None:
    refuses(RUN.shown(num_examples=examples), f"^reported {examples} examples, registered 18 samples$")


def test_a_run_starts_at_the_broadcast_model_and_ends_at_the_update() -> None:
    last = RUN.states[-1].arrays
    for i, array in enumerate(last):
        off = edited(array, (0,) if array.ndim == 1 else (), lambda a: a + 1)
        other = [*last[:i], off, *last[i + 1 :]]
        refuses(RUN.shown(claimed=other), "^the committed run does not end at the update that was sent$")
    model = [a + 1 if i == 0 else a for i, a in enumerate(RUN.states[0].arrays)]
    refuses(RUN.shown(model=model), "^the committed run does not start at the broadcast model$")
    moving = state(RUN, 0, "fc1.bias", 0, 1.0, momentum=True)
    refuses(RUN.shown(states=moving), "does not start at the broadcast model")
    start = edited(honest().start, (2, 5), lambda b: b ^ 1)
    refuses(RUN.shown(start=start), "does not start at the broadcast model")


@pytest.mark.parametrize(("place", "index"), [(0, 0), (1, 1), (2, 4), (3, 5), (4, 9), (5, 10)])
def test_each_opened_checkpoint_is_the_one_committed_to(place: int, index: int) -> None:
    reason = f"^checkpoint {index} is not the one committed to$"
    for name, at in (("checkpoints", (place, 40)), ("checkpoint_paths", (place, 1, 7))):
        refuses(RUN.shown(**{name: edited(getattr(honest(), name), at, lambda b: b ^ 1)}), reason)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_opened_checkpoint_is_finite(value: float) -> None:
    refuses(RUN.shown(states=state(RUN, 4, "fc2.weight", (1, 2), value)), "^checkpoint 4 is not finite$")
    refuses(RUN.shown(states=state(RUN, 5, "norm.running_mean", 1, value)), "^checkpoint 5 is not finite$")
    refuses(RUN.shown(states=state(RUN, 9, "fc2.bias", 0, value, momentum=True)), "^checkpoint 9 is not finite$")


# The trace


def test_a_trace_is_the_committed_one_and_finite() -> None:
    refuses(RUN.shown(trace=bytes(32)), "^the trace is not the one committed to$")
    refuses(RUN.shown(buffers=edited(honest().buffers, (5, 0), lambda b: b + 1)), "not the one committed to$")
    with np.errstate(invalid="ignore"):
        for value in (np.nan, np.inf):
            for step, name in ((6, "norm.running_mean"), (2, "fc1.bias")):  # closed, so only their trace is seen
                refuses(RUN.shown(states=state(RUN, step, name, 1, value)), "^the trace is not finite$")


@pytest.mark.parametrize("factor", [1.0009, 0.9991, 1.0011, 0.9989])
def test_moves_are_the_traces_but_for_a_thousandth(factor: float) -> None:
    true = RUN.shown().bound.commitment.moves
    for measure in range(3):
        shown = RUN.shown(moves=edited(true, (5, measure), lambda m: np.float32(m * factor)))
        if abs(factor - 1) < 1e-3:
            shown.checkpoints()
        else:
            refuses(shown, "^some step moved by something else than was committed to$")
    refuses(RUN.shown(moves=edited(true, (5, 0), 0)), "moved by something else")


@pytest.mark.parametrize(("steps", "index"), [((0, 4, 9), 5), ((0, 4, 9), 0), ((0, 1, 9), 2), ((0, 9), 10)])
def test_a_trace_says_of_each_opened_checkpoint_what_it_is(steps: tuple[int, ...], index: int) -> None:
    for name in ("positions", "buffers"):

        def lie(trace: Trace, name: str = name) -> Trace:
            return replace(trace, **{name: edited(getattr(trace, name), (index, 0), lambda a: a + 0.01)})

        refuses(RUN.shown(lie=lie, steps=steps), f"^checkpoint {index} is not what its trace says$")


def test_a_lie_about_a_closed_checkpoint_is_not_seen_here() -> None:
    """It is what ``largest`` limits: the longer it is, the surer it is opened."""
    RUN.shown(lie=lambda t: replace(t, buffers=edited(t.buffers, (2, 0), lambda b: b + 0.01))).checkpoints()


@pytest.mark.parametrize("step", [2, 4, 10])
def test_no_variance_falls_below_zero(step: int) -> None:
    variance = RUN.states[10].arrays[list(RUN.plan.template.state_dict()).index("norm.running_var")]
    assert 0 < variance.min() < 1  # what began at 1 may fall
    states = state(RUN, step, "norm.running_var", 1, -1e-6)
    refuses(RUN.shown(states=states), "^a running variance is negative$")
    RUN.shown(states=state(RUN, step, "norm.running_var", 1, 0.0)).checkpoints()
    RUN.shown(states=state(RUN, step, "norm.running_mean", 1, -9.0)).checkpoints()


def test_a_variance_that_the_server_sent_below_zero_may_rise_and_not_fall() -> None:
    """A model may have such a number, if nothing it does needs it: then it is nobody's lie."""
    start = state(RUN, 0, "norm.running_var", 0, -0.5)
    for value, falls in ((-0.5, False), (-0.25, False), (-0.625, True)):
        states = [start[0], *state(RUN, 2, "norm.running_var", 0, value)[1:]]
        shown = RUN.shown(states=states)
        if falls:
            refuses(shown, "a running variance is negative")
        else:
            shown.checkpoints()


def test_a_large_buffer_stays_as_it_was_sent() -> None:
    at = list(RUN.plan.template.state_dict()).index("table")
    reason = f"^array {at}, which is too large a buffer to change, has changed$"
    for step in (4, 10):
        for value in (1.0, -1.0):
            refuses(RUN.shown(states=state(RUN, step, "table", 4096, value)), reason)
    refuses(RUN.shown(states=state(RUN, 4, "table", 0, 1.0), steps=(0, 3, 9)), reason)
    all_alike = [replace(s, arrays=tuple(a + 1 if a.size == 4097 else a for a in s.arrays)) for s in RUN.states]
    RUN.shown(states=all_alike).checkpoints()


# Samples and claims


@pytest.mark.parametrize("place", range(3))
def test_each_sample_is_the_one_enrolled(place: int) -> None:
    row = RUN.shown().rows[place]
    for name, at in (("bound", (place, 2)), ("paths", (place, 1, 7))):
        with pytest.raises(Contradiction, match=f"^sample {row} is not the one enrolled$"):
            RUN.shown(**{name: edited(getattr(honest(), name), at, lambda b: b ^ 1)}).samples()
    with pytest.raises(Contradiction, match=f"^sample {row} is not the one enrolled$"):
        RUN.shown(labels=edited(honest().labels, place, lambda label: 1 - label)).samples()


def test_projections_that_no_sample_has_are_a_contradiction() -> None:
    """Outputs of the layer may be of any size: they are tested by what binds the samples."""
    top = 16 * 6 * 128
    for at, value in (((1, 3), top + 1), ((4, 4), -top - 1)):
        with pytest.raises(Contradiction, match=r"not from 0 to 16$"):
            RUN.shown(claims=edited(honest().claims, at, value)).samples()
    RUN.shown(claims=edited(honest().claims, (1, 2), 2 * top)).samples()


def test_samples_of_a_convolution_are_seen_themselves() -> None:
    for value in (17, -1):
        with pytest.raises(Contradiction, match=r"not from 0 to 16$"):
            CONV.shown(claims=edited(honest(CONV).claims, (2, 0, 1, 1), value)).samples()
    for value in (0, 16):
        CONV.shown(claims=edited(honest(CONV).claims, (2, 0, 1, 1), value)).samples()


def test_weights_that_no_device_answers_for_are_a_contradiction() -> None:
    states = state(RUN, 4, "fc1.weight", (1, 0), 300.0)
    shown = RUN.shown(states=states)
    with pytest.raises(Contradiction, match=r"^checkpoint 4 has no usable first layer: expected a first layer whose"):
        shown.claims({i: states[i] for i in (0, 4, 9)})
