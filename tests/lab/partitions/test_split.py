"""Who holds what, and who is malicious."""

from __future__ import annotations

import numpy as np
import pytest

from apps.lab.datasets import digits, mnist5k
from apps.lab.partitions.split import choose_malicious, dirichlet, iid, shards

LABELS = digits().train[1]


@pytest.mark.parametrize("partition", [iid, shards])
def test_partitions_are_disjoint_equal_and_reproducible(partition) -> None:
    parts = partition(LABELS, 20, 1)
    rows = np.concatenate(parts)
    assert len(set(rows.tolist())) == len(rows)
    assert len({len(p) for p in parts}) == 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, partition(LABELS, 20, 1), strict=True))
    assert not np.array_equal(parts[0], partition(LABELS, 20, 2)[0])


@pytest.mark.parametrize("alpha", [0.5, 0.1])
def test_dirichlet_deals_out_everything_unevenly(alpha: float) -> None:
    parts = dirichlet(LABELS, 20, 1, alpha)
    assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
    assert min(map(len, parts)) >= 10
    assert all(np.array_equal(a, b) for a, b in zip(parts, dirichlet(LABELS, 20, 1, alpha), strict=True))
    assert not np.array_equal(parts[0], dirichlet(LABELS, 20, 2, alpha)[0])
    shares = np.array([np.bincount(LABELS[rows], minlength=10) / len(rows) for rows in parts])
    # of two samples of a client, how likely are they of one label: .1 iid, 1 where there is one label only
    same = np.mean(np.sum(shares**2, axis=1))
    assert 0.15 < same < 0.5 if alpha == 0.5 else 0.5 < same < 0.95


def test_shards_hold_two_labels_up_to_the_borders_of_a_label() -> None:
    kinds = [len(np.unique(LABELS[rows])) for rows in shards(LABELS, 20, 1)]
    assert np.mean(kinds) < 3
    assert max(kinds) <= 4


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_honest_still_hold_every_label(seed: int) -> None:
    parts = shards(LABELS, 20, seed)
    malicious = choose_malicious(parts, LABELS, 0.4, seed)
    assert len(malicious) == 8
    honest = np.concatenate([LABELS[rows] for i, rows in enumerate(parts) if i not in malicious])
    assert len(np.unique(honest)) == 10


@pytest.mark.parametrize(("dataset", "side", "top"), [(digits, 8, 16), (mnist5k, 28, 255)])
def test_datasets_are_integers_with_a_stratified_test_split(dataset, side: int, top: int) -> None:
    data = dataset()
    for samples, labels in (data.train, data.test):
        assert samples.dtype == np.uint8
        assert samples.shape[1:] == (1, side, side)
        assert samples.max() == top
        assert labels.dtype == np.int64
    shares = [np.bincount(labels) / len(labels) for _, labels in (data.train, data.test)]
    np.testing.assert_allclose(*shares, atol=0.01)
