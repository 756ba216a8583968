"""Both back ends for every test that asks for `group`; discrete logarithm tables away from the user's cache."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group

CHARM = pytest.param(
    "charm", marks=pytest.mark.skipif(importlib.util.find_spec("charm_lite") is None, reason="charm is not installed")
)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", params=[CHARM, "arkworks"])
def group(request: pytest.FixtureRequest) -> Group:
    return open_group(request.param)
