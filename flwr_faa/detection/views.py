"""Views: one number a client, each a different way to look odd.

No single measure separates every attack from honest clients. Noise is far away, ALIE's copies are too close together,
a flipped model is large and points elsewhere. Taking each measure as a two-sided robust z, and the largest of them all,
needs no notion of which side is malicious (LoMar's Eq. 7 needs one, and is wrong for dense attackers).

A view belongs to no detector: ``MultiView(views=...)`` takes any function from a ``Cloud`` to views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flwr_faa.detection.geometry import Block, Cloud, Vector

#: Spread below which clients are the same whatever the view: a tenth of a percent.
LEAST_SPREAD = 1e-3
#: Spreads a view needs before five of them count, measured so that honest clients with two labels each pass (docs of
#: ``update_views``): 10% of a distance or norm, .03 of a share or cosine, .5 of a z. Two honest clients with the same
#: labels are each other's nearest neighbour, two to four times closer than usual, so there it takes 35%.
LEAST_RATIO, LEAST_SHARE, LEAST_Z, LEAST_NEAREST = 0.1, 0.03, 0.5, 0.3
#: Nearer than this part of the usual distance, or smaller than this part of the usual norm, is zero.
ZERO = 1e-6


@dataclass(frozen=True, eq=False)
class View:
    """One measure of every client, rows in the cloud's canonical order.

    Parameters
    ----------
    name : str
        Unique among the views of a detector.
    values : ndarray, shape (n,)
        Finite.
    what, less, more : str
        For the reader: "norm", "smaller", "larger". ``what`` may be one string a client.
    log : bool (default: True)
        The values are logarithms, so differences read as factors.
    least : float (default: 0.0)
        Smallest spread to measure against, in the unit of the values.
    """

    name: str
    values: Vector
    what: str | Sequence[str]
    less: str
    more: str
    log: bool = True
    least: float = 0.0

    @cached_property
    def usual(self) -> tuple[float, float]:
        """Centre and spread of the clients."""
        return centre_and_spread(self.values, self.least)

    @cached_property
    def z(self) -> Vector:
        """Robust z of each client."""
        return (self.values - self.usual[0]) / self.usual[1]

    def explain(self, i: int, z: float | None = None) -> str:
        """One line: how client ``i`` differs from the median client, by a z of its own or one measured otherwise."""
        value, usual = float(self.values[i]), float(np.median(self.values))
        side = self.less if value < usual else self.more
        if self.log:
            factor = math.exp(min(abs(value - usual), math.log(1000)))
            how = f"{'over ' if factor > 999 else ''}{factor:.{1 if factor < 10 else 0}f}x {side} than usual"
        else:
            how = f"{value:.2g}, {side} than the usual {usual:.2g}"
        what = self.what if isinstance(self.what, str) else self.what[i]
        return f"{what} {how} (z = {self.z[i] if z is None else z:.1f})"


def robust_z(values: Vector, least: float = 0.0) -> Vector:
    """``(x - median) / (1.4826 MAD)``, never NaN.

    Where half the clients agree exactly the MAD is zero and the mean absolute deviation stands in for it (Iglewicz and
    Hoaglin 1993). One client is always at 0.
    """
    centre, spread = centre_and_spread(values, least)
    return np.asarray((values - centre) / spread)


def centre_and_spread(values: Vector, least: float = 0.0) -> tuple[float, float]:
    """What ``robust_z`` measures with: the median, and 1.4826 MAD or its stand-in."""
    centre = float(np.median(values))
    away = np.abs(values - centre)
    return centre, max(1.4826 * float(np.median(away)) or 1.2533 * float(away.mean()), least, LEAST_SPREAD)


def update_views(cloud: Cloud, slack: float = 1.0) -> list[View]:
    """The views of MultiView: the whole update, the classifier, and the labels one by one.

    Parameters
    ----------
    cloud : Cloud
    slack : float (default: 1.0)
        Multiplies the least spreads. At 1, honest clients above |z| = 5 in quiet rounds (digits and MNIST, 20 clients)
        are 3-4% where data is iid and 8-20% where each holds two labels; at 0, the same and 37-41%, with no attacker
        more above it. Detection without verification of subtle attacks on iid data may want 0.
    """
    views = block_views(cloud.whole, "update", slack)
    if cloud.classifier is not None:
        views += block_views(cloud.classifier, "classifier", slack)
    if cloud.labels:
        z = np.array([robust_z(log_nearest(block, 3)) for block in cloud.labels])
        for side, label, values in (("farthest", z.argmax(axis=0), z.max(axis=0)), ("nearest", z.argmin(0), z.min(0))):
            what = [f"label {r}, its {side}: z of 3 nearest neighbours" for r in label]
            views.append(View(f"label {side}", values, what, "lower", "higher", False, slack * LEAST_Z))
    return views


def block_views(block: Block, name: str, slack: float = 1.0) -> list[View]:
    """Up to nine views of one block: distances to several numbers of neighbours, norm, direction, signs."""
    n = len(block.norms)
    ratio, share, nearest = slack * LEAST_RATIO, slack * LEAST_SHARE, slack * LEAST_NEAREST
    views = []
    for k in sorted({clamp(k, n) for k in (1, 3, 0.1 * n, 0.4 * n, 0.6 * n)}):
        what = f"{name}: {k} nearest neighbours" if k > 1 else f"{name}: nearest neighbour"
        least = nearest if k == 1 else ratio
        views.append(View(f"{name} {k} nearest", log_nearest(block, k), what, "closer", "farther", least=least))
    turn = np.log(np.maximum(1 - block.to_median, 1e-12))
    views.append(View(f"{name} norm", _log(block.norms), f"{name}: norm", "smaller", "larger", least=ratio))
    views.append(View(f"{name} direction", turn, f"{name}: turned from the median update", "less", "more", least=ratio))
    for kind, values, what in (
        ("cosine", block.to_mean, "cosine to the mean update"),
        ("signs", block.positive, "share of positive signs"),
    ):
        views.append(View(f"{name} {kind}", values, f"{name}: {what}", "lower", "higher", False, share))
    return views


def log_nearest(block: Block, k: int) -> Vector:
    """Log of the mean distance to the ``k`` nearest others."""
    near = block.nearest[:, :k]
    return _log(near.mean(axis=1)) if near.size else np.zeros(len(near))


def clamp(k: float, n: int) -> int:
    """A number of neighbours that ``n`` clients have."""
    return int(min(max(round(k), 1), max(n - 1, 1)))


def _log(x: Vector) -> Vector:
    """Logarithm in units of the median positive entry, floored at ``ZERO``."""
    usual = float(np.median(x[x > 0])) if (x > 0).any() else 1.0
    return np.asarray(np.log(np.maximum(x / usual, ZERO)))
