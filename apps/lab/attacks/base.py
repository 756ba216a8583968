"""What a malicious client sends instead of what it trained, and what it answers when it is asked for evidence.

An attack sees a :class:`Scene` and returns arrays. Attackers know each other: they hold all malicious partitions, but
no honest client's data and not the server's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.client import NumPyClient

from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import Data


class Conduct(StrEnum):
    """What an attacker does when it is asked for evidence."""

    HONESTLY = "honestly"  # shows the data that it should have trained on
    REFUSE = "refuse"  # raises
    OTHER_DATA = "other_data"  # shows the same samples under other labels


@dataclass(frozen=True, eq=False)
class Scene:
    """What one attacker sees in one round.

    Parameters
    ----------
    model : sequence of ndarray
        The global model ``w``.
    honest : sequence of ndarray
        What it should send, ``w_i``.
    train_fellows : callable
        Returns what each of the attackers, itself included, should send.
    clients : int
        How many take part in a round, itself included.
    rng : Generator
        Its own.
    plan : TrainingPlan, optional
        What everybody trains by.
    data, pool : tuple of ndarray, optional
        What it holds, and all training samples there are.
    """

    model: Arrays
    honest: Arrays
    train_fellows: Callable[[], list[Arrays]]
    clients: int
    rng: np.random.Generator
    plan: TrainingPlan | None = None
    data: Data | None = None
    pool: Data | None = None

    @cached_property
    def fellows(self) -> list[Arrays]:
        return self.train_fellows()


@dataclass(frozen=True)
class Attack:
    """No attack: the client sends what it trained.

    Parameters
    ----------
    share : float
        Share of the clients that are malicious.
    answer : Conduct
    client : callable, optional
        What makes a malicious client of an honest one, where more than its update is false: a class of
        ``apps.lab.clients``, called with the honest client and the scenario.
    """

    share: float = 0.0
    answer: Conduct = Conduct.HONESTLY
    client: Callable[..., NumPyClient] | None = None

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        """The arrays to send."""
        return list(scene.honest)

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        """The data to hold: what it trains on, and what it shows when it is asked for evidence.

        Parameters
        ----------
        own, pool : tuple of ndarray
            Its part, and all training samples there are.
        attacker : int
            Counted from 0.
        rng : Generator
            Its own, the same in every round.
        """
        return own

    @property
    def flips(self) -> tuple[tuple[int, int], ...]:
        """Labels whose samples it wants to be taken for another label: pairs of source and target."""
        return ()


@dataclass(frozen=True)
class Gaussian(Attack):
    """``w_i + N(0, sigma^2)``, coordinate by coordinate."""

    sigma: float = 0.1

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(w + scene.rng.normal(0.0, self.sigma, w.shape), w) for w in scene.honest]


@dataclass(frozen=True)
class SignFlip(Attack):
    """``epsilon * w_i``: the weights themselves, as in the paper."""

    epsilon: float = -1.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(self.epsilon * w, w) for w in scene.honest]


@dataclass(frozen=True)
class SignFlipUpdate(Attack):
    """``w + epsilon * g_i``: as long as an honest update, in the opposite direction. Hides well."""

    epsilon: float = -1.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(w + self.epsilon * (h - w), h) for w, h in zip(scene.model, scene.honest, strict=True)]


@dataclass(frozen=True)
class Alie(Attack):
    """``mu + z * sigma`` of the attackers' own honest updates, coordinate by coordinate (Baruch et al. 2019, ALIE).

    All attackers send the same vector, unless ``jitter``: then each adds ``sigma * N(0, 1)`` of its own, which is as
    far from the others as an honest update is. ``mu`` and ``sigma`` of the models are those of the updates, moved
    by ``w``.

    Parameters
    ----------
    z : float, optional
        If not given, the largest that still hides among ``n`` clients of which ``m`` attack, from that paper:
        ``s = floor(n / 2 + 1) - m`` honest clients must be won over, so
        ``z_max = PHI^-1((n - m - s) / (n - m))``. At n = 20: 0 for m = 2, .67 for m = 8.
    jitter : bool
    """

    z: float | None = None
    jitter: bool = False

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        z = z_max(scene.clients, round(self.share * scene.clients)) if self.z is None else self.z
        crafted = []
        for layer in zip(*scene.fellows, strict=True):
            stack = np.stack([a.astype(np.float64) for a in layer])
            mean, deviation = stack.mean(axis=0), stack.std(axis=0)
            noise = scene.rng.normal(size=mean.shape) if self.jitter else 0.0
            crafted.append(like(mean + (z + noise) * deviation, layer[0]))
        return crafted


@dataclass(frozen=True)
class Absent(Attack):
    """Malicious clients fail instead of sending anything: what remains is a federation of the honest ones."""

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        raise RuntimeError("attack=absent: this client takes no part")


def z_max(clients: int, attackers: int) -> float:
    """The largest z of ALIE, see :class:`Alie`."""
    supporters = clients // 2 + 1 - attackers
    honest = clients - attackers
    return NormalDist().inv_cdf(min(max((honest - supporters) / honest, 0.5), 0.999))


def like(values: npt.NDArray[Any], original: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values in the original's dtype; counters of batch norm stay as they are."""
    return np.asarray(values, original.dtype) if original.dtype.kind == "f" else original
