"""What every test shares."""

import random
from types import SimpleNamespace

import pytest
import torch

from flwr_faa import defence


@pytest.fixture(autouse=True)
def nothing_is_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seed means one that is drawn, and of a hundred honest updates one is an outlier: the same one in every run.

    Flower's legacy client manager samples by ``random``, and the quickstarts shuffle by torch's own generator.
    """
    monkeypatch.setattr(defence, "secrets", SimpleNamespace(randbits=lambda bits: 5))
    random.seed(5)
    torch.manual_seed(5)
