"""Authorities to talk to; discrete logarithm tables away from the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flwr_faa.authority import LocalAuthority
from flwr_faa.authority.certificate import self_signed
from tests.authority.parties import Signer
from tests.authority.world import World, make_world
from tests.crypto.conftest import CHARM


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=[CHARM, "arkworks"])
def authority(request: pytest.FixtureRequest) -> LocalAuthority:
    return LocalAuthority(request.param)


@pytest.fixture
def client() -> Signer:
    return Signer(2**64 - 1)


@pytest.fixture(scope="session")
def certificate() -> str:
    return self_signed(["localhost"])[1].decode()


@pytest.fixture
def world(certificate: str) -> World:
    return make_world(certificate)


@pytest.fixture(scope="module")
def lasting(certificate: str) -> World:
    return make_world(certificate)
