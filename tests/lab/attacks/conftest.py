"""What one attacker among eight sees."""

from __future__ import annotations

import numpy as np
import pytest

from apps.lab.attacks import Scene


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    model = [rng.normal(size=(40, 30)).astype(np.float32), np.array(7)]
    fellows = [[model[0] + rng.normal(size=(40, 30)).astype(np.float32), np.array(8)] for _ in range(8)]
    return Scene(model, fellows[0], lambda: fellows, clients=20, rng=np.random.default_rng(1))
