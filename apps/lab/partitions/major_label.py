"""LoMar's partition: every client has a major label that makes up a share lambda of its samples (Sec. 4.1.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from apps.lab.partitions.split import Labels, Rows


def major_label(labels: Labels, clients: int, seed: int, share: float, size: int | None = None) -> list[Rows]:
    """Give each client ``round(share * size)`` samples of its major label, the rest at random from all labels.

    Client i's major label is the i-th of a random order, counted round. The rest may hold the major label too, as in
    the paper: with ten balanced labels and share .5, a client's major label makes up .55 of its samples.

    Parameters
    ----------
    labels : ndarray
    clients, seed : int
    share : float
        lambda, in [0, 1].
    size : int, optional
        Samples a client. By default the most for which nobody shares a sample with anybody. If more, clients overlap,
        as the paper's must (1,000 x 600 of 60,000 images); none holds a sample twice.

    Raises
    ------
    ValueError
        If a client would need more samples of a label than there are.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.unique(labels))
    majors = [kinds[i % len(kinds)] for i in range(clients)]
    pools = {kind: rng.permutation(np.flatnonzero(labels == kind)) for kind in kinds}
    most = _most(len(labels), {k: (len(pools[k]), majors.count(k)) for k in kinds}, clients, share)
    size = most if size is None else size
    wanted = round(share * size)
    if size > most:
        return [_overlapping(labels, pools[major], size, wanted, rng) for major in majors]
    # The major samples first, so that no label runs out before its last client has been served.
    held = []
    for major in majors:
        held.append(pools[major][:wanted])
        pools[major] = pools[major][wanted:]
    rest = rng.permutation(np.concatenate(list(pools.values())))
    more = size - wanted
    return [np.concatenate([own, rest[i * more : (i + 1) * more]]) for i, own in enumerate(held)]


def _most(samples: int, kinds: dict[Any, tuple[int, int]], clients: int, share: float) -> int:
    """Return the largest size for which majors and rest both suffice."""
    size = samples // clients
    while size > 1 and any(count * round(share * size) > there for there, count in kinds.values()):
        size -= 1
    return size


def _overlapping(labels: Labels, pool: Rows, size: int, wanted: int, rng: np.random.Generator) -> Rows:
    if wanted > len(pool) or size > len(labels):
        raise ValueError(f"expected at most {len(pool)} samples of a client's major label, got {wanted} of {size}")
    own = rng.choice(pool, wanted, replace=False)
    others = np.setdiff1d(np.arange(len(labels)), own, assume_unique=True)
    return np.concatenate([own, rng.choice(others, size - wanted, replace=False)])
