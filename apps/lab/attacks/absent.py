"""Yardsticks, in which the attackers are absent: what remains is a federation of the honest clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene
from apps.lab.attacks.labels import LabelFlip


@dataclass(frozen=True)
class Absent(Attack):
    """Malicious clients fail instead of sending anything: what remains is a federation of the honest ones."""

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        raise RuntimeError("attack=absent: this client takes no part")


@dataclass(frozen=True)
class AbsentFlip(LabelFlip):
    """The same for a label attack: accuracy is counted on the labels that the attack is after."""

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        raise RuntimeError("attack=absent_flip: this client takes no part")
