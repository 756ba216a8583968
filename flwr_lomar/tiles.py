"""LoMar of many updates: the numbers of ``paper.factor`` and ``robust.views``, tile by tile and never n x n.

A tile has the distances of some updates to all others, block by block. Everything that LoMar asks of an update is in
its row. So a tile is measured, its rows are summed up, and it is dropped. Two walks are needed, because a bandwidth h_r
is a median over all updates. The first walk finds neighbours, views and bandwidths; the second finds the densities.

The others may also be a random part of the updates (:class:`Sample`). Then that part stands for all where a share of
them is asked for (the .4n nearest of log F, the .6n nearest of the views), and an index finds the nearest (``index``).
The answer is approximate, and the cost grows with n instead of n^2.

Cost: ``2 n^2 d`` multiplications. (Neither walk uses the symmetry of a product.) Memory beside the updates: a centred
copy, ``4 n k`` bytes for the neighbours, and about three times ``TILE`` for each thread, at most ``TILES``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from numbers import Integral
from operator import add

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies.threads import Each, shared_out
from flwr_lomar.index import nearest_by_index
from flwr_lomar.neighbourhood import Doubles, Floats, Indices, mark_nearest, split_columns
from flwr_lomar.paper.factor import (
    Factor,
    Kernel,
    log_density,
    log_ratio,
    neighbourhood_size,
    relative_bandwidth,
)
from flwr_lomar.robust.views import (
    STEPS,
    Centre,
    Profile,
    Sight,
    geometric_median,
    length_of,
    nearest_among,
    shared_with,
)

#: From so many updates on, what is n x n elsewhere would be more than a tile.
LARGE = 3000
#: Bytes of the squared distances in one tile, all blocks together.
TILE = 2**27
#: Tiles that are measured at once, at most.
TILES = 4
#: Updates that stand for all in an approximate answer.
SAMPLE = 4096
#: Columns that are copied, centred and multiplied at a time, as in ``neighbourhood``.
WIDTH = 1024


@dataclass(frozen=True, eq=False)
class Sample:
    """Stand-ins for all updates.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Places in canonical order, sorted.
    nearest : callable
        Takes points, shape (n, d), and returns mean distances to the 1 and the 3 nearest others that it finds.
    """

    rows: Indices
    nearest: Callable[[Floats], tuple[Doubles, Doubles]]

    @classmethod
    def drawn(cls, n: int, seed: int) -> Sample:
        """Draw ``SAMPLE`` of n updates, with an index for the nearest."""
        rows = np.random.default_rng(seed).choice(n, SAMPLE, replace=False)
        return cls(np.sort(rows), partial(nearest_by_index, seed=seed))


@dataclass(frozen=True, eq=False)
class Part:
    """Some columns, and the lengths of n updates in them.

    Attributes
    ----------
    columns : slice
        Of `Points.x`.
    centred : ndarray, shape (n,)
        Squared lengths in `Points.x`.
    squares, positive : ndarray, shape (n,)
        Squared lengths of the updates as they are, and their numbers of positive entries.
    noise : float
        A squared distance up to this may be rounding.
    """

    columns: slice
    centred: Doubles
    squares: Doubles
    positive: Doubles
    noise: float

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.columns.stop - self.columns.start)

    def __add__(self, next: Part) -> Part:
        """Return both as one part; the columns of the other follow."""
        columns, noise = slice(self.columns.start, next.columns.stop), self.noise + next.noise
        centred, squares = self.centred + next.centred, self.squares + next.squares
        return Part(columns, centred, squares, self.positive + next.positive, noise)


@dataclass(frozen=True, eq=False)
class Points:
    """The updates as they are multiplied.

    Attributes
    ----------
    x : ndarray, shape (n, d)
        Rows in canonical order, columns block by block, each chunk of them centred.
    first : ndarray of int, shape (n,)
        The first row that equals each.
    parts : list of Part
        The columns of each label and then the rest, if there is one.
    labels : int
    others : ndarray of int, shape (m,)
        Whom everybody is compared with.
    theirs : ndarray, shape (m, d)
        Their rows.
    """

    x: Floats
    first: Indices
    parts: list[Part]
    labels: int
    others: Indices
    theirs: Floats

    @classmethod
    def of(
        cls,
        updates: Floats,
        order: Indices,
        first: Indices,
        blocks: list[Indices],
        rest: Indices,
        sample: Sample | None,
    ) -> Points:
        """Copy the updates, sorted and centred."""
        x = np.empty(updates.shape, updates.dtype)
        parts, start = list[Part](), 0
        for columns in [*blocks, rest] if len(rest) else blocks:
            here = slice(start, start + len(columns))
            parts.append(_centred(updates, order, columns, x, here))
            start = here.stop
        if sample is None:
            return cls(x, first, parts, len(blocks), np.arange(len(x)), x)
        return cls(x, first, parts, len(blocks), sample.rows, x[sample.rows])

    @cached_property
    def with_clones(self) -> bool:
        """Whether any updates are equal."""
        return bool((self.first != np.arange(len(self.x))).any())

    @property
    def together(self) -> dict[str, Part]:
        """The parts beside the labels: the whole update, and classifier and backbone where there are both."""
        found = {"update": reduce(add, self.parts)}
        if len(self.parts) > self.labels:
            found |= {"classifier": reduce(add, self.parts[:-1]), "backbone": self.parts[-1]}
        return found

    def tiles(self) -> Iterator[slice]:
        """Yield rows that are measured together."""
        height = max(1, TILE // (4 * len(self.others) * (len(self.parts) + 1)))
        return (slice(a, min(a + height, len(self.x))) for a in range(0, len(self.x), height))

    def inner(self, rows: slice, columns: slice) -> Floats:
        """Return the inner products of these rows with the others, on some columns."""
        if columns.stop - columns.start <= WIDTH:
            return np.asarray(self.x[rows, columns] @ self.theirs[:, columns].T)
        total = np.zeros((rows.stop - rows.start, len(self.theirs)))
        for start in range(columns.start, columns.stop, WIDTH):
            part = slice(start, min(start + WIDTH, columns.stop))
            total += self.x[rows, part] @ self.theirs[:, part].T
        return total.astype(self.x.dtype)

    def same(self, rows: slice) -> tuple[Indices, Indices]:
        """Return the rows of the tile and the columns where an update meets itself."""
        columns = np.flatnonzero((self.others >= rows.start) & (self.others < rows.stop))
        return self.others[columns] - rows.start, columns

    def squared(self, rows: slice, inner: Floats, part: Part) -> Floats:
        """Return squared distances from inner products; 0 where they may be rounding, and between equal updates."""
        sizes = part.centred.astype(self.x.dtype)
        found = inner
        found *= -2
        found += sizes[rows, None]
        found += sizes[self.others]
        found[found <= part.noise] = 0
        found[self.first[rows, None] == self.first[self.others] if self.with_clones else self.same(rows)] = 0
        return found


def tiled_factor(
    updates: Floats,
    label_blocks: Sequence[npt.ArrayLike] | None = None,
    *,
    k: float,
    kernel: Kernel,
    bandwidth: float,
    relative: bool,
    least: float = 0.0,
    watch: Sight | None = None,
    sample: Sample | None = None,
) -> Factor:
    """Compute what ``paper.factor.malicious_factor`` does, for many updates; parameters as there.

    Parameters
    ----------
    sample : Sample, optional
        The stand-ins for all updates, which make the answer approximate. ``k`` has to be a share then.

    Returns
    -------
    Factor

    Raises
    ------
    ValueError
        If a value is not finite, or too large for its square to be; or ``k`` is a number although there is a sample.
    """
    updates = np.ascontiguousarray(updates)
    blocks, rest = split_columns(label_blocks, updates.shape[1])
    order, first = _canonical(updates)
    if sample is not None and isinstance(k, Integral):
        raise ArgumentValueError(f"expected k to be a share where the answer is approximate, got {k!r} neighbours")
    points = Points.of(updates, order, first, blocks, rest, sample)
    # No tile depends on another.
    with shared_out(updates.size, TILES) as each_of:
        n, r = len(updates), len(blocks)
        index, each = _first_walk(points, neighbourhood_size(k, len(points.others)), watch, sample, each_of)
        scales = np.full(r, float(bandwidth))
        if relative:
            for label, part in enumerate(points.parts[:r]):
                floor = least * length_of(part.squares)
                scales[label] = relative_bandwidth(each[first, label], part.noise, kernel, bandwidth, floor)
        density, by_label = np.zeros((n, r)), np.zeros((n, r))

        def dense(rows: slice) -> None:
            near = index[rows].astype(np.intp)
            for label, part in enumerate(points.parts[:r]):
                squared = points.squared(rows, points.inner(rows, part.columns), part)
                density[rows, label] = log_density(np.take_along_axis(squared, near, axis=1), kernel, scales[label])

        def compare(rows: slice) -> None:
            near = index[rows].astype(np.intp)
            member = np.zeros((len(near), len(points.others)))
            np.put_along_axis(member, near, 1.0, axis=1)
            by_label[rows] = log_ratio(near, member, density[points.others], density[rows])

        deque(each_of(dense, points.tiles()), 0)
        density = density[first]
        deque(each_of(compare, points.tiles()), 0)
        back = np.empty_like(order)
        back[order] = first
        total = by_label.sum(axis=1)
        np.take(order[points.others].astype(np.int32), index, out=index, mode="clip")  # as they came
        return Factor(total[back], by_label[back], density[back], scales, index[back], back)


def _first_walk(
    points: Points, k: int, watch: Sight | None, sample: Sample | None, each_of: Each
) -> tuple[npt.NDArray[np.int32], Doubles]:
    """Return the neighbours, shape (n, k), and mean squared distances to them by label; the watch gets the views."""
    n, m, labels = len(points.x), len(points.others), points.labels
    together = points.together if watch else {}
    looked_at: dict[str | int, Part] = dict(together.items())
    if watch and labels > 1:
        looked_at |= enumerate(points.parts[:labels])
    centres = {name: centre_of(points.x[:, part.columns], part) for name, part in together.items()}
    means = {name: centre_of(points.x[:, part.columns], part, steps=1) for name, part in together.items()}
    nearest = {name: np.zeros((3, n)) for name in looked_at}
    half, shared = {name: np.zeros(n) for name in together}, {name: np.zeros(n) for name in together}
    index, each, total = np.empty((n, k), np.int32), np.empty((n, labels)), reduce(add, points.parts)

    def look(rows: slice) -> None:
        same, whole = points.same(rows), np.zeros((rows.stop - rows.start, m))
        seen = dict[str | int, Floats]()
        for place, part in enumerate(points.parts):
            if "classifier" in together and place == labels:
                seen["classifier"] = points.squared(rows, whole.astype(points.x.dtype), together["classifier"])
            inner = points.inner(rows, part.columns)
            whole += inner
            seen[place if place < labels else "backbone"] = points.squared(rows, inner, part)
        seen["update"] = points.squared(rows, whole.astype(points.x.dtype), total)
        for name, centre in centres.items():
            shared[name][rows] = shared_with(seen[name], centre.away[rows], centre.away[points.others], same)
        # The neighbours, by what was summed in float64: what is rounded to 0 would be a tie.
        whole *= -2
        whole += total.centred[points.others]
        whole[same] = np.inf
        mask = mark_nearest(whole, k)
        index[rows] = np.flatnonzero(mask).reshape(len(mask), k) % m
        for label in range(labels):
            each[rows, label] = seen[label][mask].reshape(len(mask), k).mean(axis=1, dtype=np.float64)
        for which, values in nearest.items():
            squared = seen[which]
            squared[same] = np.inf
            values[:, rows] = nearest_among(squared, m)
            if isinstance(which, str):
                half[which][rows] = np.sqrt(np.partition(squared, m // 2 - 1, axis=1)[:, m // 2 - 1])

    deque(each_of(look, points.tiles()), 0)
    for which, part in looked_at.items():
        assert watch is not None
        values, first = nearest[which], points.first
        if sample is not None:
            values[:2] = sample.nearest(points.x[:, part.columns])
        one, few, most = values[:, first]
        if isinstance(which, int):
            watch.add_label(which, (one, few, most), length_of(part.squares), part.width)
        else:
            reach, alike, positive = half[which][first], shared[which][first], part.positive / max(part.width, 1)
            to_mean = cosine_to(means[which], part.squares)
            profile = Profile(
                (one, few, most), reach, alike, to_mean, part.squares, positive, centres[which], part.width
            )
            watch.add(which, profile)
    return index, each


def _canonical(updates: Floats) -> tuple[Indices, Indices]:
    """Return the order of rows by their bytes, and for each place in it the first place with an equal row."""
    order = updates.view(f"V{updates.shape[1] * updates.itemsize}").ravel().argsort(kind="stable")
    first, last = np.arange(len(order)), updates[order, -1]
    for i in np.flatnonzero(last[1:] == last[:-1]) + 1:  # few, unless there are clones
        if np.array_equal(updates[order[i - 1]], updates[order[i]]):
            first[i] = first[i - 1]
    return order, first


def _centred(updates: Floats, order: Indices, columns: Indices, x: Floats, here: slice) -> Part:
    """Copy some columns to their place in x, rows in this order; centre and measure them."""
    n = len(order)
    half = (n + 1) // 2
    centred, squares, positive = np.zeros(n), np.zeros(n), np.zeros(n)
    for start in range(0, len(columns), WIDTH):
        chunk = np.take(updates, columns[start : start + WIDTH], axis=1)[order]
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            length = np.einsum("ij,ij->i", chunk, chunk)
            squares += length
            positive += np.count_nonzero(chunk > 0, axis=1)
            # Centre by the half that is nearest to 0: one enormous update would drag the mean of all away.
            crowd = np.argpartition(length, half - 1)[:half]
            chunk -= chunk[crowd].mean(axis=0)
            centred += np.einsum("ij,ij->i", chunk, chunk)
        x[:, here.start + start : here.start + start + chunk.shape[1]] = chunk
    if not centred.max() < np.finfo(updates.dtype).max / 8:  # false for NaN too
        raise ArgumentValueError("expected finite updates with finite squares, got NaN, infinity or too large a number")
    noise = 2 * float(np.median(centred)) * float(np.finfo(updates.dtype).eps) * math.sqrt(min(WIDTH, len(columns)))
    return Part(here, centred, squares, positive, noise)


def centre_of(x: Floats, part: Part, steps: int = STEPS) -> Centre:
    """Find the geometric median from the points, as ``robust.views`` from distances; one step is the mean."""

    def measure(weights: Doubles) -> tuple[Doubles, float]:
        g = weights.astype(x.dtype) @ x
        square = float(np.dot(g, g))
        return np.maximum(part.centred - 2 * (x @ g) + square, 0.0), float(weights @ part.centred) - square

    weights, away, inertia = geometric_median(len(x), measure, steps)
    return Centre(weights, inertia, away, max(float(weights @ part.squares) - inertia, 0.0))


def cosine_to(centre: Centre, squares: Doubles) -> Doubles:
    """Return the cosines of updates to a centre, from their squared lengths; 0 where one of both has none."""
    lengths = np.sqrt(squares * centre.square)
    return np.divide(centre.inner(squares), lengths, out=np.zeros(len(squares)), where=lengths > 0)
