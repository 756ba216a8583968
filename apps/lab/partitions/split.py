"""Who holds which samples, and who is malicious."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

#: Draws of the malicious clients tried before honest clients are allowed to miss a label.
TRIES = 1000


def iid(labels: Labels, clients: int, seed: int) -> list[Rows]:
    """Give every client a random part, all of equal size."""
    rows = np.random.default_rng(seed).permutation(len(labels))
    size = len(rows) // clients
    return [rows[i * size : (i + 1) * size] for i in range(clients)]


def unequal(labels: Labels, clients: int, seed: int, ratio: float = 10.0) -> list[Rows]:
    """Return random parts of unequal size: uniform in the logarithm, the largest up to ``ratio`` times the smallest."""
    rng = np.random.default_rng(seed)
    sizes = ratio ** rng.uniform(size=clients)
    cuts = np.rint(np.cumsum(sizes) / sizes.sum() * len(labels)).astype(int)[:-1]
    return np.split(rng.permutation(len(labels)), cuts)


def shards(labels: Labels, clients: int, seed: int) -> list[Rows]:
    """Give every client two shards of the sorted samples: one or two labels, seldom three (McMahan et al. 2017)."""
    from flwr_datasets.partitioner import ShardPartitioner

    return _by_flower(ShardPartitioner(clients, "label", num_shards_per_partition=2, seed=seed), labels, clients)


def dirichlet(labels: Labels, clients: int, seed: int, alpha: float) -> list[Rows]:
    """Deal each label out in shares drawn from Dirichlet(alpha) (Yurochkin et al. 2019); .1 is very uneven.

    Clients are of unequal size, with ten samples at least. As in that paper's code, a client that already holds more
    than the average gets nothing of the labels that follow. At small alpha ten draws may all leave somebody with less;
    then the next seed after ``seed`` is taken, in steps of 1,000,003, ten times at most.

    Raises
    ------
    ValueError
        If no draw suffices.
    """
    from flwr_datasets.partitioner import DirichletPartitioner

    for attempt in range(10):
        partitioner = DirichletPartitioner(clients, "label", alpha, seed=seed + 1_000_003 * attempt)
        try:
            return _by_flower(partitioner, labels, clients)
        except ValueError as why:  # flwr-datasets has no exception of its own for it
            if "max number of attempts" not in str(why):
                raise
    raise ValueError(f"expected ten samples for each client, got fewer in 100 draws: {clients} clients, alpha {alpha}")


def _by_flower(partitioner: Any, labels: Labels, clients: int) -> list[Rows]:
    """Return each client's rows by one of Flower's own partitioners; importing it costs a second and 150 MB."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(labels)), "label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # datasets' use of pyarrow, one line per call
        warnings.filterwarnings("ignore", "The specified min_partition_size")  # another draw follows
        return [np.array(partitioner.load_partition(i)["row"], np.intp) for i in range(clients)]


def choose_malicious(partitions: Sequence[Rows], labels: Labels, share: float, seed: int) -> frozenset[int]:
    """Return the first ``round(share * clients)`` of a seeded shuffle, under which the honest still hold every label.

    A ban takes the attacker's labels away with it. Where no honest client holds them, no defence can reach the
    accuracy of a federation without attack, and a comparison would blame the defence. So shuffles are drawn until the
    honest hold all labels, or ``TRIES`` of them did not.

    Parameters
    ----------
    partitions : sequence of ndarray
        Rows of each client.
    labels : ndarray
    share : float
    seed : int

    Returns
    -------
    frozenset of int
        Partitions.
    """
    rng = np.random.default_rng([seed, 1])
    shuffles = [rng.permutation(len(partitions)) for _ in range(TRIES)]
    count = round(share * len(partitions))

    def honest_labels(shuffle: npt.NDArray[Any]) -> int:
        return len(np.unique(np.concatenate([labels[partitions[i]] for i in shuffle[count:]])))

    everything = len(np.unique(labels))
    best = next((s for s in shuffles if honest_labels(s) == everything), shuffles[0])
    return frozenset(int(i) for i in best[:count])
