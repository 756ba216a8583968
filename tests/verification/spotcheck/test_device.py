"""A client's device: where it lies, what it keeps secret, what it is called by, and whom it answers for."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.authority import BUDGET
from flwr_faa.verification.spotcheck import device as module
from flwr_faa.verification.spotcheck.device import Device, own_device

DATA = np.arange(6, dtype=np.uint8).reshape(3, 2), np.array([0, 1, 1])


# Where it lies


def test_a_device_without_a_folder_lies_in_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Device().folder == own_device(DATA).folder == tmp_path / "flwr-faa"
    monkeypatch.setenv("XDG_DATA_HOME", "")
    assert Device().folder == Path.home() / ".local" / "share" / "flwr-faa"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert Device().folder == Path.home() / ".local" / "share" / "flwr-faa"
    assert (Device().budget, Device().authority) == (BUDGET, None)
    assert Device(str(tmp_path)).checkpoints == tmp_path / "checkpoints"  # type: ignore[arg-type]


def test_simulated_clients_have_a_folder_each_below_their_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SimpleNamespace(get_node_id=lambda: "abc")
    running = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: node)
    monkeypatch.setitem(sys.modules, "ray", running)
    found = own_device(DATA).folder
    assert found.parent == Path(tempfile.gettempdir()) / f"flwr-faa-{os.getuid()}-abc"
    # A name of 16 bytes for the data, with their shapes and types.
    said = hashlib.blake2b(digest_size=16)
    for array in DATA:
        said.update(repr((array.shape, array.dtype.str)).encode() + array.tobytes())
    assert found.name == said.hexdigest() and len(found.name) == 32
    others = [(DATA[0].T, DATA[1]), (DATA[0].reshape(2, 3), DATA[1]), (DATA[0].astype(np.int64), DATA[1]),
              (DATA[0], DATA[1] + 1), (DATA[0] + np.uint8(1), DATA[1])]  # fmt: skip
    assert len({found, *(own_device(other).folder for other in others)}) == 6
    for ray in (SimpleNamespace(is_initialized=lambda: False), None):  # imported by chance, or blocked
        monkeypatch.setitem(sys.modules, "ray", ray)
        assert own_device(DATA).folder == Device().folder


# What it is given


@pytest.mark.parametrize("budget", [0, -0.1, 1.0001, float("nan")])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(ValueError, match=r"^expected budget to be a finite number above 0 and at most 1, got "):
        Device("d", budget)  # type: ignore[arg-type]
    assert (Device("d", 1.0).budget, Device("d", 1e-9).budget) == (1.0, 1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "0" * 32, bytearray(32)], ids=range(5))
def test_a_pinned_authority_is_a_key_of_32_bytes(key: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected the authority's key as 32 bytes or None, got "):
        Device("d", authority=key)  # type: ignore[arg-type]
    assert Device("d", authority=bytes(32)).authority == bytes(32)  # type: ignore[arg-type]


def test_progress_is_a_function_and_logs_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match=r"^expected progress to be a function of \(samples done, samples in all\)"):
        Device("d", progress=3)  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)
    Device("d").progress(3, 7)  # type: ignore[arg-type]
    assert "enrolment: 3 of 7 samples encrypted" in caplog.text


# Its key, and what is derived from it


def test_a_devices_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first, again = Device(tmp_path / "a"), Device(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    raw = first.identity().private_bytes_raw()
    assert raw == again.identity().private_bytes_raw() == first.identity().private_bytes_raw()
    assert raw != Device(tmp_path / "b").identity().private_bytes_raw()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["identity.key"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "identity.key").stat().st_mode & 0o777 == 0o600


def test_of_two_processes_that_make_a_key_the_firsts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ed25519PrivateKey.generate()

    def too_late(source: str, path: Path) -> None:
        path.write_bytes(first.private_bytes_raw())
        raise FileExistsError

    monkeypatch.setattr(module.os, "link", too_late)
    assert Device(tmp_path).identity().private_bytes_raw() == first.private_bytes_raw()
    assert [path.name for path in tmp_path.iterdir()] == ["identity.key"]


def test_secrets_are_keyed_by_the_devices_key_and_their_purpose(tmp_path: Path) -> None:
    device = Device(tmp_path)
    raw = device.identity().private_bytes_raw()
    assert device.secret(b"one") == hashlib.blake2b(raw, person=b"one", digest_size=64).digest()
    assert device.secret(b"one") != device.secret(b"two")


def test_names_are_what_stands_on_disk_and_of_the_parts_one_by_one(tmp_path: Path) -> None:
    """Enrolments lie under them, so they are the same after a restart and in the next release."""
    device = Device(tmp_path)
    said = b"".join(len(part).to_bytes(8, "big") + part for part in (b"ab", b"", b"c" * 300))
    wanted = hashlib.blake2b(said, key=device.secret(b"faa/names"), digest_size=16).digest()
    assert device.name(b"ab", b"", b"c" * 300) == wanted
    assert device.name(b"ab", b"c") != device.name(b"a", b"bc") != device.name(b"abc")
    assert Device(tmp_path / "other").name(b"ab") != device.name(b"ab")


# Whom it answers for


def test_a_folder_answers_for_what_was_enrolled_last(tmp_path: Path) -> None:
    device, enrolments = Device(tmp_path), [Path("enrolments") / name for name in ("b", "a", "c", "bb")]
    assert not any(map(device.serves, enrolments))
    for current in enrolments:
        device.serve(current)
        assert [e for e in enrolments if device.serves(e)] == [current]
        assert device.serves(Path("moved") / current.name)  # with its folder
    assert [path.name for path in tmp_path.iterdir()] == ["enrolled"]
