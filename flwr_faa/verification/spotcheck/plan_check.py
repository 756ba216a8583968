"""Whether steps of a plan can be recomputed from their first layer alone: tried out, before anybody is judged by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.spotcheck.messages import VECTOR_MAX, VECTORS
from flwr_faa.verification.spotcheck.recompute import Contradiction, step_error
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.training import Checkpoint, Training
from flwr_faa.verification.wire import WireError

_BATCH, _STEPS = 4, 3


def check_recomputable(plan: Training, layer: IntegerLayer, tau: float) -> None:
    """Train a few steps as an honest client and judge them as the server would.

    Raises
    ------
    ValueError
        If an honest client would be convicted, or no evidence: its model uses the sample again behind the first layer
        or that layer more than once, keeps what changes outside of ``state_dict()``, draws random numbers of its own,
        or changes large buffers.
    """
    plan = replace(plan, batch_size=_BATCH, epochs=1)
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (_BATCH * _STEPS, *layer.sample_shape))
    start = plan.initial_arrays(0)
    shape = plan.predict(start, samples).shape
    labels = rng.integers(0, shape[1] if len(shape) > 1 else 1, len(samples))
    vectors = rng.integers(-VECTOR_MAX, VECTOR_MAX, (VECTORS, *layer.kernel))
    runs: list[list[Checkpoint]] = []
    try:
        for _ in range(2):
            checkpoints = [plan.start(start)]
            plan.train(
                start, (samples, labels), 1, integer_first_layer(samples, plan.scale, plan.bits), checkpoints.append
            )
            runs.append(checkpoints)
    except (IndexError, RuntimeError, TypeError, ValueError) as why:
        raise ArgumentValueError(f"expected a plan that can train, got {type(why).__name__}: {why}") from why
    layout = StateLayout.of(plan)
    first, second = ([layout.encode(c) for c in run] for run in runs)
    if first != second:
        raise ArgumentValueError(
            "expected a model that trains the same way twice, got one with random numbers of its own"
        )
    changed = [i for i in layout.fixed if not np.array_equal(runs[0][0].arrays[i], runs[0][-1].arrays[i])]
    if changed:
        raise ArgumentValueError(
            f"expected large buffers that training leaves alone, got array {changed[0]} changed by it"
        )
    for index, batch in enumerate(plan.batches(len(samples), 1)):
        before, after = runs[0][index : index + 2]
        kernels = np.concatenate([layer.fixed(before.arrays[layer.weight]), vectors])
        claims = layer.apply(samples[batch], kernels)
        try:
            error = step_error(plan, layer, (before, after), claims, labels[batch], vectors, 1, index)
        except (Contradiction, WireError) as problem:
            raise ArgumentValueError(
                f"expected steps that can be recomputed from the first layer: {problem}"
            ) from problem
        if not error <= tau / 2:
            raise ArgumentValueError(
                "expected steps that can be recomputed from the outputs of the first layer, got a step that differs by "
                f"{error:.2g}: the model uses the sample again behind that layer, or keeps what is not in state_dict()"
            )
