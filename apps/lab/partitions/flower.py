"""LoMar's partition for flwr-datasets. The lab itself calls the function: this import costs a second and 150 MB."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner

from apps.lab.partitions.major_label import major_label
from apps.lab.partitions.split import Rows


class MajorLabelPartitioner(Partitioner):  # type: ignore[misc]
    """Partitions in which a share of the samples has one label, a different one from client to client.

    Parameters
    ----------
    num_partitions : int
    share : float
        LoMar's lambda; see :func:`apps.lab.partitions.major_label.major_label`.
    partition_by : str (default: "label")
    size : int, optional
    seed : int (default: 42)
    """

    def __init__(
        self, num_partitions: int, share: float, partition_by: str = "label", size: int | None = None, seed: int = 42
    ) -> None:
        super().__init__()
        self._num_partitions, self._share, self._by = num_partitions, share, partition_by
        self._size, self._seed = size, seed

    @cached_property
    def _rows(self) -> list[Rows]:
        labels = np.asarray(self.dataset[self._by])
        return major_label(labels, self._num_partitions, self._seed, self._share, self._size)

    def load_partition(self, partition_id: int) -> Dataset:
        """Return one client's rows."""
        return self.dataset.select(self._rows[partition_id])

    @property
    def num_partitions(self) -> int:
        return self._num_partitions
