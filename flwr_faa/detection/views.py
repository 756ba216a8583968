"""Views: one number a client, each a different way to look odd.

No single measure separates every attack from honest clients. Noise is far away, ALIE's copies are too close together,
a flipped model is large and points elsewhere. Taking each measure as a two-sided robust z, and the largest of them all,
needs no notion of which side is malicious (LoMar's Eq. 7 needs one, and is wrong for dense attackers).

A view belongs to no detector: ``MultiView(views=...)`` takes any function from a ``Cloud`` to views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.blocks import Block, Square, Vector, middle
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.threshold import FEWEST
from flwr_faa.replies.updates import Floats

#: Spread below which clients are the same whatever the view: a tenth of a percent.
LEAST_SPREAD = 1e-3
#: Spreads a view needs before five of them count, measured so that honest clients with two labels each pass (docs of
#: ``update_views``): 10% of a distance or norm, .03 of a share or cosine, .5 of a z. Two honest clients with the same
#: labels are each other's nearest neighbour, two to four times closer than usual, so there it takes 35%.
LEAST_RATIO, LEAST_SHARE, LEAST_Z, LEAST_NEAREST = 0.1, 0.03, 0.5, 0.3
#: Running statistics: the spread of a column is at least this part of its usual change, and of other columns' spread.
LEAST_CHANGE, LEAST_STATISTICS = 0.05, 0.1
#: Without verification: what is nearer than this part of the usual length, or turned by less, is the same.
SAME = 0.05
#: And what has to be between a client and the usual one before it matters: factors of distances, to the nearest and to
#: more neighbours, closer and farther, and of norms; a factor of 1 - cosine; differences of cosines and shares; a
#: factor of distances within a label. Honest clients whose sizes differ tenfold, or with two labels each, seldom
#: reach them (docs/results/false-alarms.md). A small norm, or one close to the crowd's direction, does no harm.
MATTERS_NEAREST, MATTERS_NEAR, MATTERS_NORM = (math.log(5), math.log(3.3)), (math.log(4), math.log(2.8)), math.log(2.2)
MATTERS_TURN, MATTERS_COSINE, MATTERS_SHARE, MATTERS_LABEL = math.log(2.2), 0.65, 0.25, math.log(3.3)
MATTERS_STATISTICS = math.log(10)
#: Who is so many times longer than usual, and so much closer to the direction of the mean (by cosine) than the usual
#: client is, has turned the mean. That harms whatever the spread is, which many who do it widen.
LONG, PULL = 2.0, 0.7
#: Two honest clients with the same labels are each other's nearest, many times closer than usual; one whose labels no
#: other has is as far from its nearest as others are from most. So distances to the PAIR nearest, at most, count as
#: within a factor LIKE of the usual, unless they are below COPY of the usual length, or above ALONE times what is usual
#: between two clients. No honest client is a copy: samples of its own differ it by more.
PAIR, LIKE, COPY, ALONE = 2, 2.0, 0.01, 1.5
#: In a block of few columns every one of these is more, times 1 + FEW / columns^1.5: there neighbours can be close,
#: cosines large and all signs the same by chance.
FEW = 9.0
#: A client so many times farther from the nearest half of the others than usual, and than the usual update is long, is
#: beyond what sizes that differ tenfold explain, whatever the spread is. However few clients there are, GROSS is known;
#: from ``FEWEST`` clients on, FAR is.
GROSS, FAR = math.log(15), math.log(6)
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
    matters : (float, float), optional
        Smallest differences from the centre, below and above, that matter without verification; infinite where none
        does. In the unit of the values.
    spread : float, optional
        What honest clients differ by, where that is known; measured if not given. A difference that matters is then
        enough, whoever is calm.
    """

    name: str
    values: Vector
    what: str | Sequence[str]
    less: str
    more: str
    log: bool = True
    least: float = 0.0
    matters: tuple[float, float] | None = None
    spread: float | None = None

    @cached_property
    def usual(self) -> tuple[float, float]:
        """Centre and spread of the clients."""
        centre, spread = centre_and_spread(self.values, self.least)
        return float(centre), float(spread)

    @cached_property
    def z(self) -> Vector:
        """Robust z of each client."""
        return (self.values - self.usual[0]) / self.usual[1]

    def among(self, limit: float, calm: npt.NDArray[np.bool_] | None = None) -> Vector:
        """Z of each client, above ``limit`` only where the difference matters, too; by median and MAD of the calm."""
        if self.matters is None:
            return self.z
        of = self.values if calm is None or self.spread is not None else self.values[calm]
        away = self.values - middle(of)
        spread = 1.4826 * middle(np.abs(of - middle(of))) if self.spread is None else self.spread
        return np.asarray(away / np.maximum(spread, np.where(away < 0, *self.matters) / limit))

    def in_few(self, columns: int) -> View:
        """The same view of a block with so many columns."""
        if self.matters is None:
            return self
        below, above = self.matters
        more = 1 + FEW / max(columns, 1) ** 1.5
        return replace(self, matters=(below * more, above * more))

    def explain(self, i: int, z: float | None = None) -> str:
        """One line: how client ``i`` differs from the median client, by a z of its own or one measured otherwise."""
        value, usual = float(self.values[i]), float(middle(self.values))
        side = self.less if value < usual else self.more
        if self.log:
            factor = math.exp(min(abs(value - usual), math.log(1000)))
            how = f"{'over ' if factor > 999 else ''}{factor:.{1 if factor < 10 else 0}f}x {side} than usual"
        else:
            how = f"{value:.2g}, {side} than the usual {usual:.2g}"
        what = self.what if isinstance(self.what, str) else self.what[i]
        return f"{what} {how} (z = {self.z[i] if z is None else z:.1f})"


