"""The noise has the deviation that was asked for."""

from __future__ import annotations

import pytest

from apps.lab.attacks import Gaussian, Scene


def test_gaussian_adds_noise_of_the_given_deviation(scene: Scene) -> None:
    noise = Gaussian(sigma=0.3).craft(scene)[0] - scene.honest[0]
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.3, rel=0.1)
