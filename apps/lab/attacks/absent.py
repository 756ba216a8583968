"""The yardstick of a label attack: its attackers are absent, accuracy is counted on the labels that it is after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from apps.lab.attacks.base import Scene
from apps.lab.attacks.labels import LabelFlip


@dataclass(frozen=True)
class AbsentFlip(LabelFlip):
    """Malicious clients fail instead of sending anything."""

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        raise RuntimeError("attack=absent_flip: this client takes no part")
