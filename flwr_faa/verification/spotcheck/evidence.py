"""What a suspect shows in a spot check, against what it is bound to and what it was asked. No state.

The points of ``spotcheck.py`` one by one, in their order: ``check_form``, ``checkpoints``, ``samples`` and ``claims``
(what is then to be tested), ``error``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flwr_faa.authority import Registration
from flwr_faa.crypto.exact import Integers
from flwr_faa.verification.base import Case
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.answer import opened_checkpoints
from flwr_faa.verification.spotcheck.binding.step_claims import StepClaims
from flwr_faa.verification.spotcheck.claims import check_range, check_values
from flwr_faa.verification.spotcheck.enrolment import sample_leaf
from flwr_faa.verification.spotcheck.first_layer import LIMIT, IntegerLayer
from flwr_faa.verification.spotcheck.messages import VECTORS, Answer, Challenge, Commitment
from flwr_faa.verification.spotcheck.recompute import Contradiction, step_error
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import ROUNDING, SKETCH, Trace
from flwr_faa.verification.training import Checkpoint, Training
from flwr_faa.verification.wire import WireError

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Bound:
    """What a suspect was bound to, and is asked."""

    challenge: Challenge
    commitment: Commitment
    registration: Registration


@dataclass(frozen=True)
class Shown:
    """An answer, beside the challenge that it answers.

    Parameters
    ----------
    plan, layer
        What was to be trained.
    sizes : pair of int
        Bytes of a bound sample, and of a step's proof.
    max_value : int
        Samples are integers from 0 to this.
    case : Case
    bound : Bound
    answer : Answer
    """

    plan: Training
    layer: IntegerLayer
    sizes: tuple[int, int]
    max_value: int
    case: Case
    bound: Bound
    answer: Answer

    @cached_property
    def layout(self) -> StateLayout:
        """The layout of the plan's checkpoints."""
        return StateLayout.of(self.plan)

    @cached_property
    def vectors(self) -> Integers:
        """The challenge's random vectors s."""
        return self.bound.challenge.vectors(self.layer.kernel)

    @cached_property
    def batches(self) -> dict[int, Rows]:
        """Rows of every challenged step."""
        every = enumerate(self.plan.batches(self.bound.registration.samples, self.case.nonce))
        return {i: rows for i, rows in every if i in self.bound.challenge.steps}

    @cached_property
    def chosen(self) -> Rows:
        """Rows of the challenged steps, one step after the other."""
        return np.concatenate([self.batches[i] for i in self.bound.challenge.steps])

    @cached_property
    def rows(self) -> Rows:
        """These rows in order, each once: whose ciphertexts and labels are shown."""
        return np.unique(self.chosen)

    def check_form(self) -> None:
        """Raise WireError unless the answer has the form that the challenge asks for."""
        challenge, layer = self.bound.challenge, self.layer
        opened, rows = len(opened_checkpoints(challenge.steps)), len(self.rows)
        deep, high = merkle.depth(self.bound.registration.samples), merkle.depth(len(self.bound.commitment.moves) + 1)
        expected = {
            "start": (high, merkle.SIZE),
            "checkpoints": (opened, self.layout.size),
            "checkpoint_paths": (opened, high, merkle.SIZE),
            "bound": (rows, self.sizes[0]),
            "paths": (rows, deep, merkle.SIZE),
            "labels": (rows,),
            "claims": (len(self.chosen), *layer.claim_shape(VECTORS)),
            "proofs": (len(challenge.steps), self.sizes[1]),
            "positions": (len(self.bound.commitment.moves) + 1, 1 + bool(self.layout.coast), SKETCH),
            "buffers": (len(self.bound.commitment.moves) + 1, self.layout.buffer_count),
        }
        for name, shape in expected.items():
            if (got := getattr(self.answer, name).shape) != shape:
                raise WireError(f"{name}: expected shape {shape}, got {got}")
        if self.answer.claims.min() <= -LIMIT or self.answer.claims.max() >= LIMIT:  # what comes next must not overflow
            raise WireError("claims: expected integers below 2^53 in size, got larger ones")

    def checkpoints(self) -> dict[int, Checkpoint]:
        """The opened checkpoints; raises Contradiction unless they and both ends are the committed run's."""
        plan, case, answer, layout = self.plan, self.case, self.answer, self.layout
        steps, commitment, samples = self.bound.challenge.steps, self.bound.commitment, self.bound.registration.samples
        count = len(commitment.moves) + 1
        if case.num_examples != samples:
            raise Contradiction(f"reported {case.num_examples} examples, registered {samples} samples")
        start = plan.start(case.model)
        if not merkle.verify_path(commitment.root, count, 0, merkle.leaf(layout.encode(start)), answer.start):
            raise Contradiction("the committed run does not start at the broadcast model")
        found = {}
        opened = zip(opened_checkpoints(steps), answer.checkpoints, answer.checkpoint_paths, strict=True)
        for index, raw, path in opened:
            encoded = raw.tobytes()
            if not merkle.verify_path(commitment.root, count, index, merkle.leaf(encoded), path):
                raise Contradiction(f"checkpoint {index} is not the one committed to")
            found[index] = layout.decode(encoded)
            if not all(np.isfinite(a).all() for a in (*found[index].arrays, *found[index].momentum)):
                raise Contradiction(f"checkpoint {index} is not finite")
        ends = zip(found[count - 1].arrays, plan.start(case.claimed).arrays, strict=True)
        if not all(a.tobytes() == b.tobytes() for a, b in ends):
            raise Contradiction("the committed run does not end at the update that was sent")
        self._check_trace(list(found))
        return found

    def _check_trace(self, opened: list[int]) -> None:
        """Raise Contradiction unless the trace is the committed one, possible, and what opened checkpoints say.

        Positions are relative to the start, which is opened always: the first step is challenged (``largest``).
        """
        layout, commitment, answer = self.layout, self.bound.commitment, self.answer
        trace = Trace(answer.positions, answer.buffers)
        if trace.digest != commitment.trace:
            raise Contradiction("the trace is not the one committed to")
        if not (np.isfinite(trace.positions).all() and np.isfinite(trace.buffers).all()):
            raise Contradiction("the trace is not finite")
        if not np.allclose(trace.moves(), commitment.moves, rtol=ROUNDING, atol=0):
            raise Contradiction("some step moved by something else than was committed to")
        own = Trace.of(layout, answer.checkpoints, commitment.root)
        differs = Trace(trace.positions[opened], trace.buffers[opened]).differs(own)
        if differs is not None:
            raise Contradiction(f"checkpoint {opened[differs]} is not what its trace says")
        least = np.minimum(trace.buffers[0], 0.0)[layout.variances]
        if (trace.buffers[:, layout.variances] < least).any():
            raise Contradiction("a running variance is negative")
        for i in layout.fixed:
            at = layout.place(i)
            if (answer.checkpoints[:, at] != answer.checkpoints[0, at]).any():
                raise Contradiction(f"array {i}, which is too large a buffer to change, has changed")

    def samples(self) -> dict[int, bytes]:
        """What binds the batches' samples, by row; raises Contradiction unless enrolled, and of data in range."""
        registration, answer = self.bound.registration, self.answer
        rows = self.rows.tolist()
        for row, raw, label, path in zip(rows, answer.bound, answer.labels, answer.paths, strict=True):
            if not merkle.verify_path(registration.root, registration.samples, row, sample_leaf(raw, label), path):
                raise Contradiction(f"sample {row} is not the one enrolled")
        if self.layer.spatial:
            check_values(answer.claims, self.max_value)
        else:
            check_range(answer.claims[:, self.layer.outputs :], self.vectors, self.max_value)
        return {row: raw.tobytes() for row, raw in zip(rows, answer.bound, strict=True)}

    def claims(self, checkpoints: Mapping[int, Checkpoint]) -> list[StepClaims]:
        """What is claimed of every step's samples."""
        layer, claims = self.layer, []
        for step, batch, outputs in self._by_step():
            try:
                own = layer.quantise(checkpoints[step].arrays[layer.weight])
            except ValueError as error:
                raise Contradiction(f"checkpoint {step} has no usable first layer: {error}") from error
            claims.append(StepClaims(layer, step, batch.tolist(), np.concatenate([own, self.vectors]), outputs))
        return claims

    def error(self, checkpoints: Mapping[int, Checkpoint], claims: StepClaims) -> float:
        """The error of a challenged step."""
        step = claims.step
        return step_error(
            self.plan, self.layer, (checkpoints[step], checkpoints[step + 1]), claims.outputs,
            self.answer.labels[np.searchsorted(self.rows, claims.rows)], self.vectors, self.case.nonce, step,
        )  # fmt: skip

    def _by_step(self) -> Iterator[tuple[int, Rows, Integers]]:
        """Each challenged step with its batch's rows and the claims about them, which stand one after another."""
        at = 0
        for step in self.bound.challenge.steps:
            batch = self.batches[step]
            yield step, batch, self.answer.claims[at : at + len(batch)]
            at += len(batch)
