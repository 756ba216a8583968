"""``python -m apps.studies.spotcheck_harm``: measure how much one step that stays closed can do to an update.

An attacker that knows all but the draw kicks one step of its run (``spotcheck_kicks.py``), against its honest
update, as hard as it can without that step being opened for certain. Harm is what that changes in the update, relative
to the longest step of the run by any measure (``trace.py``) and to the honest update; for a running variance, relative
to how far the honest run moves it. ``--write`` puts the table into docs/explanation/spotcheck.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients.spotcheck_kicks import push, spin
from apps.lab.config import load
from apps.lab.markdown import untitled
from apps.lab.models import mlp
from apps.studies.command import options_of, publish, results
from apps.studies.spotcheck_lies.study import DOCS
from flwr_faa import TrainingPlan
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace, largest
from flwr_faa.verification.training import Checkpoint, Data

if TYPE_CHECKING:
    from torch import nn

#: Steps of a run, of five samples each, and those that a server draws.
STEPS, BATCH, DRAWN = 20, 5, 2
#: Roots that a patient attacker tries.
ROOTS = 100
Vectors = Sequence[npt.NDArray[Any]]
#: Plan, layout, the honest update, a step and a size, to a kick.
Aim = Callable[[TrainingPlan, StateLayout, Vectors, float], Callable[[Checkpoint], Checkpoint]]


@dataclass(frozen=True)
class Attack:
    """One line of the table.

    Attributes
    ----------
    name : str
    aim : callable
        The kick.
    normed : bool
        A model with batch norm and without momentum.
    smooth : int
        Over so many steps the trace lies, so that the kick looks like many short ones.
    late : bool
        In the last step that need not be opened.
    roots : int
        Of so many roots the one in which the kick looks shortest.
    """

    name: str
    aim: Aim
    normed: bool = False
    smooth: int = 1
    late: bool = False
    roots: int = 1


def both(plan: TrainingPlan, layout: StateLayout, update: Vectors, size: float) -> Callable[[Checkpoint], Checkpoint]:
    """Push the parameters and spin the momentum back, so that v stays."""
    pushed, back = push(layout, update, -size), spin(layout, update, size)
    return lambda checkpoint: back(pushed(checkpoint))


def first(plan: TrainingPlan, layout: StateLayout, update: Vectors, size: float) -> Callable[[Checkpoint], Checkpoint]:
    """Push the first layer's weight alone."""
    alone = [u if i == layout.parameters[0] else np.zeros_like(u) for i, u in enumerate(update)]
    return push(layout, alone, -size)


def variance(
    plan: TrainingPlan, layout: StateLayout, update: Vectors, size: float
) -> Callable[[Checkpoint], Checkpoint]:
    """Make one channel's running variance larger by this factor."""

    def change(checkpoint: Checkpoint) -> Checkpoint:
        arrays = [np.array(a) for a in checkpoint.arrays]
        for name, array in zip(plan.blank().state_dict(), arrays, strict=True):
            if name.endswith("running_var"):
                array[3] *= 1 + size
        return replace(checkpoint, arrays=tuple(arrays))

    return change


def pushed(plan: TrainingPlan, layout: StateLayout, update: Vectors, size: float) -> Callable[[Checkpoint], Checkpoint]:
    """Push all parameters backwards."""
    return push(layout, update, -size)


def spun(plan: TrainingPlan, layout: StateLayout, update: Vectors, size: float) -> Callable[[Checkpoint], Checkpoint]:
    """Spin the momentum, so that the parameters coast backwards."""
    return spin(layout, update, -size)


