"""One training step, recomputed from what the client claims of its first layer, and compared with what it committed to.

Everything behind the first layer is ordinary autograd from Z1. Of the first layer's own gradient, ``G = sum_i delta_i
x_i^T``, the server knows only its product with the random vectors, ``G s = sum_i delta_i <x_i, s>``, and that is enough
to tell a wrong one (Freivalds, 1977).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flwr_faa.crypto.exact import Integers
from flwr_faa.errors import FlwrAnomalyError
from flwr_faa.verification.base import worst
from flwr_faa.verification.integer_layer import real
from flwr_faa.verification.spotcheck.commitments import parameters_of
from flwr_faa.verification.spotcheck.first_layer import IntegerLayer
from flwr_faa.verification.training import Checkpoint, FirstLayer, Training
from flwr_faa.verification.wire import WireError

Floats = npt.NDArray[np.float64]

if TYPE_CHECKING:
    import torch
    from torch import nn

#: A step that hardly moves is compared against this share of the model's own size instead: gradients near zero are
#: rounding alone. It grants a client a drift of tau times this a step.
FLOOR = 1e-3
#: A number of a buffer, against this share of its size and spread.
AT_REST = 1e-2


class Contradiction(FlwrAnomalyError):  # noqa: N818 - the suspect's, not ours
    """What a suspect shows contradicts what it said before, or itself."""


def step_error(
    plan: Training,
    layer: IntegerLayer,
    checkpoints: tuple[Checkpoint, Checkpoint],
    claims: Integers,
    labels: npt.NDArray[np.int64],
    vectors: Integers,
    nonce: int,
    index: int,
) -> float:
    """How far a claimed step is from its recomputation: the largest relative L2 error.

    Parameters
    ----------
    plan, layer
        What was to be trained.
    checkpoints : pair of Checkpoint
        Before and after, as committed.
    claims : int64, shape (b, outputs + k, *spatial)
        Z1 and P.
    labels : int64, shape (b,)
    vectors : int64, shape (k, *kernel)
        The s.
    nonce, index : int
        Of the run, and of the step in it.

    Raises
    ------
    Contradiction
        If the labels are none that the model could have been trained on.
    """
    before, after = checkpoints
    deltas: list[torch.Tensor] = []
    z, projections = claims[:, : layer.outputs], claims[:, layer.outputs :]
    batch = np.zeros((len(labels), *layer.sample_shape), np.uint8), labels
    try:
        ours = plan.step(before, batch, nonce, index, claimed_layer(plan, z, deltas))
    except (IndexError, RuntimeError, ValueError) as problem:  # label out of range, as the plan and torch say it
        raise Contradiction(f"no step can be taken on these labels: {problem}") from problem
    if len(deltas) != 1:
        raise WireError(f"expected a model that uses its first layer once, got {len(deltas)} times")
    delta = deltas[0].detach().numpy().astype(np.float64)

    trained, errors = parameters_of(plan), []
    names = list(plan.template.state_dict())
    for i, name in enumerate(names):
        if not trained[i]:
            twin = name.replace("_mean", "_var")
            spread = np.sqrt(np.abs(before.arrays[names.index(twin)])) if twin != name and twin in names else 0.0
            errors.append(_buffer_error(before.arrays[i], after.arrays[i], ours.arrays[i], spread))
    others = [i for i, t in enumerate(trained) if t and i != layer.weight]
    flat, sent, own = (_flat([c.arrays[i] for i in others]) for c in (before, after, ours))
    errors.append(_error(sent - own, own - flat, flat))
    if plan.momentum:  # what a buffer does to the weights is lr times itself
        w = [a for i, a in enumerate(before.arrays) if trained[i] and i != layer.weight]
        claimed, redone = ([m for i, m in enumerate(c.momentum) if i != layer.parameter] for c in (after, ours))
        errors.append(_error(_flat(claimed) - _flat(redone), _flat(redone), _flat(w) / plan.lr))

    s = _matrix(vectors).T
    gradient = plan.scale * _by_output(delta) @ _by_output(projections.astype(np.float64)).T
    floor = _matrix(before.arrays[layer.weight]) * math.sqrt(float(np.mean(np.square(s))) * s.shape[1])
    w0, w1, w_ours = (_matrix(c.arrays[layer.weight]) for c in (before, after, ours))
    change = -plan.lr * gradient  # ``ours`` took this step without the gradient; the step is linear in it
    errors.append(_error((w1 - w_ours) @ s - change, (w_ours - w0) @ s + change, floor))
    if plan.momentum:
        m1, m_ours = (_matrix(c.momentum[layer.parameter]) for c in (after, ours))
        errors.append(_error((m1 - m_ours) @ s - gradient, m_ours @ s + gradient, floor / plan.lr))
    return worst(errors)


def _error(off: Floats, moved: Floats, size: Floats) -> float:
    """``|off|`` relative to the step, or to a small share of the model where the step is smaller than that."""
    against = float(np.linalg.norm(moved)) + FLOOR * float(np.linalg.norm(size))
    wrong = float(np.linalg.norm(off))
    if wrong == 0.0:
        return 0.0
    return wrong / against if against > 0.0 else math.inf


def _buffer_error(
    before: npt.NDArray[Any], claimed: npt.NDArray[Any], redone: npt.NDArray[Any], spread: npt.NDArray[Any] | float
) -> float:
    """The largest relative error of any number of a buffer: a channel with large statistics must not hide another.

    Relative to the number's own step, or where it is at rest to a small share of its size, or of its standard deviation
    if it is a mean.
    """
    if redone.dtype.kind != "f" or not redone.size:
        return 0.0 if np.array_equal(claimed, redone) else math.inf
    before, claimed, redone = (a.astype(np.float64) for a in (before, claimed, redone))
    wrong, moved = np.abs(claimed - redone), np.abs(redone - before)
    against = moved + AT_REST * np.maximum(np.abs(before), spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        return worst(np.where(wrong == 0, 0.0, wrong / against).ravel().tolist())


def _flat(arrays: Sequence[npt.NDArray[Any]]) -> Floats:
    floats = [a.astype(np.float64).ravel() for a in arrays if a.dtype.kind == "f"]
    return np.concatenate(floats) if floats else np.zeros(0)


def _by_output(values: Floats) -> Floats:
    """(b, outputs, *spatial) as (outputs, everything else)."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _matrix(kernels: npt.NDArray[Any]) -> Floats:
    return kernels.astype(np.float64).reshape(len(kernels), -1)


def claimed_layer(plan: Training, z: Integers, deltas: list[torch.Tensor]) -> FirstLayer:
    """The first layer with outputs Z1 as claimed; its weight gets no gradient, and ``deltas`` what it would be from."""
    import torch

    class Claimed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: torch.Tensor, bias: torch.Tensor | None, layer: nn.Module) -> torch.Tensor:
            ctx.save_for_backward(weight)
            ctx.bias = bias is not None
            out = real(torch.from_numpy(z).double(), plan.scale, plan.bits, weight.dtype)
            if bias is None:
                return out
            return out + (bias[:, None, None] if out.ndim == 4 else bias)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
            (weight,), (delta,) = ctx.saved_tensors, gradients
            deltas.append(delta)
            bias = delta.sum((0, 2, 3) if delta.ndim == 4 else 0) if ctx.bias else None
            return torch.zeros_like(weight), bias, None

    def first_layer(layer: nn.Module, rows: npt.NDArray[np.intp]) -> torch.Tensor:
        out: torch.Tensor = Claimed.apply(layer.weight, layer.bias, layer)
        return out

    return first_layer
