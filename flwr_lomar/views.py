"""The robust preset's views: each a number an update, and another way in which its neighbourhood can be odd.

A share of attackers that is small against k makes sparse places, a large one makes dense places, clones have no
distance, and noise has too much: no single number has all attackers on one side (``docs/lomar.md``). So an update's
score is the largest |z| over all views, each by median and MAD over the updates. Attackers who are many and alike pull
those towards them, and honest updates at the other end then look odd. So who is above the threshold gets another look,
measured by the unsuspected alone (or by the calmer half, where those are fewer), the kinder look counts, and so on
until nobody else is cleared. Looks clear; none accuses.

The views, of the whole update, the classifier and the backbone, with ``d(k)`` the mean distance to the k nearest others
and g the geometric median of the updates:

    d(1), d(.6n)             how far, nearby and in general
    d(1)/d(.6n), d(3)/d(.6n) how dense it is around it: LoMar's question without a kernel, a bandwidth or a scale
    |u|                      how long
    <u, g> / |g|^2           how far along the direction of the crowd
    mean_j cos^2(u-g, u_j-g) what others share of its difference from the crowd: of noise, next to nothing
    share of positive entries

For the labels, the extremes over them of z of d(3) (the smallest) and of d(3)/d(.6n) (both); and log F itself, Eq. 9.
The geometric median of n points is a mean with weights, and so are its products: all of this needs distances and
lengths only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.views import ZERO, View, centre_and_spread, clamp
from flwr_lomar.neighbourhood import Doubles, Indices, Seen

#: Steps of Weiszfeld's algorithm: what is left to go then is far below the spread of the updates.
STEPS = 12


@dataclass(frozen=True, eq=False)
class Centre:
    """The geometric median g of n updates in one block, and what to measure others by.

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
    distance, length : float
        Of the median update: d(.6n) and norm; 1 where that is 0.
    """

    weights: Doubles
    inertia: float
    away: Doubles
    square: float
    distance: float
    length: float


#: Of a block: what it is, its words for less and more, and whether it is a logarithm.
OF_BLOCK = (
    ("nearest neighbour", "closer", "farther", True),
    ("six tenths of all others", "closer", "farther", True),
    ("nearest neighbour, against six tenths of all", "closer", "farther", True),
    ("3 nearest neighbours, against six tenths of all", "closer", "farther", True),
    ("norm", "smaller", "larger", True),
    ("length along the crowd's direction, 1 is the crowd's", "lower", "higher", False),
    ("part of its difference from the crowd that others share", "smaller", "larger", True),
    ("share of positive entries", "lower", "higher", False),
)


@dataclass(eq=False)
class Sight:
    """Makes views of a matrix's blocks as they come; a `Watch`. Nothing of size n x n is kept.

    Parameters
    ----------
    fitted : Sight, optional
        Of the updates that these rows are not among, but are compared with.
    place : ndarray of int, optional
        `Factor.place` of those updates: they come in canonical order when they are fitted, and in their own later.
    """

    fitted: Sight | None = None
    place: Indices | None = None
    _centres: dict[str, Centre] = field(default_factory=dict, repr=False)
    _units: dict[int, float] = field(default_factory=dict, repr=False)
    _blocks: dict[str, list[Doubles]] = field(default_factory=dict, repr=False)
    _labels: dict[int, list[Doubles]] = field(default_factory=dict, repr=False)

    def __call__(self, name: str | int, seen: Seen) -> None:
        """Take a block's numbers."""
        base = self.fitted or self
        nearest = _nearest(seen)
        if isinstance(name, int):
            if base is self:
                self._units[name] = _unit(nearest[2])
            _, few, most = _logs(nearest, base._units[name])
            self._labels.setdefault(name, []).append(np.stack([few, few - most]))
        else:
            if base is self:
                self._centres[name] = _centre(seen, nearest[2])
            centre = base._centres[name]
            if self.place is not None:
                centre = replace(centre, weights=centre.weights[self.place], away=centre.away[self.place])
            self._blocks.setdefault(name, []).append(_block_values(seen, nearest, centre))

    def views(self, log_factor: Doubles, place: Indices | None = None) -> list[View]:
        """All views.

        Parameters
        ----------
        log_factor : ndarray, shape (n,)
            ``log F``.
        place : ndarray of int, shape (n,), optional
            Rows that the blocks had for the updates, in the order of ``log_factor``.
        """
        at = slice(None) if place is None else place
        views = [View("log F", log_factor, "malicious factor F", "smaller", "larger")]
        for name in sorted(self._blocks, reverse=True):  # update, classifier, backbone
            for (what, less, more, log), values in zip(OF_BLOCK, np.hstack(self._blocks[name]), strict=True):
                views.append(View(f"{name}, {what}", values[at], f"{name}: {what}", less, more, log))
        if self._labels:
            labels = sorted(self._labels)
            mine, theirs = (np.stack([np.hstack(s._labels[r]) for r in labels]) for s in (self, self.fitted or self))
            z = _z(mine, theirs)[:, :, at]  # label, view, update
            near, dense = "z of 3 nearest neighbours", "z of 3 nearest neighbours against six tenths of all"
            for side, what, label, values in (
                ("nearest", near, z[:, 0].argmin(axis=0), z[:, 0].min(axis=0)),
                ("densest", dense, z[:, 1].argmin(axis=0), z[:, 1].min(axis=0)),
                ("sparsest", dense, z[:, 1].argmax(axis=0), z[:, 1].max(axis=0)),
            ):
                lines = [f"label {labels[r]}, its {side}: {what}" for r in label]
                views.append(View(f"label, {side}", values, lines, "lower", "higher", False))
        return views


