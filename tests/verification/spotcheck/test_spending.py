"""Enrolment on the device by itself: what lies on disk, what counts as told, and the first dimension too many."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_faa.authority.information import Told
from flwr_faa.authority.registration import MAX_SAMPLES
from flwr_faa.verification.spotcheck import enrolment, merkle
from flwr_faa.verification.spotcheck.binding import claim_proofs
from flwr_faa.verification.spotcheck.binding.committed import CommittedBinding
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.enrolment import BONDS, Enrolment, find, sample_leaf
from flwr_faa.verification.spotcheck.messages import Enrolled
from flwr_faa.verification.training import Data
from flwr_faa.verification.wire import WireError

#: Four samples of ten values from 0 to 7, of which the first and the last are equal.
DATA = np.array([[1] * 10, [2] * 10, [7] * 10, [1] * 10]).reshape(4, 2, 5), np.array([3, 0, -2, 9])
SERVER, NODE = CommittedBinding("arkworks"), 5


def parameters(width: int = 10) -> bytes:
    return claim_proofs.parameters(SERVER.group, NODE, width)


def key(width: int = 10) -> bytes:
    return hashlib.sha256(parameters(width)).digest()


def enrol(device: Device, data: Data = DATA, width: int = 10) -> Enrolled:
    return Enrolled.from_bytes(enrolment.enrol(device, data, SERVER.enrolment(NODE, width).to_bytes()))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, budget=0.75)


@pytest.fixture
def bound(device: Device) -> Enrolment:
    enrol(device)
    found = find(device, DATA, key())
    assert found is not None
    return found


# What is bound


def test_a_leaf_is_the_label_in_eight_bytes_and_what_binds_the_sample() -> None:
    raw = np.arange(5, dtype=np.uint8)
    for label in (0, 1, 300, 2**63 - 1, -1, -(2**63)):
        wanted = hashlib.sha256(b"\0" + label.to_bytes(8, "little", signed=True) + raw.tobytes()).digest()
        assert sample_leaf(raw, label) == sample_leaf(raw, np.int64(label)) == wanted  # type: ignore[arg-type]


def test_what_is_enrolled_is_signed_and_found_again(device: Device) -> None:
    said = enrol(device)
    found = find(device, DATA, key())
    assert found is not None and device.serves(found.path)
    assert (found.samples, found.width, found.top, found.group) == (4, 10, 7, "arkworks")
    assert found.bond is BONDS["commitments"]
    registration = said.registration
    registration.check(NODE, parameters())
    assert replace(registration, signature=b"") == found.registration(device)
    assert registration.verify_key == device.identity().public_key().public_bytes_raw()
    assert (said.allowed, said.spent) == (7, 0)  # .75 of ten, rounded down

    points = claim_proofs.commit(SERVER.group, device.secret(b"faa/blindings"), key(), DATA[0].reshape(4, 10))
    assert np.array_equal(found.bound([2, 0, 0]), points[[2, 0, 0]]) and found.bound([]).shape == (0, 96)
    leaves = [sample_leaf(raw, label) for raw, label in zip(points, DATA[1].tolist(), strict=True)]
    assert found.tree().root == found.root == registration.root == merkle.Tree(leaves).root

    files = {path.name: path for path in found.path.iterdir()}
    assert files.keys() == {"bound.npy", "leaves.npy", "samples.npy", "meta.json"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.values())
    assert json.loads(files["meta.json"].read_text()) == {
        "binding": "commitments", "group": "arkworks", "root": found.root.hex(), "samples": 4, "width": 10, "top": 7,
    }  # fmt: skip
    names = np.load(files["samples.npy"])
    assert [n.tobytes() for n in names] == [device.name(row.tobytes()) for row in DATA[0].reshape(4, 10)]
    assert list(found.path.parent.iterdir()) == [found.path]  # nothing that was begun


def test_samples_of_zeros_alone_count_as_if_one_could_be_one(device: Device) -> None:
    zeros = np.zeros((2, 3), np.uint8), np.zeros(2, np.int64)
    assert enrol(device, zeros, 3).registration.top == 1
    ones = np.ones((2, 3), np.uint8), np.zeros(2, np.int64)
    assert enrol(device, ones, 3).registration.top == 1


def test_the_same_data_are_bound_once_and_others_are_another_enrolment(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find(device, DATA, key()) is None
    first = enrol(device)
    bind, made = enrolment._bind, []
    monkeypatch.setattr(enrolment, "_bind", lambda *what: made.append(what) or bind(*what))  # type: ignore[func-returns-value]
    assert enrol(device).registration.root == first.registration.root and made == []
    samples, labels = DATA
    others = [
        (samples[::-1], labels), (samples, labels + 1), (samples.astype(np.int32), labels), (samples[:3], labels[:3]),
        (samples.reshape(4, 5, 2), labels),
    ]  # fmt: skip
    for number, other in enumerate(others, 1):
        assert find(device, other, key()) is None
        enrol(device, other)
        assert len(made) == number
        here, there = find(device, other, key()), find(device, DATA, key())
        assert here is not None and there is not None and device.serves(here.path) and not device.serves(there.path)
    assert find(device, (samples, labels.astype(np.int32)), key()) is not None  # labels are compared as numbers
    assert find(device, DATA, bytes(32)) is None


# What is not bound


def test_no_more_samples_than_a_device_may_have(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SAMPLES == enrolment.MAX_SAMPLES
    monkeypatch.setattr(enrolment, "MAX_SAMPLES", 4)
    enrol(device)
    five = np.concatenate([DATA[0], DATA[0][:1]]), np.append(DATA[1], 0)
    with pytest.raises(WireError, match=r"^expected at most 4 samples on one device, got 5$"):
        enrol(device, five)


def test_every_sample_has_a_label(device: Device) -> None:
    for labels in (DATA[1][:3], np.append(DATA[1], 0)):
        with pytest.raises(ValueError, match="zip"):
            enrol(device, (DATA[0], labels))


@pytest.mark.parametrize("value", [-1, 2**31])
def test_samples_that_cannot_be_bound_are_refused(value: int, device: Device) -> None:
    with pytest.raises(WireError, match=r"^expected samples that can be bound: "):
        enrol(device, (np.full((1, 10), value), np.zeros(1, np.int64)))
    with pytest.raises(WireError, match=r"^expected samples, got none$"):
        enrol(device, (np.zeros((0, 10), np.int64), np.zeros(0, np.int64)))
    with pytest.raises(
        WireError, match=r"^expected parameters to bind data under: expected commitments by this release"
    ):
        enrol(device, DATA, width=9)
    assert not (device.folder / "enrolments").exists() or not list((device.folder / "enrolments").iterdir())


def test_a_group_that_is_not_installed_is_said_to_the_server(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bond:
        def accept(self, *asked: Any) -> Any:
            raise ImportError("expected Charm to be installed")

    monkeypatch.setitem(enrolment.BONDS, "commitments", Bond())  # type: ignore[arg-type]
    with pytest.raises(WireError, match=r"^expected parameters to bind data under: expected Charm to be installed$"):
        enrol(device)


def test_of_two_processes_that_bind_the_firsts_counts(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commits by its own; here the first one's root is another."""
    rename = os.rename

    def second(building: Path, path: Path) -> None:
        meta = json.loads((building / "meta.json").read_text())
        rename(building, path)
        (path / "meta.json").write_text(json.dumps({**meta, "root": "11" * 32}))
        raise OSError("there is one")

    monkeypatch.setattr(enrolment.os, "rename", second)
    assert enrol(device).registration.root == b"\x11" * 32