ATTACKS = [
    Attack("parameters", pushed),
    Attack("parameters, just before the end", pushed, late=True),
    Attack("momentum", spun),
    Attack("parameters, and momentum to coast back", both),
    Attack("both, just before the end", both, late=True),
    Attack("the first layer", first),
    Attack(f"parameters, the best of {ROOTS} roots", pushed, roots=ROOTS),
    Attack("a trace that lies over 2 steps", pushed, smooth=2),
    Attack("a trace that lies over 5 steps", pushed, smooth=5),
    Attack("a trace that lies over 10 steps", pushed, smooth=10),
    Attack("a channel's running variance", variance, normed=True),
    Attack("the running variance, just before the end", variance, normed=True, late=True),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the table."""
    parser = options_of("spotcheck_harm", __doc__, "runs/spot_harm.jsonl")
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args(arguments)
    cells = [(attack.name, trial) for trial in range(options.trials) for attack in ATTACKS]
    rows: Sequence[Any] = results(options, cells, run_trial, key_of)
    lines = [_line(attack, [row[2] for row in rows if row[0] == attack.name]) for attack in ATTACKS]
    head = ["kick to", "trials", "longest steps, median", "most", "of the update, median", "most", "convicted with"]
    publish(f"{untitled(head, lines)}\n", DOCS, "harm", options.write)
    return 0


def run_trial(cell: tuple[str, int]) -> Any:
    """Run one trial and return what is kept of it, ready for JSON."""
    name, trial = cell
    (attack,) = (attack for attack in ATTACKS if attack.name == name)
    figures = harm(attack, load("dataset=digits clients=4").dataset.train, trial)
    return [name, trial, [None if math.isnan(figure) else figure for figure in figures]]


def key_of(row: Any) -> tuple[str, int]:
    """Return the key of a trial, or of a line that came of it."""
    return row[0], row[1]


def _line(attack: Attack, found: Sequence[Sequence[float | None]]) -> list[str]:
    steps, share, others = np.array(found, float).T
    drawn = np.mean([1 - comb(int(n) - attack.smooth, DRAWN) / comb(int(n), DRAWN) for n in others])
    figures = [np.median(steps), steps.max(), np.median(share), share.max()]
    return [attack.name, str(len(found)), *("-" if math.isnan(f) else f"{f:.2f}" for f in figures), f"{drawn:.2f}"]


def plan_of(normed: bool) -> TrainingPlan:
    """Return a layer of 32 units, with momentum or with batch norm."""
    factory = partial(normed_mlp if normed else mlp, (1, 8, 8), 10)
    return TrainingPlan(factory, 0.02, BATCH, momentum=0.0 if normed else 0.9, scale=1 / 16)


def normed_mlp(shape: Sequence[int], classes: int) -> nn.Module:
    """Return ``mlp`` with batch norm."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, classes))


def harm(attack: Attack, data: Data, trial: int) -> tuple[float, float, int]:
    """Return the harm of the hardest closed kick, in longest steps and honest updates, and the steps to draw from."""
    plan, rng = plan_of(attack.normed), np.random.default_rng(trial)
    rows = rng.choice(len(data[1]), STEPS * BATCH, replace=False)
    own, layout = (data[0][rows], data[1][rows]), StateLayout.of(plan)
    honest = continued(plan, own, trial, [plan.start(plan.initial_arrays(trial))])
    update = [b.astype(np.float64) - a for a, b in zip(honest[0].arrays, honest[-1].arrays, strict=True)]
    step = STEPS - 2 if attack.late else int(rng.integers(0, STEPS - 1 - attack.smooth))
    low, high = 0.003 * attack.smooth, 1.0 * attack.smooth
    opened = {STEPS - 1, *largest(traced(layout, honest, 0, 1).moves(), layout.lengths)}
    states, longest = honest, math.inf
    for _ in range(6):  # the largest size, to a few percent
        size = math.sqrt(low * high)
        change = attack.aim(plan, layout, update, size)
        kicked = continued(plan, own, trial, honest[: step + 1], change)
        trace = smoothed(traced(layout, kicked, step, attack.roots), step, attack.smooth)
        found = {STEPS - 1, *largest(trace.moves(), layout.lengths)}
        if found & set(range(step, step + attack.smooth)):
            high = size
        else:
            low, states, opened, longest = size, kicked, found, float(trace.moves().max())
    ends = zip(states[-1].arrays, honest[-1].arrays, strict=True)
    off = [a.astype(np.float64) - b for a, b in ends]
    if attack.normed:
        path = np.abs(np.diff(traced(layout, honest, 0, 1).buffers, axis=0)).sum(0)[layout.variances]
        wrong = np.concatenate([off[i].ravel() for i in layout.buffers])[layout.variances]
        return math.nan, float((np.abs(wrong) / path).max()), STEPS - len(opened)
    return length(layout, off) / longest, length(layout, off) / length(layout, update), STEPS - len(opened)


def length(layout: StateLayout, arrays: Vectors) -> float:
    """Return the length of the parameters."""
    return math.sqrt(sum(float(np.sum(np.square(arrays[i]))) for i in layout.parameters))


def continued(
    plan: TrainingPlan, data: Data, nonce: int, states: Sequence[Checkpoint], change: Any = lambda after: after
) -> list[Checkpoint]:
    """Continue a run from its first checkpoints; the next step's result is changed, all later steps are honest."""
    done = list(states)
    for index, rows in enumerate(plan.batches(len(data[1]), nonce)):
        if index >= len(states) - 1:
            batch = data[0][rows], data[1][rows]
            after = plan.step(done[-1], batch, nonce, index, integer_first_layer(batch[0], plan.scale, plan.bits))
            done.append(change(after) if index == len(states) - 1 else after)
    return done


def traced(layout: StateLayout, states: Sequence[Checkpoint], step: int, roots: int) -> Trace:
    """Return the trace of a run, with the root of several in which one step looks shortest."""
    encoded = np.stack([np.frombuffer(layout.encode(state), np.uint8) for state in states])
    root = merkle.Tree([merkle.leaf(state.tobytes()) for state in encoded]).root
    tries = [root, *(merkle.leaf(root, bytes([i])) for i in range(roots - 1))]
    if roots > 1:
        pair = encoded[step : step + 2]
        tries.sort(key=lambda r: float(Trace.of(layout, pair, r).moves()[0].max()))
    return Trace.of(layout, encoded, tries[0])


def smoothed(trace: Trace, step: int, over: int) -> Trace:
    """Return a trace in which a step is spread evenly over so many."""
    positions = np.array(trace.positions)
    for i in range(step + 1, step + over):
        share = (i - step) / over
        positions[i] = (1 - share) * trace.positions[step] + share * trace.positions[step + over]
    return replace(trace, positions=positions)


if __name__ == "__main__":
    sys.exit(main())
