"""What all attacks share."""

from __future__ import annotations

import numpy as np
import pytest

from apps.lab.attacks import Alie, Attack, Gaussian, Scene, SignFlip, SignFlipUpdate


def test_no_attack_sends_the_honest_arrays(scene: Scene) -> None:
    np.testing.assert_array_equal(Attack().craft(scene)[0], scene.honest[0])


@pytest.mark.parametrize("attack", [Gaussian(), SignFlip(), SignFlipUpdate(), Alie(share=0.4, jitter=True)])
def test_dtypes_and_integer_arrays_stay(attack: Attack, scene: Scene) -> None:
    sent = attack.craft(scene)
    assert [a.dtype for a in sent] == [a.dtype for a in scene.honest]
    assert sent[1] == 8
