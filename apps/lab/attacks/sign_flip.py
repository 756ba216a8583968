"""The sign flip: of the weights, as in the paper, or of the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene, like


@dataclass(frozen=True)
class SignFlip(Attack):
    """``epsilon * w_i``: the weights themselves, as in the paper."""

    epsilon: float = -1.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(self.epsilon * w, w) for w in scene.honest]


@dataclass(frozen=True)
class SignFlipUpdate(Attack):
    """``w + epsilon * g_i``: as long as an honest update, in the opposite direction. It hides well."""

    epsilon: float = -1.0

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(w + self.epsilon * (h - w), h) for w, h in zip(scene.model, scene.honest, strict=True)]
