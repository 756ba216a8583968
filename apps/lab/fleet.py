"""All clients of a simulation trained at once: their models in one stack, one call a step.

A plan that trains a thousand small models one after the other spends its time between the operations, not in them
(``python -m benchmarks.fleet``). The clients, messages, strategy and pipeline are those of every other run; only what a
client's training gives is computed beforehand, and it is what its plan gives, to the rounding of float32 (sums in
another order; the tests say how far).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.clients import Fit, Honest
from apps.lab.experiment import Experiment
from flwr_faa import TrainingPlan
from flwr_faa.client import COMMIT, NONCE
from flwr_faa.updates import Arrays
from flwr_faa.verification.plan import Data, contract, step_seed

#: Models in a stack. More make the calls rarer and the operands too large for the cache.
STACK = 128


@dataclass(frozen=True, eq=False)
class Fleet(Experiment):
    """An experiment whose clients are all trained when the first of them is asked for its update.

    Those that are not asked, being banned, are trained in vain.
    """

    @classmethod
    def of(cls, experiment: Experiment) -> Fleet:
        return cls(experiment.config, experiment.choices, experiment.name)

    @cached_property
    def data(self) -> list[Data]:
        """Of each partition."""
        return [super(Fleet, self).data_of(i) for i in range(self.config.clients)]

    def data_of(self, partition: int) -> Data:
        """The same arrays every time."""
        return self.data[partition]

    def honest(self, partition: int) -> Honest:
        return _Member(self, super().honest(partition))

    def train(self, model: Arrays, nonce: int) -> list[Arrays]:
        """What every partition's training gives, attackers' as if they were honest; kept until the next round."""
        return self._once(model, nonce, lambda: train_together(self.plan, model, self.data, nonce))

    def train_malicious(self, model: Arrays, nonce: int) -> list[Arrays]:
        """Those of the attackers."""
        trained = self.train(model, nonce)
        return [trained[i] for i in sorted(self.malicious)]


class _Member(Honest):
    """Sends what the fleet has trained for it; where commitments to every step are asked for, it trains by itself."""

    def __init__(self, fleet: Fleet, one: Honest) -> None:
        super().__init__(one.plan, one.data, one.partition, one.device, public=one.plaintext)
        self.fleet = fleet

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        if config.get(COMMIT):
            return super().fit(parameters, config)
        arrays = self.fleet.train(parameters, int(config.get(NONCE, 0)))[self.partition]
        return arrays, len(self.data[1]), {"partition": self.partition}


def train_together(plan: TrainingPlan, arrays: Arrays, data: Sequence[Data], nonce: int) -> list[Arrays]:
    """``plan.train(arrays, d, nonce)`` for each of the data sets, to rounding.

    Clients with equally many samples share their batch order, since it comes from the nonce and that number alone; they
    are stepped together.

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
    sizes: dict[int, list[int]] = {}
    for i, (_, labels) in enumerate(data):
        sizes.setdefault(len(labels), []).append(i)
    done: dict[int, Arrays] = {}
    for members in sizes.values():
        for start in range(0, len(members), STACK):
            some = members[start : start + STACK]
            done |= zip(some, _train_stack(plan, arrays, [data[i] for i in some], nonce), strict=True)
    return [done[i] for i in range(len(data))]


def _train_stack(plan: TrainingPlan, arrays: Arrays, data: Sequence[Data], nonce: int) -> list[Arrays]:
    import torch
    from torch.func import functional_call, grad, vmap
    from torch.nn.functional import cross_entropy

    with contract(nonce):
        model, loss_of = plan.build(arrays).train(), plan.loss or cross_entropy
        if buffers := [name for name, _ in model.named_buffers()]:
            raise ValueError(f"Expected a model without buffers to train many at once, got {buffers[0]}")

        def loss(weights: Mapping[str, torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return loss_of(functional_call(model, dict(weights), (inputs,)), labels)

        gradient = vmap(grad(loss), randomness="same")  # dropout: clients of a round have the same masks
        weights = {k: p.detach().expand(len(data), *p.shape).clone() for k, p in model.named_parameters()}
        momentum: dict[str, torch.Tensor] = {}
        samples, labels = (torch.from_numpy(np.stack(part)) for part in zip(*data, strict=True))
        for index, rows in enumerate(plan.batches(len(data[0][1]), nonce)):
            torch.default_generator.manual_seed(step_seed(nonce, index))
            inputs = samples[:, rows].float().mul_(plan.scale)
            for name, g in gradient(weights, inputs, labels[:, rows]).items():
                g = g.add_(weights[name], alpha=plan.weight_decay) if plan.weight_decay else g  # as torch.optim.SGD
                if plan.momentum:
                    g = momentum[name] = momentum[name].mul_(plan.momentum).add_(g) if name in momentum else g
                weights[name].sub_(g, alpha=plan.lr)
    stacks: list[npt.NDArray[Any]] = [w.numpy() for w in weights.values()]
    return [[np.array(stack[i]) for stack in stacks] for i in range(len(data))]
