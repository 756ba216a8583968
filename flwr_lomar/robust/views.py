"""The robust preset's views: each gives every update a number, and each is another way in which an update can be odd.

No single number has all attackers on one side (``docs/explanation/lomar.md``). A few attackers lie in sparse places,
many who agree lie in dense places, clones have no distance, and noise has too much. So an update's score is the largest
|z| over all views, each by median and MAD over the updates.

Attackers who are many and alike pull median and MAD towards them, and honest updates at the other end then look odd. So
who is above the threshold gets another look. It measures by the unsuspected alone (or by the calmer half, where those
are fewer), and the kinder look counts. This goes on until nobody else is cleared. A look clears; it never accuses.

Three blocks have views: the whole update, the classifier and the backbone. ``d(k)`` is the mean distance to the k
nearest others, and g the geometric median of the updates:

    d(1), d(.6n)             how far, nearby and in general
    d(1)/d(.6n), d(3)/d(.6n) how dense it is around it: LoMar's question without a kernel, a bandwidth or a scale
    |u|                      how long
    <u, g> / |g|^2           how far along the direction of the crowd
    mean_j cos^2(u-g, u_j-g) what others share of its difference from the crowd: of noise, next to nothing
    share of positive entries
    cos(u, mean_j u_j)       of who is long: whether it has turned the mean its way

All labels together have two views: the smallest z within a label of d(3), and of d(3)/d(.6n). The root of log F (Eq. 9)
is a view, too. The geometric median of n points is a mean with weights, so all of this needs distances and lengths
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flwr_faa.detection.blocks import Block
from flwr_faa.detection.threshold import FEWEST
from flwr_faa.detection.views import (
    MATTERS_SHARE,
    PULL,
    SAME,
    ZERO,
    View,
    clamp,
    gross_view,
    pull_of,
    robust_z,
    without_pairs,
)
from flwr_lomar.neighbourhood import Doubles, Floats, Indices, Seen

#: Steps of Weiszfeld's algorithm: what is left to go then is far below the spread of the updates.
STEPS = 12


@dataclass(frozen=True, eq=False)
class Centre:
    """The geometric median g of n updates in one block.

    Attributes
    ----------
    weights : ndarray, shape (n,)
        ``g = sum_j weights_j u_j``.
    inertia : float
        ``sum_jk weights_j weights_k |u_j - u_k|^2 / 2``.
    away : ndarray, shape (n,)
        Squared distances of the updates from g.
    square : float
        ``|g|^2``.
    """

    weights: Doubles
    inertia: float
    away: Doubles
    square: float

    def inner(self, squares: Doubles) -> Doubles:
        """Return the inner products of the updates with g, from their squared lengths."""
        return (squares + self.square - self.away) / 2


@dataclass(frozen=True, eq=False)
class Profile:
    """What the whole update, the classifier or the backbone says of each of n updates.

    Attributes
    ----------
    nearest : three ndarrays, shape (n,)
        Mean distances to the 1, 3 and .6n nearest others.
    half : ndarray, shape (n,)
        Distance to the nearest half of the others.
    shared : ndarray, shape (n,)
        ``mean_j cos^2(u - g, u_j - g)``; 0 for u = g.
    to_mean : ndarray, shape (n,)
        Cosine to the mean of the updates.
    squares, positive : ndarray, shape (n,)
        Squared lengths, and shares of positive entries.
    centre : Centre
        Their geometric median.
    width : int
        Number of columns.
    """

    nearest: tuple[Doubles, Doubles, Doubles]
    half: Doubles
    shared: Doubles
    to_mean: Doubles
    squares: Doubles
    positive: Doubles
    centre: Centre
    width: int


_2, _3, _5 = math.log(2), math.log(3), math.log(5)
#: The views of a block: what each is, its words for less and more, whether it is a logarithm, which differences matter,
#: below and above, and the spread where it is not measured, because many who pull the mean would widen it. Honest
#: clients whose sizes differ tenfold seldom reach the differences (docs/results/false-alarms.md).
OF_BLOCK = (
    ("nearest neighbour", "closer", "farther", True, (_5, _3), None),
    ("six tenths of all others", "closer", "farther", True, (_3, math.log(2.8)), None),
    ("nearest neighbour, against six tenths of all", "closer", "farther", True, (_5, _3), None),
    ("3 nearest neighbours, against six tenths of all", "closer", "farther", True, (_3, _3), None),
    ("norm", "smaller", "larger", True, (math.inf, _2), None),
    ("length along the crowd's direction, 1 is the crowd's", "lower", "higher", False, (1.0, 2.2), None),
    # Who has a label that no other has shares nothing with others; noise is far away, too.
    ("part of its difference from the crowd that others share", "smaller", "larger", True, (math.inf, _3), None),
    ("share of positive entries", "lower", "higher", False, (MATTERS_SHARE, MATTERS_SHARE), None),
    ("pulls the mean, cosine to it", "lower", "higher", False, (math.inf, PULL), 0.0),
)
#: Differences that matter in the root of log F and in z within a label, whose spread is at least a factor of
#: e^LEAST_LABEL. A large F matters nowhere, nor a sparse place in a label: honest clients with rare labels have both.
MATTERS_FACTOR, MATTERS_NEAREST, MATTERS_DENSEST, LEAST_LABEL = 1.5, 5.0, 5.0, 0.25


class Sight:
    """Takes blocks of columns as they come and makes views of them. It keeps nothing of size n x n."""

    _half: tuple[Doubles, float]

    def __init__(self) -> None:
        self._blocks = dict[str, Doubles]()
        self._labels = dict[int, Doubles]()
        self._widths = dict[str | int, int]()

    def add_label(self, label: int, nearest: tuple[Doubles, Doubles, Doubles], length: float, width: int) -> None:
        """Take what a label's columns say: distances as in `Profile`, and the length of the median update."""
        _, few, most = _logs(nearest, _unit(nearest[2]), SAME * length)
        self._labels[label], self._widths[label] = np.stack([few, few - most]), width

    def add(self, name: str, profile: Profile) -> None:
        """Take what another block says."""
        self._blocks[name], self._widths[name] = _block_values(profile), profile.width
        if name == "update":
            self._half = profile.half, length_of(profile.squares)

    def views(self, log_factor: Doubles, place: Indices) -> list[View]:
        """Return all views, each with the updates in the order of ``log_factor``.

        Parameters
        ----------
        log_factor : ndarray, shape (n,)
            ``log F``.
        place : ndarray of int, shape (n,)
            For each update, its row in the blocks.
        """
        half, length = self._half
        views = [gross_view(half[place], length)]
        if len(half) < FEWEST:
            return views
        # log F is a sum of squared distances over squared bandwidths, and its root as light in the tails as distances.
        factor = np.sign(log_factor) * np.sqrt(np.abs(log_factor))
        matters = MATTERS_FACTOR, math.inf
        view = View("log F", factor, "root of log F, LoMar's factor", "lower", "higher", False, 0.0, matters)
        views.append(view.in_few(self._widths["update"]))
        for name in sorted(self._blocks, reverse=True):  # update, classifier, backbone
            for (what, less, more, log, matters, spread), values in zip(OF_BLOCK, self._blocks[name], strict=True):
                told = f"{name}: {what}"
                view = View(f"{name}, {what}", values[place], told, less, more, log, 0.0, matters, spread)
                views.append(view.in_few(self._widths[name]))
        if self._labels:
            labels = sorted(self._labels)
            each = np.stack([self._labels[r] for r in labels])
            z = robust_z(each, LEAST_LABEL)[:, :, place]  # label, view, update
            near, dense = "z of 3 nearest neighbours", "z of 3 nearest neighbours against six tenths of all"
            for side, what, label, values, matters in (
                ("nearest", near, z[:, 0].argmin(axis=0), z[:, 0].min(axis=0), (MATTERS_NEAREST, math.inf)),
                ("densest", dense, z[:, 1].argmin(axis=0), z[:, 1].min(axis=0), (MATTERS_DENSEST, math.inf)),
            ):
                lines = [f"label {labels[r]}, its {side}: {what}" for r in label]
                view = View(f"label, {side}", values, lines, "lower", "higher", False, 0.0, matters)
                views.append(view.in_few(min((w for r in labels if (w := self._widths[r])), default=1)))
        return views


