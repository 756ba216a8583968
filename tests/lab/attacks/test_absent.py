"""Absent clients fail, and so are left out."""

from __future__ import annotations

import pytest

from apps.lab.attacks import Absent, AbsentFlip, Attack, Scene


@pytest.mark.parametrize("attack", [Absent(), AbsentFlip()])
def test_absent_sends_nothing(attack: Attack, scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="takes no part"):
        attack.craft(scene)
