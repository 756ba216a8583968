"""All clients of a simulation, trained together: their models are one stack, and a step is one call.

A plan that trains a thousand small models one after the other spends its time between the operations, not in them
(``python -m benchmarks.fleet``). The clients, messages, strategy and pipeline are those of every other run. Only the
training is done beforehand, and its results are those of the plan, to the rounding of float32: sums are in another
order, and the tests say how far off they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients.roles import Fit, Honest
from apps.lab.scenario import Scenario
from flwr_faa import TrainingPlan
from flwr_faa.client import COMMIT, NONCE
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.training import Data, contract, step_seed

#: Models in a stack. More make the calls rarer and the operands too large for the cache.
STACK = 128


@dataclass(frozen=True, eq=False)
class Fleet(Scenario):
    """A scenario whose clients are all trained when the first of them is asked for its update.

    Clients that are not asked, because they are banned, are trained in vain.
    """

    @classmethod
    def of(cls, scenario: Scenario) -> Fleet:
        return cls(scenario.config, scenario.choices, scenario.name)

    @cached_property
    def data(self) -> list[Data]:
        """The data of each partition."""
        return [super(Fleet, self).data_of(i) for i in range(self.config.clients)]

    def data_of(self, partition: int) -> Data:
        """Return a client's data, the same arrays every time."""
        return self.data[partition]

    def honest(self, partition: int) -> Honest:
        return _Member(self, super().honest(partition))

    def train(self, model: Arrays, nonce: int) -> list[Arrays]:
        """Train every partition, the attackers' honestly too; the result is kept until the next round."""
        return self._once(model, nonce, lambda: train_together(self.plan, model, self.data, nonce))

    def train_malicious(self, model: Arrays, nonce: int) -> list[Arrays]:
        """Return what the attackers' training gives."""
        trained = self.train(model, nonce)
        return [trained[i] for i in sorted(self.malicious)]


class _Member(Honest):
    """Sends what the fleet has trained for it; where commitments to every step are asked for, it trains by itself."""

    def __init__(self, fleet: Fleet, one: Honest) -> None:
        super().__init__(one.plan, one.data, one.partition, one.device, public=one.plaintext)
        self.fleet = fleet

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        if config.get(COMMIT):
            return super().fit(list(parameters), config)
        arrays = self.fleet.train(parameters, int(config.get(NONCE, 0)))[self.partition]
        return list(arrays), len(self.data[1]), {"partition": self.partition}


def train_together(plan: TrainingPlan, arrays: Arrays, data: Sequence[Data], nonce: int) -> list[Arrays]:
    """Return ``plan.train(arrays, d, nonce)`` for each of the data sets, to rounding.

    Clients with equally many samples share their batch order, since it comes from the nonce and that number alone. All
    others are stepped with them by filling batches up with samples that count nothing; not where a loss of the plan's
    own, or dropout, would see those.

    Parameters
    ----------
    plan : TrainingPlan
        Of a model without buffers.
    arrays : sequence of ndarray
        The global model.
    data : sequence of tuples of ndarray
        Of each client.
    nonce : int

    Raises
    ------
    ValueError
        If the model has buffers: batch norm's statistics are written in place, which a stack cannot.
    """
    from torch.nn.modules.dropout import _DropoutNd

    mixed = plan.loss is None and not any(isinstance(m, _DropoutNd) for m in plan.build(arrays).modules())
    order = sorted(range(len(data)), key=lambda i: -len(data[i][1]))
    done: dict[int, Arrays] = {}
    for _, group in groupby(order, key=lambda i: mixed or len(data[i][1])):
        members = list(group)
        for start in range(0, len(members), STACK):
            some = members[start : start + STACK]
            done |= zip(some, _train_stack(plan, arrays, [data[i] for i in some], nonce), strict=True)
    return [done[i] for i in range(len(data))]


def _train_stack(plan: TrainingPlan, arrays: Arrays, data: Sequence[Data], nonce: int) -> list[Arrays]:
    """Train models in one stack, most samples first, so that those with batches left stay at the front."""
    import torch
    from torch.func import functional_call, grad, vmap
    from torch.nn.functional import cross_entropy

    sizes = [len(labels) for _, labels in data]
    even = sizes[0] == sizes[-1]
    batches = {size: list(plan.batches(size, nonce)) for size in set(sizes)}
    with contract(nonce):
        model, loss_of = plan.build(arrays).train(), plan.loss or cross_entropy
        if buffers := [name for name, _ in model.named_buffers()]:
            raise ValueError(f"expected a model without buffers to train many at once, got {buffers[0]}")

        def loss(
            weights: Mapping[str, torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor, parts: torch.Tensor
        ) -> torch.Tensor:
            outputs = functional_call(model, dict(weights), (inputs,))
            return loss_of(outputs, labels) if even else parts @ cross_entropy(outputs, labels, reduction="none")

        gradient = vmap(grad(loss), randomness="same")  # dropout: clients of a round have the same masks
        weights = {k: p.detach().expand(len(data), *p.shape).clone() for k, p in model.named_parameters()}
        momentum: dict[str, torch.Tensor] = {}
        samples, labels = (torch.from_numpy(_padded(parts)) for parts in zip(*data, strict=True))
        for index in range(len(batches[sizes[0]])):
            left = [batches[size][index] for size in sizes if index < len(batches[size])]
            n, rows = len(left), torch.from_numpy(_padded(left))
            counts = np.array([len(b) for b in left])[:, None]
            shares = torch.from_numpy((np.arange(rows.shape[1]) < counts) / counts.astype(np.float32))
            torch.default_generator.manual_seed(step_seed(nonce, index))
            each = torch.arange(n)[:, None]
            inputs = samples[each, rows].float().mul_(plan.scale)
            now = {name: w[:n] for name, w in weights.items()}
            for name, g in gradient(now, inputs, labels[each, rows], shares).items():
                g = g.add_(now[name], alpha=plan.weight_decay) if plan.weight_decay else g  # as torch.optim.SGD
                if plan.momentum:
                    g = momentum[name] = momentum[name][:n].mul_(plan.momentum).add_(g) if name in momentum else g
                now[name].sub_(g, alpha=plan.lr)
    stacks: list[npt.NDArray[Any]] = [w.numpy() for w in weights.values()]
    return [[np.array(stack[i]) for stack in stacks] for i in range(len(data))]


def _padded(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Stack arrays into one, with zeros where one is shorter than the longest."""
    longest = max(map(len, parts))
    if all(len(part) == longest for part in parts):
        return np.stack(parts)
    filled = np.zeros((len(parts), longest, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(filled, parts, strict=True):
        row[: len(part)] = part
    return filled
