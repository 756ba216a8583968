"""Attacks on a server that selects by held-out data: one that knows the data or guesses them, and a backdoor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene, like
from flwr_faa import TrainingPlan
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.training import Data

#: Factors that an attacker tries for its update, the largest first.
FACTORS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)


@dataclass(frozen=True)
class UnderHoldout(Attack):
    """The most harm that does not raise the held-out loss: all samples get the next label, but those that are held out.

    It trains on its samples with wrong labels (each label plus one) and on the held-out ones with their right labels,
    as many of each. The finished update is lengthened by the largest factor with which a round, of ``round(share * n)``
    such attackers and otherwise of clients that send the mean of the attackers' honest updates, ends with no higher
    held-out loss than the same round without attackers; if there is none, it is honest.

    Parameters
    ----------
    heldout : object
        The server's samples: ``data``. An attacker that knows them knows more than any should.
    knows : bool
        False: it knows the rule alone, and takes a tenth of its own samples for the held-out ones.
    """

    heldout: Any = None
    knows: bool = True

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        plan, own, pool = scene.plan, scene.data, scene.pool
        if plan is None or own is None or pool is None:
            raise ValueError("expected a scene with a plan, data and a pool, got none")
        (samples, labels), classes = own, len(np.unique(pool[1]))
        drawn = scene.rng.permutation(len(labels))
        known: Data = self.heldout.data if self.knows else (samples[drawn[::10]], labels[drawn[::10]])
        spoilt = samples, (labels + 1) % classes
        again = scene.rng.integers(0, len(known[1]), len(labels))
        both = np.concatenate([spoilt[0], known[0][again]]), np.concatenate([spoilt[1], known[1][again]])
        bad = plan.train(scene.model, both, int(scene.rng.integers(2**62)))
        crowd = [np.mean([a.astype(np.float64) for a in layer], axis=0) for layer in zip(*scene.fellows, strict=True)]
        limit = _loss(plan, crowd, scene.model, known)
        for factor in FACTORS:
            sent = [like(w + factor * (b - w.astype(np.float64)), w) for w, b in zip(scene.model, bad, strict=True)]
            mixed = [c + self.share * (s - c) for c, s in zip(crowd, sent, strict=True)]
            if _loss(plan, mixed, scene.model, known) <= limit:
                return sent
        return list(scene.honest)


@dataclass(frozen=True)
class Backdoor(Attack):
    """Some of its samples carry a trigger, a white square in the corner, and the label ``target``; the rest is honest.

    The fewer, the less there is to see on samples without the trigger (Gu, Dolan-Gavitt and Garg 2017, "BadNets").

    Parameters
    ----------
    target : int
    size : int
        Pixels along a side of the square.
    part : float
        Share of its samples that carry it.
    """

    target: int = 0
    size: int = 4
    part: float = 0.5

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        samples, labels = own[0].copy(), own[1].copy()
        rows = rng.permutation(len(labels))[: round(self.part * len(labels))]
        samples[rows], labels[rows] = self.stamped(samples[rows]), self.target
        return samples, labels

    def stamped(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return images, shape (m, channels, H, W), with the trigger."""
        marked = samples.copy()
        marked[..., -self.size :, -self.size :] = 255
        return marked


def _loss(plan: TrainingPlan, arrays: Arrays, model: Arrays, data: Data) -> float:
    """Return the cross entropy of a model on some samples."""
    outputs = plan.predict([like(a, w) for a, w in zip(arrays, model, strict=True)], data[0]).astype(np.float64)
    outputs -= outputs.max(axis=1, keepdims=True)
    right = outputs[np.arange(len(data[1])), data[1]]
    return float(np.mean(np.log(np.exp(outputs).sum(axis=1)) - right))