def number_of_chances(views: Sequence[View]) -> int:
    """Return in how many views an honest client can be odd by chance, at least 1: those whose spread is measured."""
    return max(1, sum(view.spread is None for view in views))


def robust_z(values: Vector, least: float = 0.0) -> Vector:
    """``(x - median) / (1.4826 MAD)``, never NaN.

    Where half the clients agree exactly the MAD is zero and the mean absolute deviation stands in for it (Iglewicz and
    Hoaglin 1993). One client is always at 0.
    """
    centre, spread = centre_and_spread(values, least)
    return np.asarray((values - centre[..., None]) / spread[..., None])


def centre_and_spread(values: Vector, least: float) -> tuple[Vector, Vector]:
    """What ``robust_z`` measures with: the median, and 1.4826 MAD or its stand-in, along the last axis."""
    centre = middle(values)
    away = np.abs(values - centre[..., None])
    spread = 1.4826 * middle(away)
    spread = np.where(spread > 0, spread, 1.2533 * away.mean(axis=-1))
    return centre, np.maximum(spread, max(least, LEAST_SPREAD))


def update_views(cloud: Cloud, slack: float = 1.0) -> list[View]:
    """The views of MultiView with a threshold: the whole update, the classifier, the labels one by one, statistics.

    Parameters
    ----------
    cloud : Cloud
    slack : float (default: 1.0)
        Multiplies the least spreads. How many honest clients are above ``|z| = 5`` at 1 is in
        ``docs/results/false-alarms.md`` ("before"). At 0 there are more.
    """
    return _views(cloud, slack, 0.0)


def harm_views(cloud: Cloud) -> list[View]:
    """The views of MultiView without a threshold: the same measures, with the differences that matter.

    With fewer than ``FEWEST`` clients only the first view is left, and does not depend on their spread.
    """
    views = [reach_view(cloud)]
    return views if len(cloud) < FEWEST else views + _views(cloud, 1.0, SAME)


