"""LoMar's partition."""

from __future__ import annotations

import numpy as np
import pytest

from apps.lab.datasets import digits
from apps.lab.partitions.major_label import major_label

LABELS = digits().train[1]


@pytest.mark.parametrize("clients", [3, 15, 20, 100])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_every_client_has_as_many_of_its_major_label_as_it_should(clients: int, share: float) -> None:
    # Execute
    parts = major_label(LABELS, clients, 1, share)

    # Assert
    sizes = {len(rows) for rows in parts}
    assert len(parts) == clients and len(sizes) == 1
    (size,) = sizes
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    majors = [LABELS[rows[: round(share * size)]] for rows in parts]
    assert all(len(set(own)) <= 1 for own in majors)
    if share:
        counts = np.bincount([own[0] for own in majors], minlength=10)
        assert counts.max() - counts.min() <= 1
    if clients % 10 == 0:
        assert size > 0.9 * len(LABELS) / clients


def test_share_zero_is_a_random_partition_of_nearly_everything() -> None:
    parts = major_label(LABELS, 20, 1, 0.0)
    assert len(parts[0]) == len(LABELS) // 20
    kinds = [len(np.unique(LABELS[rows])) for rows in parts]
    assert min(kinds) >= 9


def test_clients_overlap_where_there_is_not_enough_and_none_holds_a_sample_twice() -> None:
    parts = major_label(LABELS, 50, 1, 0.5, size=200)
    assert all(len(np.unique(rows)) == 200 for rows in parts)
    assert all(len(set(LABELS[rows[:100]])) == 1 for rows in parts)
    shares = [np.mean(LABELS[rows] == LABELS[rows[0]]) for rows in parts]
    assert np.mean(shares) == pytest.approx(0.5 + 0.5 * 0.03, abs=0.02)  # 40 of 1,337 are left of the label
    with pytest.raises(ValueError, match="expected at most"):
        major_label(LABELS, 50, 1, 1.0, size=500)


def test_the_seed_decides() -> None:
    first, again, other = (np.concatenate(major_label(LABELS, 20, s, 0.5)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_flowers_partitioner_gives_the_same_rows() -> None:
    from datasets import Dataset

    from apps.lab.partitions.flower import MajorLabelPartitioner

    partitioner = MajorLabelPartitioner(20, 0.5, seed=3)
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(LABELS)), "label": LABELS})
    assert partitioner.num_partitions == 20
    expected = major_label(LABELS, 20, 3, 0.5)
    for i in (0, 19):
        np.testing.assert_array_equal(partitioner.load_partition(i)["row"], expected[i])
