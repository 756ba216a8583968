"""Clients that kick one step of the run where nobody may look: parameters, momentum, or a running statistic.

A kick is what a checkpoint holds besides what the step has made of it. How much of one gets past the spot check:
``python -m apps.studies.spotcheck_harm``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients.roles import Fit
from apps.lab.clients.spotcheck_lies import Liar
from apps.lab.clients.spotcheck_tampering import Kick, Tampered
from flwr_faa import TrainingPlan
from flwr_faa.client import NONCE
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.messages import Commitment
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace
from flwr_faa.verification.training import Checkpoint

#: One array for every array of a model.
Arrays = Sequence[npt.NDArray[Any]]


def at_step(step: int, change: Callable[[Checkpoint], Checkpoint]) -> Kick:
    """Return a kick that acts in one step alone."""
    return lambda index, after: change(after) if index == step else after


def push(layout: StateLayout, direction: Arrays, by: float) -> Callable[[Checkpoint], Checkpoint]:
    """Add to the parameters."""

    def change(checkpoint: Checkpoint) -> Checkpoint:
        arrays = list(checkpoint.arrays)
        for i in layout.parameters:
            arrays[i] = (arrays[i] + by * direction[i]).astype(arrays[i].dtype)
        return replace(checkpoint, arrays=tuple(arrays))

    return change


def spin(layout: StateLayout, direction: Arrays, by: float) -> Callable[[Checkpoint], Checkpoint]:
    """Turn the momentum so that the parameters will coast that far; where there is none, push."""
    if not layout.coast:
        return push(layout, direction, by)

    def change(checkpoint: Checkpoint) -> Checkpoint:
        pairs = zip(checkpoint.momentum, layout.parameters, strict=True)
        kept = [(m - by / layout.coast * direction[i]).astype(m.dtype) for m, i in pairs]
        return replace(checkpoint, momentum=tuple(kept))

    return change


def set_buffer(
    plan: TrainingPlan, suffix: str, value: float, channel: int | None
) -> Callable[[Checkpoint], Checkpoint]:
    """Set the buffers whose names end so, or one number of each, to a value."""
    names = [name.endswith(suffix) for name in plan.blank().state_dict()]

    def change(checkpoint: Checkpoint) -> Checkpoint:
        arrays = [np.array(a) for a in checkpoint.arrays]
        for array, chosen in zip(arrays, names, strict=True):
            if chosen:
                array.reshape(-1)[slice(None) if channel is None else channel % array.size] = value
        return replace(checkpoint, arrays=tuple(arrays))

    return change


def retrace(run: Run, trace: Trace, root: bytes) -> Commitment:
    """Commit to another trace of a run that is kept, and keep that."""
    data = run.path.read_bytes()
    whole = trace.to_bytes()
    run.path.write_bytes(data[: len(data) - len(whole)] + whole)
    return Commitment(root, trace.digest, trace.moves())


@dataclass
class KicksMomentum(Liar):
    """Turns its momentum in one step that is not the last, so that its update becomes ``-by`` times the honest one.

    Where the plan has no momentum it pushes the parameters.

    Parameters
    ----------
    by : float
    steps : int
        It spreads the kick over so many steps.
    """

    by: float = 8.0
    steps: int = 1

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        nonce, layout = int(config[NONCE]), StateLayout.of(self.plan)
        honest = self.plan.train(parameters, self.data, nonce)
        update = [a.astype(np.float64) - w for a, w in zip(honest, parameters, strict=True)]
        count = self.plan.steps(len(self.data[1]))
        chosen = np.random.default_rng(nonce).permutation(max(1, count // 2))[: self.steps].tolist()
        left = 1 - self.plan.momentum ** (count - 1 - max(chosen))  # of all that momentum would do
        change = spin(layout, update, -(self.by + 1) / left / len(chosen))

        def kick(index: int, after: Checkpoint) -> Checkpoint:
            return change(after) if index in chosen else after

        return self.train(parameters, config, Tampered.of(self.plan, kick=kick))


@dataclass
class KicksBuffer(Liar):
    """Sets a buffer to a value in one step that is not the last.

    Parameters
    ----------
    buffer : str
        How its name ends.
    value : float
    channel : int, optional
        Only this number of each of them.
    """

    buffer: str = "running_var"
    value: float = -7e6
    channel: int | None = None

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        count = self.plan.steps(len(self.data[1]))
        step = int(np.random.default_rng(int(config[NONCE])).integers(0, max(1, count - 1)))
        kick = at_step(step, set_buffer(self.plan, self.buffer, self.value, self.channel))
        return self.train(parameters, config, Tampered.of(self.plan, kick=kick))