def sight_of(seen: Seen) -> Sight:
    """Return what updates show, block by block: O(n^2 log n) each."""
    sight = Sight()
    for name, block in seen.blocks.items():
        sight.add(name, _profile(block))
    for label, block in enumerate(seen.labels() if seen.several else ()):
        sight.add_label(label, _nearest(block, block.by_distance()), block.length, block.width)
    return sight


def pick_kinder(first: Doubles, second: Doubles, limit: float) -> Doubles:
    """Return the z of each update in all views: of the second look where it is kinder to one above the limit."""
    before, after = (np.abs(z).max(axis=0, initial=0.0) for z in (first, second))
    return np.where((before > limit) & (after < before), second, first)


def look_again(views: list[View], limit: float, unit: float) -> Doubles:
    """Return the z of each update in its kindest look, shape (V, n).

    Scores only fall, so the loop ends: when it would measure by the same updates again. ``unit`` is the z that a view
    gives to a difference that just matters (``View.among``).
    """
    z = np.stack([view.among(unit) for view in views])
    among = np.ones(z.shape[1], bool)
    while True:
        scores = np.abs(z).max(axis=0)
        calm = scores <= limit
        if 2 * calm.sum() <= len(calm):
            calm = scores <= np.sort(scores)[len(calm) // 2]
        if (calm == among).all():
            return z
        among = calm
        z = pick_kinder(z, np.stack([view.among(unit, among) for view in views]), limit)


def _nearest(block: Block, distance: Floats) -> tuple[Doubles, Doubles, Doubles]:
    """Return mean distances to the 1, 3 and .6n nearest others, from distances in order; what may be rounding is 0."""
    n = len(distance)
    near = distance[:, : clamp(0.6 * n, n)]
    near = np.where(near > math.sqrt(block.noise), near, 0)
    return (
        near[:, 0].astype(np.float64),
        near[:, :3].mean(axis=1, dtype=np.float64),
        near.mean(axis=1, dtype=np.float64),
    )


def _profile(block: Block) -> Profile:
    n, squares = len(block.norms), block.norms**2
    squared = np.where(block.squared > block.noise, block.squared, 0)
    centre, everybody = _centre(squared, squares), np.arange(n)
    shared = shared_with(squared, centre.away, centre.away, (everybody, everybody))
    half = block.nearest[:, n // 2 - 1].astype(np.float64)
    half = np.where(half > math.sqrt(block.noise), half, 0)
    near = _nearest(block, block.nearest)
    return Profile(near, half, shared, block.to_mean, squares, block.above, centre, block.width)


def nearest_among(squared: Floats, n: int) -> tuple[Doubles, Doubles, Doubles]:
    """Return mean distances of m updates to the 1, 3 and .6n nearest of n; an update is infinitely far from itself.

    Parameters
    ----------
    squared : ndarray, shape (m, at most n)
        Squared distances.
    n : int
    """
    most = clamp(0.6 * n, n)
    few = min(3, most)
    # One rank at a time: that has a fast path in NumPy, several at once take six times as long.
    squared = np.partition(squared, most - 1, axis=1)[:, :most]
    nearest = np.partition(squared, few - 1, axis=1)[:, :few]
    return (
        np.sqrt(nearest.min(axis=1)).astype(np.float64),
        np.sqrt(nearest).mean(axis=1, dtype=np.float64),
        np.sqrt(squared).mean(axis=1, dtype=np.float64),
    )


def _unit(x: Doubles) -> float:
    return float(np.median(x[x > 0])) if (x > 0).any() else 1.0


def length_of(squares: Doubles) -> float:
    """Return the median length, from squared lengths."""
    return float(np.sqrt(np.median(squares)))


def _logs(x: Sequence[Doubles], unit: float, least: float) -> list[Doubles]:
    """Return logarithms in this unit, floored at ``least`` and at a millionth of the unit."""
    return [np.log(np.maximum(each, max(least, ZERO * unit)) / unit) for each in x]


def geometric_median(
    n: int, measure: Callable[[Doubles], tuple[Doubles, float]], steps: int = STEPS
) -> tuple[Doubles, Doubles, float]:
    """Return the weights of n updates in their geometric median, and its measures, by Weiszfeld's algorithm.

    Parameters
    ----------
    n : int
    measure : callable
        Takes weights, and returns squared distances from the weighted mean and its inertia (`Centre`).
    steps : int
        One step is the mean.
    """
    weights = np.full(n, 1 / n)
    for _ in range(steps - 1):
        away, _ = measure(weights)
        if not away.any():
            break
        inverse = 1 / np.sqrt(np.maximum(away, 1e-12 * away.max()))
        weights = inverse / inverse.sum()
    return weights, *measure(weights)


def _centre(squared: Floats, squares: Doubles) -> Centre:
    """Find the geometric median from squared distances and squared lengths."""

    def measure(weights: Doubles) -> tuple[Doubles, float]:
        to_all = (squared @ weights.astype(squared.dtype)).astype(np.float64)
        inertia = float(weights @ to_all) / 2
        return np.maximum(to_all - inertia, 0.0), inertia

    weights, away, inertia = geometric_median(len(squares), measure)
    return Centre(weights, inertia, away, max(float(weights @ squares) - inertia, 0.0))


def shared_with(squared: Floats, rows: Doubles, others: Doubles, same: tuple[Indices, Indices]) -> Doubles:
    """Return ``mean_j cos^2(u - g, u_j - g)`` over m others, for each of some updates.

    Parameters
    ----------
    squared : ndarray, shape (rows, m)
        Squared distances.
    rows, others : ndarray, shapes (rows,) and (m,)
        Squared distances of both from g.
    same : two ndarrays of int
        Rows and columns where an update meets itself, which does not count.
    """
    # 2 <u - g, u_j - g> = |u - g|^2 + |u_j - g|^2 - |u - u_j|^2
    inner = rows[:, None] + others  # in float64: squared below, it is a fourth power of the updates
    inner -= squared
    inner *= inner
    inner[same] = 0
    inverse = np.divide(1.0, others, out=np.zeros_like(others), where=others > 0)
    count = len(others) - np.bincount(same[0], minlength=len(rows))
    return np.divide(inner @ inverse / 4, rows, out=np.zeros(len(rows)), where=rows > 0) / np.maximum(count, 1)


def _block_values(of: Profile) -> Doubles:
    """Return the values of the views of `OF_BLOCK`, shape (9, n)."""
    least, centre = SAME * length_of(of.squares), of.centre
    unit = _unit(of.nearest[2])
    _, few, most = _logs(of.nearest, unit, least)
    (one,) = _logs([without_pairs(of.nearest[0], of.nearest[2], length_of(of.squares))], unit, 0.0)
    lengths = np.sqrt(of.squares)
    (norm,) = _logs([lengths], _unit(lengths), least)
    along = centre.inner(of.squares)
    along = along / centre.square if centre.square > 0 else np.zeros(len(along))
    shared, apart = of.shared.copy(), centre.away > least**2
    # Who is where the crowd is has no difference that others could share, and counts as usual.
    shared[~apart] = np.median(shared[apart]) if apart.any() else 0.0
    common, pull = np.log(np.maximum(shared, ZERO)), pull_of(of.to_mean, lengths)
    return np.stack([one, most, one - most, few - most, norm, along, common, of.positive, pull])
