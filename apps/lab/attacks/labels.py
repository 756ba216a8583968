"""Attacks through labels: label flipping, and the model poisonings that start from it (LoMar, Sec. 4.1.4 and App. A).

A data poisoner is honest about everything but its labels. It trains as the plan says on the data it holds, and when it
is asked for evidence it shows those data; a verification has to clear it. The others change the update afterwards, and
their evidence contradicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene, like
from flwr_faa import TrainingPlan
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.training import Data


def flip(
    own: Data, pool: Data, source: int, target: int, tau: float | None, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return a client's data with flipped labels.

    Parameters
    ----------
    own, pool : tuple of ndarray
        The client's samples and labels, and those that it finds source samples in.
    source, target : int
    tau : float or None
        A share: ``round(tau * m)`` of the client's ``m`` samples, drawn at random, give way to samples of the source
        label from the pool, labelled ``target``. 1 is the "pure" attack, nothing but sevens called ones. None is the
        "mixed" one: the client's own samples stay, and those of the source label are labelled ``target``.
    rng : Generator
    """
    samples, labels = own[0].copy(), own[1].copy()
    if tau is None:
        labels[labels == source] = target
        return samples, labels
    rows = rng.permutation(len(labels))[: round(tau * len(labels))]
    found = np.flatnonzero(pool[1] == source)
    drawn = rng.choice(found, len(rows), replace=len(rows) > len(found))
    samples[rows], labels[rows] = pool[0][drawn], target
    return samples, labels


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Samples of one label are given another one; what comes of training on them is sent as it is.

    Parameters
    ----------
    source, target : int
    tau : float or None
        See :func:`flip`.
    """

    source: int = 7
    target: int = 1
    tau: float | None = 1.0

    @property
    def flips(self) -> tuple[tuple[int, int], ...]:
        return ((self.source, self.target),)

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        source, target = self.flips[attacker % len(self.flips)]
        return flip(own, pool, source, target, self.tau, rng)


@dataclass(frozen=True)
class LabelFlipMulti(LabelFlip):
    """Several pairs at once, an equal share of the attackers each (LoMar, Sec. 4.2.4).

    Parameters
    ----------
    pairs : sequence of pairs of int
        Source and target; the i-th attacker has the i-th pair, counted round.
    """

    pairs: Sequence[Sequence[int]] = ((1, 7), (6, 9), (2, 5), (0, 8))

    @property
    def flips(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(source), int(target)) for source, target in self.pairs)


@dataclass(frozen=True)
class LabelShift(Attack):
    """All labels are given the next one, the last the first."""

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        known = np.unique(pool[1])
        return own[0], known[(np.searchsorted(known, own[1]) + 1) % len(known)]


@dataclass(frozen=True)
class Boosted(LabelFlip):
    """``w + boost * g_i`` of a label flip: enough to outvote the honest where updates are averaged."""

    boost: float = 10.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return _boost(scene.model, scene.honest, self.boost)


@dataclass(frozen=True)
class Clones(LabelFlip):
    """Sybils: all attackers send what label flipping gave the first of them.

    Its own evidence agrees with that update, the others' does not.

    Parameters
    ----------
    jitter : float
        Each adds ``jitter * sigma * N(0, 1)`` of its own, with the deviation sigma of the attackers' own updates,
        coordinate by coordinate. At 1 they are about as far from each other as without cloning.
    """

    jitter: float = 0.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        crafted = []
        for layer in zip(*scene.fellows, strict=True):
            noise: Any = 0.0
            if self.jitter:
                sigma = np.std(np.stack([a.astype(np.float64) for a in layer]), axis=0)
                noise = self.jitter * sigma * scene.rng.normal(size=sigma.shape)
            crafted.append(like(layer[0] + noise, layer[0]))
        return crafted


@dataclass(frozen=True)
class Stealthy(LabelFlip):
    """Stealthy model poisoning by alternating minimisation (Bhagoji et al., ICML 2019, Sec. 3), as in LoMar's App. A.

    Every epoch of the plan takes an epoch on the targeted objective, the cross entropy of flipped samples, and then one
    on the stealth objective,

        L(own clean data; w + u) + rho * ||u - u_benign||_2

    whose first term is trained by the plan and whose second by its proximal step, exact where a gradient step would
    oscillate: with v = u - u_benign, ``v <- v (1 - rho lr S / ||v||)_+`` for the S steps of the epoch. ``u_benign`` is
    the mean of what the attackers would send if they were honest; Bhagoji's attacker estimates it from the last round.

    Parameters
    ----------
    boost : float
        phi.
    rho : float
        Weight of the stealth term.
    whole : bool
        True: the finished update is boosted, ``phi * u``, LoMar's formula; its length is easy to see. False:
        every targeted step is, before its stealth step, Bhagoji's.
    """

    boost: float = 10.0
    rho: float = 0.1
    whole: bool = True

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        """Return its own clean data: its update does not come of the data that it shows."""
        return own

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        if scene.plan is None or scene.data is None or scene.pool is None:
            raise ValueError("expected a scene with a plan, data and a pool, got none")
        plan: TrainingPlan = replace(scene.plan, epochs=1)
        targeted = flip(scene.data, scene.pool, self.source, self.target, self.tau, scene.rng)
        benign = [
            like(np.mean([a.astype(np.float64) for a in layer], axis=0), layer[0])
            for layer in zip(*scene.fellows, strict=True)
        ]
        steps = -(-len(scene.data[1]) // plan.batch_size)
        w: Arrays = scene.model
        for epoch in range(scene.plan.epochs):
            nonce = int(scene.rng.integers(2**62)) + epoch
            bad = plan.train(w, targeted, nonce)
            bad = bad if self.whole else _boost(w, bad, self.boost)
            w = pull(plan.train(bad, scene.data, nonce), benign, self.rho * plan.lr * steps)
        return _boost(scene.model, w, self.boost) if self.whole else list(w)


def pull(arrays: Arrays, towards: Arrays, by: float) -> list[npt.NDArray[Any]]:
    """Return the proximal step of ``by * ||w - towards||_2``: straight towards it, and not beyond."""
    floats = [(a, b) for a, b in zip(arrays, towards, strict=True) if a.dtype.kind == "f"]
    far = np.sqrt(sum(float(np.sum((a - b).astype(np.float64) ** 2)) for a, b in floats))
    keep = max(0.0, 1.0 - by / far) if far else 0.0
    return [like(b + keep * (a - b), a) for a, b in zip(arrays, towards, strict=True)]


def _boost(model: Arrays, arrays: Arrays, factor: float) -> list[npt.NDArray[Any]]:
    return [like(w + factor * (a - w), a) for w, a in zip(model, arrays, strict=True)]
