"""The yardstick of a label attack: its attackers are absent, accuracy is counted on the labels that it is after."""

from __future__ import annotations

from dataclasses import dataclass

from apps.lab.attacks.base import Scene
from apps.lab.attacks.labels import LabelFlip
from flwr_faa.replies.updates import Arrays


@dataclass(frozen=True)
class AbsentFlip(LabelFlip):
    """Malicious clients fail instead of sending anything."""

    def craft(self, scene: Scene) -> Arrays:
        raise RuntimeError("attack=absent_flip: this client takes no part")