def z_of(views: list[View], fitted: list[View], among: npt.NDArray[np.bool_] | None = None) -> Doubles:
    """The z of each view and update, shape (V, n), by the centres and spreads of the fitted, or of some among them."""
    of = slice(None) if among is None else among
    return _z(np.stack([v.values for v in views]), np.stack([v.values[of] for v in fitted]))


def kinder(first: Doubles, second: Doubles, limit: float) -> Doubles:
    """The z of each update, all views: of the second look if the first is above the limit and the second below that."""
    before, after = (np.abs(z).max(axis=0, initial=0.0) for z in (first, second))
    return np.where((before > limit) & (after < before), second, first)


def looks(views: list[View], limit: float) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """The z of each update in its kindest look, shape (V, n), and by whom the last look measured, shape (n,).

    Ends where a look clears nobody else: scores only fall, so a set of updates to measure by that comes again is the
    last.
    """
    z = z_of(views, views)
    among = np.ones(z.shape[1], bool)
    while True:
        scores = np.abs(z).max(axis=0)
        calm = scores <= limit
        if 2 * calm.sum() <= len(calm):
            calm = scores <= np.sort(scores)[len(calm) // 2]
        if (calm == among).all():
            return z, among
        among = calm
        z = kinder(z, z_of(views, views, among), limit)


def _z(values: Doubles, fitted: Doubles) -> Doubles:
    centre, spread = centre_and_spread(fitted)
    return np.asarray((values - centre[..., None]) / spread[..., None])


def _nearest(seen: Seen) -> tuple[Doubles, Doubles, Doubles]:
    """Mean distances to the 1, 3 and .6n nearest others."""
    n = seen.squared.shape[1]
    most = clamp(0.6 * n, n)
    few = min(3, most)
    squared = seen.squared
    if seen.itself:
        squared = squared.copy()
        np.fill_diagonal(squared, np.inf)
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


def _logs(x: Sequence[Doubles], unit: float) -> list[Doubles]:
    """Logarithms, floored: nearer than a millionth of the usual is zero."""
    return [np.log(np.maximum(each / unit, ZERO)) for each in x]


def _centre(seen: Seen, most: Doubles) -> Centre:
    """Weiszfeld's algorithm on distances."""
    n = len(seen.squares)
    weights, away, inertia = np.full(n, 1 / n), np.zeros(n), 0.0
    for step in range(STEPS):
        to_all = (seen.squared @ weights.astype(seen.squared.dtype)).astype(np.float64)
        inertia = float(weights @ to_all) / 2
        away = np.maximum(to_all - inertia, 0.0)
        if step < STEPS - 1 and away.any():
            inverse = 1 / np.sqrt(np.maximum(away, 1e-12 * away.max()))
            weights = inverse / inverse.sum()
    square = max(float(weights @ seen.squares) - inertia, 0.0)
    return Centre(weights, inertia, away, square, _unit(most), _unit(np.sqrt(seen.squares)))


def _block_values(seen: Seen, nearest: tuple[Doubles, Doubles, Doubles], centre: Centre) -> Doubles:
    """`OF_BLOCK`, shape (8, m)."""
    one, few, most = _logs(nearest, centre.distance)
    (norm,) = _logs([np.sqrt(seen.squares)], centre.length)
    away = np.maximum((seen.squared @ centre.weights.astype(seen.squared.dtype)) - centre.inertia, 0.0)
    along = (seen.squares + centre.square - away) / 2
    along = along / centre.square if centre.square > 0 else np.zeros(len(away))
    # <u - g, u_j - g> is half of what is missing between both lengths and the distance
    inner = away[:, None].astype(seen.squared.dtype) + centre.away.astype(seen.squared.dtype)
    inner -= seen.squared
    inner *= inner
    if seen.itself:
        np.fill_diagonal(inner, 0)
    inverse = np.divide(1.0, centre.away, out=np.zeros_like(centre.away), where=centre.away > 0)
    cosines = inner.astype(np.float64, copy=False) @ inverse / 4
    shared = np.divide(cosines, away, out=np.zeros(len(away)), where=away > 0) / max(len(centre.away) - seen.itself, 1)
    return np.stack(
        [one, most, one - most, few - most, norm, along, np.log(np.maximum(shared, ZERO)), seen.positive]
    ).astype(np.float64)
