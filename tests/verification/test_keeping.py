"""Runs that are kept on disk or trained again: the same answers, and never the second way where bits differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_faa.client import VerifiableClient
from flwr_faa.verification import keeping
from flwr_faa.verification.keeping import Keeping, measure, trains_again
from flwr_faa.verification.spotcheck import commitments
from flwr_faa.verification.spotcheck.commitments import Run
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.wire import WireError
from tests.helpers.toy import PLANS, slice_of
from tests.verification.spotcheck.spot import Node

PLAN = PLANS["mlp"]


def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping.os, "fsync", lambda file: keeping.time.sleep(0.5))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_run_that_is_trained_again_is_bit_for_bit_the_one_on_disk(name: str, tmp_path: Path) -> None:
    plan, data = PLANS[name], slice_of(0)
    arrays = plan.initial_arrays(0)
    (done, one), (again, other) = (
        commitments.train(plan, arrays, data, 7, tmp_path / way, way == "again") for way in ("disk", "again")
    )
    assert one.to_bytes() == other.to_bytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(done, again, strict=True))
    sizes = [sum(f.stat().st_size for f in (tmp_path / way).iterdir()) for way in ("disk", "again")]
    assert sizes[1] < sizes[0] / 2
    disk, memory = (Run.find(plan, tmp_path / way, one.root) for way in ("disk", "again"))
    assert memory.tree().root == disk.tree().root == one.root
    assert memory.trace().to_bytes() == disk.trace().to_bytes()
    every = range(plan.steps(len(data[1])) + 1)
    assert memory.whole(plan, data).read(every) == disk.whole(plan, data).read(every)


def test_a_challenged_device_that_kept_the_start_alone_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, "mlp", binding="commitments")
    node.enrol()
    slow_disk(monkeypatch)
    assert measure(node.plan, node.data, node.device).again and trains_again(node.device, node.plan)
    start = node.plan.initial_arrays(0)
    client = VerifiableClient(node.plan, node.data, device=node.device)
    done, examples, more = client.fit(start, {"faa.nonce": 9, "faa.commit": True})
    assert [path.suffix for path in node.device.checkpoints.iterdir()] == [".again"]
    case = replace(node.train(9), claimed=done, num_examples=examples, commitment=more["faa.commitment"])
    for path in node.device.checkpoints.glob("*"):  # what ``train`` kept on disk
        if path.suffix != ".again":
            path.unlink()
    assert not node.judge(case).convicted


def test_who_does_not_train_the_same_way_twice_keeps_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_disk(monkeypatch)
    train, count = commitments.train, iter(range(9))

    def drifting(plan: Any, arrays: Any, *more: Any, **named: Any) -> Any:
        return train(plan, [a + np.float32(1e-6 * next(count)) for a in arrays], *more, **named)

    device = Device(tmp_path)
    monkeypatch.setattr(commitments, "train", drifting)
    found = measure(PLAN, slice_of(0), device)
    assert not found.again and not trains_again(device, PLAN) and "NOT the same way twice: kept on disk" in str(found)


def test_a_run_that_does_not_come_back_is_no_evidence(tmp_path: Path) -> None:
    data = slice_of(0)
    _, sent = commitments.train(PLAN, PLAN.initial_arrays(0), data, 7, tmp_path, again=True)
    other = data[0].copy()
    other[0] ^= 1
    with pytest.raises(WireError, match="train the same way twice"):
        Run.find(PLAN, tmp_path, sent.root).whole(PLAN, (other, data[1]))


def test_the_disk_is_kept_unless_the_other_way_is_cheaper_and_fits_in_memory() -> None:
    cheap = Keeping(same=True, size=10**6, write=2.0, train=1.0)
    assert cheap.again and "by training again" in str(cheap)
    for train, again in ((0.0, True), (1.999, True), (2.0, False), (3.0, False)):
        assert replace(cheap, train=train).again is again
    for size, again in ((0, True), (2**28, True), (2**28 + 1, False)):
        assert replace(cheap, size=size).again is again
    assert not replace(cheap, same=False).again
    assert str(replace(cheap, size=1234567)) == (
        "checkpoints of a round: 1.23 MB, written in 2 s; trained again in 1 s, bit for bit the same: kept by training "
        "again"
    )


@pytest.mark.parametrize(("epochs", "count"), [(2, 200), (1, 45)])
def test_what_is_measured_is_scaled_to_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, count: int
) -> None:
    """By a clock of which every training takes 8 seconds and every write 6."""
    clock, written, steps = [100.0], [], []
    train, plan = commitments.train, replace(PLAN, epochs=epochs)

    def training(*asked: Any, **more: Any) -> Any:
        clock[0] += 8
        steps.append(plan.steps(len(asked[2][1])))
        return train(*asked, **more)

    def syncing(file: int) -> None:
        clock[0] += 6
        written.append(keeping.os.fstat(file).st_size)

    monkeypatch.setattr(commitments, "train", training)
    monkeypatch.setattr(keeping.os, "fsync", syncing)
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: clock[0])
    data = slice_of(0, count)
    found = measure(plan, data, Device(tmp_path))
    train(plan, plan.initial_arrays(0), data, 7, tmp_path / "run", again=True)
    layout = Run.find(plan, tmp_path / "run", found_root(tmp_path / "run")).layout
    assert found.same and found.size == (plan.steps(count) + 1) * layout.size
    assert found.train == pytest.approx(8 / steps[0] * plan.steps(count)) and len(steps) == 2
    assert steps[0] == min(plan.steps(count), plan.steps(5 * plan.batch_size))
    assert found.write == pytest.approx(6 * found.size / written[0])
    assert trains_again(Device(tmp_path), plan) is found.again


def found_root(folder: Path) -> bytes:
    """The root of the only run in a folder."""
    (path,) = folder.iterdir()
    return bytes.fromhex(path.stem.split("-")[1])


def test_a_decision_is_for_one_plan_and_a_damaged_one_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path)
    assert not trains_again(device, PLAN)
    slow_disk(monkeypatch)
    measure(PLAN, slice_of(0), device)
    assert trains_again(device, PLAN) and not trains_again(device, replace(PLAN, lr=0.2))
    with monkeypatch.context() as patch:
        patch.setattr("torch.__version__", "1.0")  # which may round in another way
        assert not trains_again(device, PLAN)
    (tmp_path / "keeping.json").write_text('{"again": tr')
    assert not trains_again(device, PLAN)
