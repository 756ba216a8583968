"""Commitments to samples: which there are, and that they are the sums they are defined as."""

from __future__ import annotations

import numpy as np
import pytest

from flwr_faa.crypto import pedersen
from flwr_faa.crypto.generators import generators
from flwr_faa.crypto.group import Group
from flwr_faa.crypto.groups import total


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros(3, int), r"integers of shape \(m, n\), got int64 of shape \(3,\)"),
        (np.zeros((1, 3, 1), int), r"integers of shape \(m, n\), got int64 of shape \(1, 3, 1\)"),
        (np.zeros((1, 3)), "got float64"),
        (np.zeros((1, 3), bool), "got bool"),
        (np.array([[0, -1]]), "values from 0 to 2147483647, got -1 to 0"),
        (np.array([[0, 2**31]]), "values from 0 to 2147483647, got 0 to 2147483648"),
        (np.zeros((0, 3), int), "expected 0 blindings, got 1"),
        (np.zeros((2, 3), int), "expected 2 blindings, got 1"),
    ],
)
def test_what_cannot_be_committed_to_is_refused(group: Group, rows: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pedersen.commit_rows(group, rows, [1])


@pytest.mark.parametrize("top", [0, 1, 15, 16, 17, 255, 256, 4095, 4096, 2**31 - 1])
def test_every_size_of_values(group: Group, top: int) -> None:
    """One base at a time, and all of them: a digit may be the largest, or zero between others."""
    values = np.array([top, 0, top // 2, top // 16 * 16, top % 16, 1 if top else 0])
    bases = generators(group, len(values))
    rows = np.array([*np.diag(values), values])
    if top < 256:
        rows = rows.astype(np.uint8)
    expected = [group.mul(base, int(v)) for base, v in zip(bases[1:], values, strict=True)]
    expected.append(total(group, expected))
    assert pedersen.commit_rows(group, rows, [0] * 7) == expected
    blinded = pedersen.commit_rows(group, rows, list(range(-3, 4)))
    assert blinded == [group.add(c, group.mul(bases[0], r)) for c, r in zip(expected, range(-3, 4), strict=True)]


def test_hundreds_of_rows(group: Group) -> None:
    (base,) = generators(group, 1)[1:]
    assert pedersen.commit_rows(group, np.full((300, 1), 3), [0] * 300) == [group.mul(base, 3)] * 300


def test_no_rows_and_no_values(group: Group) -> None:
    assert pedersen.commit_rows(group, np.zeros((0, 2), int), []) == []
    assert pedersen.commit_rows(group, np.zeros((1, 0), int), [5]) == [group.mul(generators(group, 0)[0], 5)]


def test_bases_are_computed_once(group: Group) -> None:
    assert generators(group, 6) is generators(group, 6)
    assert generators(group, 3) == generators(group, 6)[:4]
