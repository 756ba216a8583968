"""Clients' metrics, mended so that averaging them neither raises nor turns into NaN for one client's sake.

A metric is a client's word about itself, and nothing is decided by it. So a bad one costs the metric, never the model:
it is replaced by what the others report, which leaves their weighted average as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

#: Metrics of one node, by name.
Metrics = Mapping[str, Any]


def mend(told: Mapping[int, Metrics], weights: Mapping[int, float]) -> dict[int, dict[str, Any]]:
    """Return every node's metrics with the same names, kinds and lengths, finite where most are finite.

    A metric that more than half of the nodes report is kept; who reports it otherwise (missing, of another type or
    length, not finite where most are) gets the weighted mean of the others, or their commonest value where it is no
    number. A metric that fewer report is dropped, unless most nodes report metrics of their own: then the project
    means them to differ, and they stay.

    Parameters
    ----------
    told : mapping
        By node.
    weights : mapping
        Positive, by node.

    Examples
    --------
    >>> mend({1: {"loss": 1.0}, 2: {"loss": 3.0}, 3: {"loss": "none", "odd": 1}}, {1: 1, 2: 1, 3: 5})
    {1: {'loss': 1.0}, 2: {'loss': 3.0}, 3: {'loss': 2.0}}
    """
    holders = Counter(name for metrics in told.values() for name in metrics)
    common = [name for name, count in holders.items() if 2 * count > len(told)]
    own = {node: {n: v for n, v in metrics.items() if n not in common} for node, metrics in told.items()}
    differ = 2 * sum(bool(rest) for rest in own.values()) > len(told)
    mended: dict[int, dict[str, Any]] = {node: {} for node in told}
    for name in common:
        for node, value in _column(name, told, weights).items():
            mended[node][name] = value
    # Each node's names stay in the order in which it sent them.
    return {
        node: {n: mended[node].get(n, v) for n, v in metrics.items() if n in common or differ} | mended[node]
        for node, metrics in told.items()
    }


def _column(name: str, told: Mapping[int, Metrics], weights: Mapping[int, float]) -> dict[int, Any]:
    """Mend one metric of all nodes."""
    kinds = {node: _kind(metrics[name]) for node, metrics in told.items() if name in metrics}
    counts = Counter(kinds.values())
    usual = max(counts, key=lambda kind: (counts[kind], repr(kind)))
    sound = {node: told[node][name] for node, kind in kinds.items() if kind == usual}
    if len(sound) == len(told):
        return sound
    nodes = sorted(sound)
    total = math.fsum(weights[node] for node in nodes)
    shares = [weights[node] / total for node in nodes]
    stand_in: Any
    if usual == ("number", True):
        stand_in = math.fsum(share * sound[node] for share, node in zip(shares, nodes, strict=True))
    elif usual[0] == "numbers" and usual[1][1]:
        columns = zip(*(sound[node] for node in nodes), strict=True)
        stand_in = [math.fsum(share * v for share, v in zip(shares, column, strict=True)) for column in columns]
    else:
        stand_in = max(sorted(map(repr, sound.values())), key=[repr(v) for v in sound.values()].count)
        stand_in = next(v for v in sound.values() if repr(v) == stand_in)
    return {node: sound.get(node, stand_in) for node in told}


def _kind(value: object) -> tuple[str, Any]:
    """Return what two values must share to be averaged together."""
    if isinstance(value, (int, float)):
        return "number", _finite(value)
    if isinstance(value, list) and all(isinstance(v, (int, float)) for v in value):
        return "numbers", (len(value), all(map(_finite, value)))
    return type(value).__name__, None


def _finite(value: float) -> bool:
    return value.bit_length() < 1024 if isinstance(value, int) else math.isfinite(value)  # as a float
