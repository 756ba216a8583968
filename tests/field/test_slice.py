"""A device's slice: what is cut is what is read, and what is wrong is said."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.lab.config import load
from apps.lab.partitions.slice import Slice
from apps.lab.slice import main

SHAPE = (1, 8, 8)


def test_slices_are_the_partitions_of_the_lab(tmp_path: Path) -> None:
    told = ["clients=3", "dataset=digits", "partition=iid"]
    main(tmp_path, told, samples=50)
    scenario = load(" ".join(told))
    for i in range(3):
        found = Slice.read(tmp_path / f"{i}.npz", SHAPE)
        samples, labels = scenario.data_of(i)
        assert found.partition == i
        assert np.array_equal(found.data[0], samples[:50]) and np.array_equal(found.data[1], labels[:50])
        assert found.data[1].dtype == np.int64
    assert not (tmp_path / "3.npz").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": np.zeros((4, 1, 28, 28), np.uint8)}, r"\(1, 8, 8\)"),
        ({"samples": np.zeros((4, *SHAPE), np.float32)}, "float32"),
        ({"samples": np.zeros((0, *SHAPE), np.uint8), "labels": np.zeros(0, np.int64)}, "expected uint8 samples"),
        ({"labels": np.zeros(3, np.int64)}, "as many labels"),
        ({"labels": np.zeros(4)}, "as many labels"),
        ({"labels": np.array(["cat"] * 4, object)}, "expected a slice"),
        ({"partition": np.zeros(2, np.int64)}, "expected uint8 samples"),
    ],
)
def test_a_wrong_slice_says_what_is_wrong(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "slice.npz"
    good = {"samples": np.zeros((4, *SHAPE), np.uint8), "labels": np.zeros(4, np.int64), "partition": np.array(1)}
    np.savez(path, **good)
    assert Slice.read(path, SHAPE).partition == 1
    np.savez(path, **{**good, **change})
    with pytest.raises(ValueError, match=words) as found:
        Slice.read(path, SHAPE)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"no archive", b"\x93NUMPY\x01\x00"])
def test_no_slice_at_all(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "slice.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"at {path}")):
        Slice.read(path, SHAPE)
    np.savez(path, samples=np.zeros((4, *SHAPE), np.uint8))
    with pytest.raises(ValueError, match="labels"):
        Slice.read(path, SHAPE)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="expected a slice"):
        Slice.read(tmp_path / "one.npy", SHAPE)
