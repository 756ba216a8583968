"""What a malicious client sends instead of what it trained, and what it answers when it is asked for evidence.

An attack sees a :class:`Scene` and returns arrays. Attackers know each other: they hold all malicious partitions, but
no honest client's data and not the server's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
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
        """Return the arrays to send."""
        return list(scene.honest)

    def poison(self, own: Data, pool: Data, attacker: int, rng: np.random.Generator) -> Data:
        """Return the data to hold: what it trains on, and what it shows when it is asked for evidence.

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


def like(values: npt.NDArray[Any], original: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values in the original's dtype; counters of batch norm stay as they are."""
    return np.asarray(values, original.dtype) if original.dtype.kind == "f" else original
