"""Clients that lie to the spot check in the run itself: some steps are not the plan's, and they commit to that.

What they commit to they can open, so only the recomputation of a challenged step tells. See ``spotcheck_lies.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks.base import like
from apps.lab.clients.roles import Fit
from apps.lab.clients.spotcheck_lies import FreshData, Liar, changed
from flwr_faa import TrainingPlan
from flwr_faa.client import COMMITMENT, NONCE
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.spotcheck.answer import answer
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import Answer, Challenge, Commitment
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import largest
from flwr_faa.verification.training import Checkpoint, Data, FirstLayer

#: Index of a step, the arrays before it and after it as the plan has them; returns what is committed to.
Spoil = Callable[[int, Sequence[npt.NDArray[Any]], Sequence[npt.NDArray[Any]]], Sequence[npt.NDArray[Any]]]
#: Index of a step and the checkpoint after it; returns what is committed to.
Kick = Callable[[int, Checkpoint], Checkpoint]


@dataclass(frozen=True)
class Tampered(TrainingPlan):
    """A plan some of whose steps end elsewhere."""

    spoil: Spoil = lambda index, before, after: after
    kick: Kick = lambda index, after: after

    @classmethod
    def of(cls, plan: TrainingPlan, spoil: Spoil | None = None, kick: Kick | None = None) -> Tampered:
        """A plan, spoilt in its arrays, or in everything that a checkpoint holds."""
        spoilt = cls(**{f.name: getattr(plan, f.name) for f in fields(plan)})
        return replace(spoilt, spoil=spoil or spoilt.spoil, kick=kick or spoilt.kick)

    def train(
        self,
        arrays: Arrays,
        data: Data,
        nonce: int,
        first_layer: FirstLayer | None = None,
        on_step: Callable[[Checkpoint], None] | None = None,
    ) -> list[npt.NDArray[Any]]:
        """As ``TrainingPlan.train``, step by step; the first layer in integers, as the spot check has it."""
        checkpoint = self.start(arrays)
        for index, rows in enumerate(self.batches(len(data[1]), nonce)):
            batch = data[0][rows], data[1][rows]
            after = self.step(checkpoint, batch, nonce, index, integer_first_layer(batch[0], self.scale, self.bits))
            after = replace(after, arrays=tuple(self.spoil(index, checkpoint.arrays, after.arrays)))
            checkpoint = self.kick(index, after)
            if on_step is not None:
                on_step(checkpoint)
        return list(checkpoint.arrays)


def reverse(before: Sequence[npt.NDArray[Any]], after: Sequence[npt.NDArray[Any]], by: float) -> list[npt.NDArray[Any]]:
    """A step in the opposite direction, ``by`` times as long: up the loss."""
    return [like(b - by * (a - b), a) for b, a in zip(before, after, strict=True)]


def nudge(
    before: Sequence[npt.NDArray[Any]], after: Sequence[npt.NDArray[Any]], size: float, unit: bool, seed: int
) -> list[npt.NDArray[Any]]:
    """A step with noise of relative size ``size`` in every array, or in the weights of the first unit alone."""
    rng, spoilt = np.random.default_rng(seed), [np.array(a) for a in after]
    for i, (b, a) in enumerate(zip(before, after, strict=True)):
        if a.dtype.kind != "f" or (unit and i > 0):
            continue
        part = spoilt[i][:1] if unit else spoilt[i]
        noise = rng.standard_normal(part.shape)
        part += (size * np.linalg.norm(a - b) * noise / np.linalg.norm(noise)).astype(a.dtype)
    return spoilt


def moves_of(plan: TrainingPlan, done: Fit, steps: int) -> npt.NDArray[np.float32]:
    """What a finished run has committed to of every step."""
    measures = StateLayout.of(plan).measures
    return Commitment.from_bytes(done[2][COMMITMENT], steps, measures).moves


@dataclass
class TampersOneStep(Liar):
    """Goes some steps backwards, none of which is the last or moves most.

    Parameters
    ----------
    count : int
        How many.
    by : float
        Their length relative to the honest step's.
    """

    count: int = 1
    by: float = 0.3

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        nonce = int(config[NONCE])
        steps, rng = self.plan.steps(len(self.data[1])), np.random.default_rng(nonce)
        for _ in range(100):
            chosen = set(rng.permutation(steps - 1)[: self.count].tolist())
            plan = Tampered.of(self.plan, lambda i, b, a: reverse(b, a, self.by) if i in chosen else a)  # noqa: B023
            done = self.train(parameters, config, plan)
            if not largest(moves_of(self.plan, done, steps), StateLayout.of(self.plan).lengths) & chosen:
                return done
        raise RuntimeError("expected a step that is not the largest, found none")


@dataclass
class TampersLast(Liar):
    """Ends its last step elsewhere.

    Parameters
    ----------
    size : float
        Of the change, relative to the step's.
    unit : bool
        Change the weights of the first layer's first unit alone, which random projections see least of.
    """

    size: float = 0.05
    unit: bool = False

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        nonce = int(config[NONCE])
        last = len(list(self.plan.batches(len(self.data[1]), nonce))) - 1

        def spoil(index: int, before: Any, after: Any) -> Any:
            return nudge(before, after, self.size, self.unit, nonce) if self.chosen(index, last) else after

        return self.train(parameters, config, Tampered.of(self.plan, spoil))

    def chosen(self, index: int, last: int) -> bool:
        """Whether it tampers with a step."""
        return index == last


@dataclass
class TampersAll(TampersLast):
    """Ends every step a little elsewhere."""

    def chosen(self, index: int, last: int) -> bool:
        return True


@dataclass
class MatchesGradients(FreshData):
    """Climbs the loss, and when challenged makes up samples whose honest gradients would have led the same way.

    Real optimisation: Adam on the pixels of every challenged batch, all in range, for the cosine between their gradient
    and the step that was committed to. Then they are rounded, encrypted and answered for honestly.

    Parameters
    ----------
    by : float
        Length of the steps relative to the honest ones'.
    iterations : int
        Of Adam, a step.
    claims_only : bool
        Show the enrolled ciphertexts and labels, and only claim Z1 and P of the made-up samples.
    """

    by: float = 1.0
    iterations: int = 60
    claims_only: bool = False

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        return self.train(parameters, config, Tampered.of(self.plan, lambda i, b, a: reverse(b, a, self.by)))

    def answer(self, challenge: bytes) -> bytes:
        asked = Challenge.from_bytes(challenge)
        data = self.make_up(asked)
        if not self.claims_only:
            return self.show(data, challenge)
        honest = Answer.from_bytes(answer(self.plan, self.data, self.device, challenge))
        run, layer = self._run(asked), IntegerLayer.of(self.plan, data[0].shape[1:])
        batches, claims = list(self.plan.batches(len(data[1]), run.nonce)), []
        for step in asked.steps:
            weight = run.layout.decode(run.read([step])[0]).arrays[layer.weight]
            claims.append(
                layer.claim(
                    data[0][batches[step]], np.concatenate([layer.quantise(weight), asked.vectors(layer.kernel)])
                )
            )
        return changed(claims=lambda _: np.concatenate(claims))(honest).to_bytes()

    def make_up(self, asked: Challenge) -> Data:
        """Its data with the samples of the challenged steps replaced, and unless ``claims_only`` their labels."""
        samples, labels = np.array(self.data[0]), np.array(self.data[1])
        if not self.claims_only:
            labels = (labels + 1) % (labels.max() + 1)  # who wants to unlearn a label teaches another one
        run = self._run(asked)
        batches = list(self.plan.batches(len(labels), run.nonce))
        for step in asked.steps:
            before, after = (run.layout.decode(raw) for raw in run.read([step, step + 1]))
            rows = batches[step]
            samples[rows], _ = match(self.plan, before, after, samples[rows], labels[rows], self.iterations)
        return samples, labels

    def _run(self, asked: Challenge) -> Run:
        return Run.find(self.plan, self.device.checkpoints, asked.run)


def match(
    plan: TrainingPlan,
    before: Checkpoint,
    after: Checkpoint,
    samples: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    iterations: int,
) -> tuple[npt.NDArray[Any], float]:
    """Samples whose gradient points from one checkpoint to the next, and its cosine with that direction.

    Parameters
    ----------
    plan : TrainingPlan
    before, after : Checkpoint
    samples, labels : ndarray
        Where to start, integers in range; labels stay.
    iterations : int
    """
    import torch
    from torch.nn.functional import cosine_similarity, cross_entropy

    model, highest = plan.build(before.arrays).train(), round(1 / plan.scale)
    names = list(model.state_dict())
    wanted = {n: torch.from_numpy(b - a) for n, b, a in zip(names, before.arrays, after.arrays, strict=True)}
    target = torch.cat([wanted[n].flatten() for n, _ in model.named_parameters()])
    parameters, truth = list(model.parameters()), torch.from_numpy(labels)
    start = (torch.from_numpy(samples.astype(np.float32)) / highest).clamp(0.02, 0.98)
    hidden = torch.logit(start).requires_grad_()
    adam = torch.optim.Adam([hidden], lr=0.3)

    def likeness(pixels: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(model(pixels * (highest * plan.scale)), truth)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return cosine_similarity(torch.cat([g.flatten() for g in gradients]), target, dim=0)

    for _ in range(iterations):
        adam.zero_grad()
        (-likeness(torch.sigmoid(hidden))).backward()  # type: ignore[no-untyped-call]
        adam.step()
    found = (torch.sigmoid(hidden) * highest).round().detach()
    return found.numpy().astype(samples.dtype), float(likeness(found / highest).detach())
