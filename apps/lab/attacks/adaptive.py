"""Attackers that know the defence. They rehearse a round and go as far as its detector lets them.

They know the detector and its settings, how many clients take part in a round, and their own honest updates. From those
they make up the crowd; they see nobody else's update, nor the server's seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene
from apps.lab.attacks.colluding import Vector, fellows_updates, flat_update, send
from apps.lab.attacks.labels import LabelFlip
from flwr_faa.detection import Detector, MultiView, as_detector
from flwr_faa.replies.updates import Batch, Layout
from flwr_faa.verification.training import Data

#: Doublings of the smallest step tried, and halvings after that; crowds made up for each step.
HALVINGS, CROWDS = 7, 3


@dataclass(frozen=True)
class Evade(Attack):
    """Sends ``g_i + gamma p``, with the largest gamma at which a rehearsal suspects no more attackers than at 0.

    p is minus the mean of the attackers' updates: gamma = 1 stops them, 2 turns them around. Each keeps its own
    honest update as the start, so attackers are as far from each other as honest clients are; copies would be seen.

    A rehearsal has as many clients as a round: ``round(share * n)`` attackers at one gamma, and the rest drawn from
    the normal distribution with the mean and the covariance of the attackers' honest updates. There are three for each
    gamma. Their random numbers come from what all attackers know, so all find the same gamma without a word. The
    detector suspects some honest clients too (OCSVM a fixed share of all), hence "no more than at 0". With
    fewer than three attackers there is no covariance to speak of, and they send what they trained.

    Parameters
    ----------
    detector : Detector or PyOD detector
        What the server runs.
    most : float
        Largest gamma tried.
    """

    detector: Any = field(default_factory=MultiView)
    most: float = 10.0
    #: What the last rehearsal found, by what it started from: attackers of one process need not all repeat it.
    _found: dict[bytes, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        updates = fellows_updates(scene)
        if len(updates) < 3:
            return list(scene.honest)
        p = self.direction(scene, updates)
        attackers = min(max(1, round(self.share * scene.clients)), len(updates))
        digest = hashlib.sha256(updates.tobytes()).digest()
        key = hashlib.sha256(digest + p.tobytes()).digest()
        gamma = self._found.get(key)
        if gamma is None:
            gamma = self._rehearse(scene, updates, attackers, p, np.frombuffer(digest, np.uint32))
            self._found.clear()
            self._found[key] = gamma
        return send(scene, flat_update(scene.honest, scene.model) + gamma * p)

    def _rehearse(
        self, scene: Scene, updates: Vector, attackers: int, p: Vector, seed: npt.NDArray[np.uint32]
    ) -> float:
        """Return the largest gamma."""
        coin = np.random.default_rng(seed)
        crowds = [stand_ins(updates, scene.clients - attackers, coin) for _ in range(CROWDS)]
        detector, layout = as_detector(self.detector), Layout.of(scene.model)

        def caught(gamma: float, enough: int | None = None) -> int:
            """Count the suspected attackers in all crowds; stop above `enough`."""
            count = 0
            for crowd in crowds:
                if enough is None or count <= enough:
                    rows = np.concatenate([updates[:attackers] + gamma * p, crowd])
                    count += sum(row < attackers for row in suspects(detector, rows, layout))
            return count

        usual = caught(0.0)
        return largest(lambda gamma: caught(gamma, usual) <= usual, self.most)

    def direction(self, scene: Scene, updates: Vector) -> Vector:
        """Return p, shape (d,)."""
        return np.asarray(-updates.mean(axis=0))


@dataclass(frozen=True)
class EvadeFlipping(Evade, LabelFlip):
    """:class:`Evade` towards a label flip: p leads from the honest update to the one trained on flipped data.

    gamma = 1 is label flipping itself, more is boosted. Its fellows' p are not known to an attacker in time; in the
    rehearsal all of them go its own way.

    Parameters
    ----------
    source, target, tau
        See :func:`apps.lab.attacks.labels.flip`.
    """

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        """Return its own clean data, which it shows when it is asked for evidence."""
        return own

    def direction(self, scene: Scene, updates: Vector) -> Vector:
        """Return p, shape (d,)."""
        if scene.plan is None or scene.data is None or scene.pool is None:
            raise ValueError("expected a scene with a plan, data and a pool, got none")
        flipped = LabelFlip(source=self.source, target=self.target, tau=self.tau)
        data = flipped.poison(scene.data, scene.pool, 0, scene.rng)
        trained = scene.plan.train(scene.model, data, int(scene.rng.integers(2**62)))
        return flat_update(trained, scene.honest)


def stand_ins(updates: Vector, count: int, rng: np.random.Generator) -> Vector:
    """Draw made-up honest updates, shape (count, d): normal, with the given ones' mean and sample covariance."""
    mean = updates.mean(axis=0)
    mix = rng.normal(size=(count, len(updates))) / np.sqrt(len(updates) - 1)
    return np.asarray(mean + mix @ (updates - mean))


def suspects(detector: Detector, rows: Vector, layout: Layout) -> tuple[int, ...]:
    """Return whom a detector suspects if these updates arrive, equally weighted."""
    n = len(rows)
    batch = Batch(tuple(range(n)), rows.astype(np.float32), np.ones(n), layout, {})
    return detector.detect(batch, 0).suspects


def largest(passes: Callable[[float], bool], most: float) -> float:
    """Return the step before the first that does not pass, to a hundredth of it; at most ``most``.

    From below, by doubling and then halving: attackers of nearly half of the clients may be seen at a small step and
    not at a huge one, where the medians give way, but then the rehearsal must be right in everything.
    """
    low, high = 0.0, most / 2**HALVINGS
    while passes(high):
        if high >= most:
            return most
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low
