"""What every test shares."""

import gc
import logging
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from flwr_faa import defence
from flwr_faa.verification.spotcheck import verifier
from flwr_faa.verification.spotcheck.binding import encrypted

# The same examples in every run, and no time limits: a busy machine is no fault of the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Flower collects garbage with every record that it reads: let it not walk through all that is imported."""
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seed means one that is drawn, and of a hundred honest updates one is an outlier: the same one in every run.

    The server's secret choices, of steps to challenge and of vectors, differ from one challenge to the next, but not
    from run to run. Flower's legacy client manager samples by ``random``; the quickstarts shuffle by torch's generator.
    """
    draw = random.Random(5)
    secret = SimpleNamespace(SystemRandom=lambda: draw, token_bytes=draw.randbytes)
    monkeypatch.setattr(verifier, "secrets", secret)
    monkeypatch.setattr(encrypted, "secrets", secret)
    monkeypatch.setattr(defence, "secrets", SimpleNamespace(token_bytes=lambda count: bytes([5]) * count))
    random.seed(5)
    torch.manual_seed(5)


LOGGERS = [logging.getLogger(name) for name in ("flwr", "flwr_faa")]
AT_START = [(logger.level, logger.propagate) for logger in LOGGERS]


@pytest.fixture(autouse=True)
def loggers_speak() -> None:
    """Each test hears what is logged: as at the start, not as before the test, when a module's fixture has run already.

    Long commands silence the loggers of their own process, and Alembic's configuration disables those of others.
    """
    for logger, (level, propagate) in zip(LOGGERS, AT_START, strict=True):
        logger.disabled = False
        logger.setLevel(level)
        logger.propagate = propagate