def reach_view(cloud: Cloud) -> View:
    """How far from a client it takes to meet half of the others."""
    block = cloud.whole
    half = block.nearest[:, len(cloud) // 2 - 1] if len(cloud) > 1 else np.zeros(1)
    return gross_view(half, block.length)


def gross_view(half: Vector, length: float) -> View:
    """The same from distances, and the length of the usual update."""
    what, matters = "update: distance to the nearest half of the others", GROSS if len(half) < FEWEST else FAR
    return View("reach", _log(half, length), what, "closer", "farther", matters=(math.inf, matters), spread=0.0)


def lonely(cloud: Cloud) -> npt.NDArray[np.bool_]:
    """Who is grossly far from clients of which most are the same, to a millionth of that: no detector is needed."""
    half = cloud.whole.nearest[:, len(cloud) // 2 - 1]
    return np.asarray((reach_view(cloud).among(1.0) > 1.0) & (half * ZERO >= np.median(half)))


def _views(cloud: Cloud, slack: float, same: float) -> list[View]:
    views = block_views(cloud.whole, "update", slack, same)
    if cloud.classifier is not None:
        views += block_views(cloud.classifier, "classifier", slack, same)
    if cloud.near_labels:
        near = [_log_mean(label.distance, same * label.length) for label in cloud.near_labels]
        # The MAD of few values is no measure for others: without verification it is the factor that counts.
        z = np.array([robust_z(values, 1.0 if same else 0.0) for values in near])
        what = "log of the distance to 3 nearest neighbours over the usual" if same else "z of 3 nearest neighbours"
        for side, label, values, matters in (
            ("farthest", z.argmax(axis=0), z.max(axis=0), (math.inf, math.inf)),  # who has a label that is rare
            ("nearest", z.argmin(axis=0), z.min(axis=0), (MATTERS_LABEL, math.inf)),
        ):
            lines = [f"label {r}, its {side}: {what}" for r in label]
            view = View(f"label {side}", values, lines, "lower", "higher", False, slack * LEAST_Z, matters)
            views.append(view.in_few(min(label.width for label in cloud.near_labels)))
    if cloud.statistics.size:
        views.append(statistics_view(cloud.statistics[list(cloud.order)]))
    return views


def block_views(block: Block, name: str, slack: float, same: float) -> list[View]:
    """Up to nine views of one block: distances to several numbers of neighbours, norm, direction, signs.

    ``same`` is the part of the usual length below which distances are floored.
    """
    n, floor = len(block.norms), same * block.length
    ratio, share, nearest = slack * LEAST_RATIO, slack * LEAST_SHARE, slack * LEAST_NEAREST
    views = []
    for k in sorted({clamp(k, n) for k in (1, 3, 0.1 * n, 0.4 * n, 0.6 * n)}):
        what = f"{name}: {k} nearest neighbours" if k > 1 else f"{name}: nearest neighbour"
        least, matters = (nearest, MATTERS_NEAREST) if k == 1 else (ratio, MATTERS_NEAR)
        values = _log(paired(block, k)) if same and k <= PAIR else log_nearest(block, k, floor)
        views.append(View(f"{name} {k} nearest", values, what, "closer", "farther", True, least, matters))
    norm, turn = _log(block.norms, floor), np.log(np.maximum(1 - block.to_median, max(same**2 / 2, 1e-12)))
    what, above = f"{name}: turned from the median update", (math.inf, MATTERS_TURN)
    views += [
        View(f"{name} norm", norm, f"{name}: norm", "smaller", "larger", True, ratio, (math.inf, MATTERS_NORM)),
        View(f"{name} direction", turn, what, "less", "more", True, ratio, above),
    ]
    for kind, values, what, matters in (
        ("cosine", block.to_mean, "cosine to the mean update", (MATTERS_COSINE, math.inf)),
        ("signs", block.positive, "share of positive signs", (MATTERS_SHARE, MATTERS_SHARE)),
    ):
        views.append(View(f"{name} {kind}", values, f"{name}: {what}", "lower", "higher", False, share, matters))
    if same:
        what, pull = f"{name}: pulls the mean, cosine to it", pull_of(block.to_mean, block.norms)
        views.append(
            View(f"{name} pull", pull, what, "lower", "higher", matters=(math.inf, PULL), log=False, spread=0.0)
        )
    return [view.in_few(block.width) for view in views]


def pull_of(to_mean: Vector, norms: Vector) -> Vector:
    """Return the cosines to the mean update of who is long; everybody else's is as usual."""
    return np.where(norms > LONG * middle(norms), to_mean, middle(to_mean))


def paired(block: Block, k: int) -> Vector:
    """Return the mean distances to the ``k`` nearest others of a block, without what honest pairs explain."""
    near, n = block.nearest[:, :k], len(block.norms)
    if not near.size:
        return np.ones(n)
    most = block.nearest[:, : clamp(0.6 * n, n)].mean(axis=1)
    return without_pairs(near.mean(axis=1), most, block.length)


def without_pairs(near: Vector, most: Vector, length: float) -> Vector:
    """Return distances to one or two neighbours, within a factor of the usual where honest clients explain the rest.

    Parameters
    ----------
    near, most : ndarray, shape (n,)
        Mean distances to these neighbours, and to six tenths of all.
    length : float
        Of the usual update.
    """
    usual = float(middle(near))
    alone = near > ALONE * float(middle(most))
    like = np.where(alone, near, np.clip(near, usual / LIKE, usual * LIKE))
    copies = (near < COPY * length) & (usual > SAME * length)  # where all are the same, nobody copies
    return np.where(copies, near, np.maximum(like, SAME * length))


def statistics_view(changes: Floats) -> View:
    """The one view of running statistics: how far a client's are from the median client's, in usual spreads a column.

    Every column counts alike, whatever its unit: the mean of a layer may be .1 and the variance of the next 10^3.

    Parameters
    ----------
    changes : ndarray, shape (n, s)
        In any order of the rows, which the view keeps.
    """
    wide = changes.astype(np.float64)
    centre = np.median(wide, axis=0)
    away = np.abs(wide - centre)
    spread = 1.4826 * np.median(away, axis=0)
    usual = float(np.median(spread[spread > 0])) if spread.any() else float(np.abs(centre).max()) or 1.0
    spread = np.maximum(spread, np.maximum(LEAST_CHANGE * np.abs(centre), LEAST_CHANGE * usual))
    size = np.sqrt(np.mean(np.minimum(away / spread, 1e6) ** 2, axis=1))
    what = "running statistics: distance from the median"
    matters = (math.inf, MATTERS_STATISTICS)
    return View("statistics", np.log1p(size), what, "closer", "farther", True, LEAST_STATISTICS, matters)


def log_nearest(block: Block, k: int, least: float) -> Vector:
    """Log of the mean distance to the ``k`` nearest others; distances below ``least`` are as good as that."""
    return _log_mean(block.nearest[:, :k], least)


def _log_mean(near: Square, least: float) -> Vector:
    return _log(near.mean(axis=1, dtype=np.float64), least) if near.size else np.zeros(len(near))


def clamp(k: float, n: int) -> int:
    """A number of neighbours that ``n`` clients have."""
    return int(min(max(round(k), 1), max(n - 1, 1)))


def _log(x: Vector, least: float = 0.0) -> Vector:
    """Logarithm in units of the median positive entry, floored at ``least`` and at ``ZERO`` of these units."""
    usual = float(middle(x[x > 0])) if (x > 0).any() else 1.0
    return np.asarray(np.log(np.maximum(x, max(least, ZERO * usual)) / usual))
