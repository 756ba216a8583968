"""The weights or the update are negated, as the formulas say."""

from __future__ import annotations

import numpy as np

from apps.lab.attacks import Scene, SignFlip, SignFlipUpdate


def test_sign_flip_negates_the_weights(scene: Scene) -> None:
    np.testing.assert_array_equal(SignFlip().craft(scene)[0], -scene.honest[0])
    np.testing.assert_array_equal(SignFlip(epsilon=-4.0).craft(scene)[0], -4 * scene.honest[0])


def test_sign_flip_update_negates_the_update(scene: Scene) -> None:
    sent = SignFlipUpdate().craft(scene)[0]
    np.testing.assert_allclose(sent - scene.model[0], scene.model[0] - scene.honest[0], rtol=1e-4, atol=1e-5)
