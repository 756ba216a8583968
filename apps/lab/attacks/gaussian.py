"""Gaussian noise on the weights that were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from apps.lab.attacks.base import Attack, Scene, like


@dataclass(frozen=True)
class Gaussian(Attack):
    """``w_i + N(0, sigma^2)``, coordinate by coordinate."""

    sigma: float = 0.1

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [like(w + scene.rng.normal(0.0, self.sigma, w.shape), w) for w in scene.honest]


@dataclass(frozen=True)
class BackboneNoise(Gaussian):
    """Gaussian noise on everything but the classifier, the last two arrays."""

    def craft(self, scene: Scene) -> list[npt.NDArray[Any]]:
        return [*super().craft(scene)[:-2], *scene.honest[-2:]]