def test_a_full_disk_is_no_second_process(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(building: Path, path: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(enrolment.os, "rename", full)
    with pytest.raises(OSError, match="no space left"):
        enrol(device)
    assert list((device.folder / "enrolments").iterdir()) == []


# What counts as told: by sample, whatever rows it stands in


def tells(opened: int, every: int = 0) -> Callable[[int], Told]:
    return lambda different: Told(opened, every)


def counts(device: Device) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(device.folder / "disclosed.sqlite")) as db:
        return sorted(db.execute("SELECT known, top FROM disclosed").fetchall())


def test_equal_samples_are_one_and_what_is_opened_is_added_up(bound: Enrolment, device: Device) -> None:
    assert bound.spent() == 0 and not (device.folder / "disclosed.sqlite").exists()
    different = []

    def told(count: int) -> Told:
        different.append(count)
        return Told(2, 50)

    bound.spend([([0, 3, 1], told), ([1], tells(3))], 0.75)
    assert different == [2]
    assert counts(device) == [(0, 7), (2, 7), (5, 7)] and bound.spent() == 5  # commitments tell nothing of closed ones
    bound.spend([([0], tells(1))], 0.75)
    assert counts(device) == [(0, 7), (3, 7), (5, 7)] and bound.spent() == 5
    assert (device.folder / "disclosed.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_key_tells_of_every_sample(bound: Enrolment, device: Device) -> None:
    encrypted = replace(bound, bond=BONDS["encryption"])
    encrypted.spend([([1], tells(2, 1)), ([2, 1], tells(1, 3))], 0.75)
    assert counts(device) == [(4, 7), (5, 7), (7, 7)]  # one key and three, and what was opened


@pytest.mark.parametrize("budget", [0.7, 0.75, 0.79])
def test_the_last_dimension_of_a_budget_is_told_and_the_next_is_not(
    budget: float, bound: Enrolment, device: Device
) -> None:
    """Seven of ten, by any of these budgets; one sample beyond it is too many, and nothing of it is counted."""
    bound.spend([([0, 1], tells(6))], budget)
    bound.spend([([1], tells(1))], budget)
    before = counts(device)
    assert before == [(0, 7), (6, 7), (7, 7)]
    refusal = (
        r"^expected at most 7 of 10 dimensions of a sample to be told, got a request for 8: refused \(Device\(budget="
    )
    with pytest.raises(WireError, match=refusal):
        bound.spend([([0, 1], tells(1))], budget)
    assert counts(device) == before
    bound.spend([([0], tells(1))], budget)
    assert counts(device) == [(0, 7), (7, 7), (7, 7)]


def test_who_allows_everything_is_never_beyond_it(bound: Enrolment, device: Device) -> None:
    bound.spend([([0], tells(10)), ([0], tells(10))], 1.0)
    assert bound.spent() == 10
    with pytest.raises(WireError, match="at most 9 of 10 dimensions of a sample to be told, got a request for 10: "):
        bound.spend([([1], tells(1))], 0.99)


def test_what_is_known_of_a_sample_is_known_in_every_set(bound: Enrolment, device: Device) -> None:
    """In another order, among others, and with another largest value, by which dimensions are converted."""
    bound.spend([([1], tells(4))], 0.75)
    more = np.concatenate([DATA[0][1:2], np.full((1, 2, 5), 63)]), np.array([0, 1])
    enrol(device, more)
    other = find(device, more, key())
    assert other is not None and other.spent() == 4  # of larger values it is no more
    other.spend([([0, 1], tells(1))], 0.75)
    assert counts(device) == [(0, 7), (0, 7), (1, 63), (5, 63)]
    assert bound.spent() == 10  # five dimensions of 6 bits are ten of 3
    assert enrol(device, more).spent == 5 and enrol(device).spent == 10


def test_counts_of_another_release_are_not_read(bound: Enrolment, device: Device) -> None:
    bound.spend([([0], tells(1))], 0.75)
    for version in (0, 2, 4):
        with closing(sqlite3.connect(device.folder / "disclosed.sqlite")) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (3,)
            db.execute(f"PRAGMA user_version = {version}")
        for use in (bound.spent, lambda: bound.spend([([0], tells(1))], 0.75)):
            with pytest.raises(
                WireError, match=f"^disclosed.sqlite: expected version 3, got {version}, of another rel"
            ):
                use()
        with closing(sqlite3.connect(device.folder / "disclosed.sqlite")) as db:
            db.execute("PRAGMA user_version = 3")
    assert bound.spent() == 1


def test_an_unknown_enrolment_is_none(device: Device) -> None:
    found: Any = find(device, DATA, key())
    assert found is None
