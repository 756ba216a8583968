"""The rule: which updates to average, by the held-out loss of their mean.

Of all sets S of updates it looks for one with a low

    J(S) = L(w + mean of S) + price * stake * (weight of who is left out / weight of all)

L is the held-out loss, and the stake is what the round is about: the loss of the broadcast model, or the median one of
the sets that the search may start with where that is higher, less the lowest of these. The price keeps honest clients
in: where clients hold different data, half of them raise the loss of any mean a little, and a set chosen by the loss
alone learns less, because it has seen less. So whoever is left out raises the loss by more than ``price`` times its
share of the stake, and whoever does not is in.

The search starts with everybody, or with a part of them where that has a lower J. Then it exchanges who should be in
for who should be out, many at a time while that lowers J, as long as anything does. Which to try first is told by
first-order estimates: with the gradient of the loss, one product an update; without it, by the loss itself with each
update in turn taken out or put in. Only real losses decide. A constant added to the loss, or a factor, changes nothing.

Cost, for n updates of d numbers of which m are left out: with a gradient about ``log2(n) + 2 BLOCKS + m`` losses and
some gradients; without one about 2n losses for each time that the estimates are made anew, which is two to four times.
O(n d) numbers are read for each gradient and each of the former losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flwr_faa.replies import kernels

if TYPE_CHECKING:
    from flwr_faa.holdout.losses import Landscape, Vector

#: What leaving out everybody would cost, in stakes. An update of nothing at all would raise the loss by about one share
#: of the stake; so an honest client may be half as good as the mean of those that are kept.
PRICE = 0.5
#: Rows are exchanged in blocks of at most a sixteenth of them.
BLOCKS = 16


@dataclass(frozen=True)
class Choice:
    """What the held-out loss says about some rows.

    Attributes
    ----------
    kept : frozenset of int
        Rows that take part, those that were to be kept among them.
    loss : float
        Of the model that these make.
    rises : mapping of int to float
        For every other row, by how much the loss would rise if it took part too; infinite where it cannot be had.
    evaluations, gradients : int
        How often the loss and its gradient were asked for.
    """

    kept: frozenset[int]
    loss: float
    rises: Mapping[int, float]
    evaluations: int
    gradients: int


def choose(
    landscape: Landscape,
    kept: Sequence[int],
    open_rows: Sequence[int],
    doubted: Sequence[int] = (),
    price: float = PRICE,
) -> Choice:
    """Decide who of the open rows joins the kept.

    Parameters
    ----------
    landscape : Landscape
    kept, open_rows : sequence of int
        In any order: the choice is the same bit for bit.
    doubted : sequence of int
        Open rows that the search need not start with.
    price : float

    Raises
    ------
    ValueError
        If the loss of the broadcast model cannot be had.
    """
    search = _Search(landscape, frozenset(kept), frozenset(open_rows) - frozenset(kept), price)
    chosen = search.start(frozenset(doubted))
    while True:
        if (better := search.exchanged(chosen)) is not None:
            chosen = better
            continue
        # Nobody is left out on an estimate's word: who does not raise the loss by enough comes in, the best one first.
        losses = search.with_one_more(chosen)
        if (better := search.joined(chosen, losses)) is None:
            break
        chosen = better
    loss = search.loss(chosen)
    rises = {row: one if math.isinf(one) else one - loss for row, one in losses.items()}
    return Choice(chosen, loss, rises, landscape.evaluations, landscape.gradients)


class _Search:
    """One round's search. Every step lowers J, computed anew for each set, so it ends."""

    def __init__(self, landscape: Landscape, kept: frozenset[int], open_rows: frozenset[int], price: float) -> None:
        batch = landscape.batch
        self._place = {row: i for i, row in enumerate(batch.canonical)}
        self._landscape, self._kept, self._open = landscape, kept, self._in_order(open_rows)
        self._weights = {row: float(batch.weights[row]) for row in range(len(batch))}
        self._losses = {frozenset[int](): landscape.start()}
        self._fast = kernels.fastest(len(batch) * batch.layout.size)
        everybody = sum(self._weights[row] for row in self._in_order(kept | open_rows))
        self._shares = {row: self._weights[row] / everybody for row in self._open}
        self._rate = price
        #: By row: what leaving it out costs. It is known when the search has started.
        self._prices = dict.fromkeys(self._open, 0.0)

    @property
    def _at_rest(self) -> float:
        return self._losses[frozenset()]

    def loss(self, rows: frozenset[int]) -> float:
        """Return L of the mean of a set; of w itself where it is empty."""
        if rows not in self._losses:
            total, weight = self._sum(rows)
            self._losses[rows] = self._landscape.at(total / weight)
        return self._losses[rows]

    def cost(self, rows: frozenset[int]) -> float:
        """Return J."""
        return self.loss(rows) + self._price(rows)

    def start(self, doubted: frozenset[int]) -> frozenset[int]:
        """Return the best of these: everybody, everybody but the doubted, and the most promising few of several sizes.

        From a mean that was torn far away, or onto a plateau, no small step leads back.
        """
        everybody = self._kept | frozenset(self._open)
        promise = self._promise()
        order = sorted(self._open, key=lambda row: (promise[row], self._place[row]))
        few = (self._kept | set(order[:count]) for count in _counts(len(order)))
        sets = [everybody, everybody - (doubted - self._kept), *few]
        sets = [rows for rows in sets if rows]
        # The median, because a few long updates may tear the larger sets as far away as they like.
        losses = sorted(self.loss(rows) for rows in sets)
        before = [loss for loss in (self._at_rest, losses[(len(losses) - 1) // 2]) if math.isfinite(loss)]
        stake = max(before, default=0.0) - losses[0]
        if math.isfinite(stake):  # it is not where no set has a finite loss
            self._prices = {row: self._rate * max(0.0, stake) * share for row, share in self._shares.items()}
        best = min(sets, key=self.cost)
        return best if math.isfinite(self.loss(best)) else self._kept

    def exchanged(self, chosen: frozenset[int]) -> frozenset[int] | None:
        """Return a set of lower J by what the estimates at this one say; None if they lead nowhere."""
        changes = self._estimates(chosen)
        queue = sorted((row for row in self._open if changes[row] < 0), key=lambda r: (changes[r], self._place[r]))
        block, best = max(1, len(self._open) // BLOCKS), chosen
        while queue:
            other = best ^ frozenset(queue[:block])
            # Never nobody: where clients differ, every mean of a late round may raise the loss for a while.
            if other and self.cost(other) < self.cost(best):
                best, queue = other, queue[block:]
            elif block > 1:
                block = 1
            else:
                break
        return best if best != chosen else None

    def with_one_more(self, chosen: frozenset[int]) -> dict[int, float]:
        """Return L with each of those who are out in addition."""
        total, weight = self._sum(chosen)
        return {row: self._moved(total, weight, row, 1) for row in self._open if row not in chosen}

    def joined(self, chosen: frozenset[int], losses: Mapping[int, float]) -> frozenset[int] | None:
        """Return the set with the one who lowers J most by taking part after all; None if nobody does."""
        costs = {row: (loss - self._prices[row], self._place[row]) for row, loss in losses.items()}
        best = min(costs, key=costs.__getitem__, default=None)
        if best is None or not self.cost(chosen | {best}) < self.cost(chosen):
            return None
        return chosen | {best}

    def _promise(self) -> dict[int, float]:
        """Return what each update would do to L by itself: the cosine to the gradient at w, or L itself; low is good.

        A cosine, because the estimate of a long update says nothing.
        """
        slopes = self._slopes(np.zeros(self._landscape.batch.layout.size))
        if slopes is None:
            return {row: self.loss(frozenset({row})) for row in self._open}
        lengths = {row: float(np.linalg.norm(self._landscape.update(row).astype(np.float64))) for row in self._open}
        return {row: slope / lengths[row] if lengths[row] else 0.0 for row, slope in slopes.items()}

    def _estimates(self, chosen: frozenset[int]) -> dict[int, float]:
        """Return by how much J would change, roughly, if a row changed sides; infinite where nothing is known."""
        total, weight = self._sum(chosen)
        slopes, here = self._slopes(total / weight if weight else total), self.loss(chosen)
        found = {}
        for row in self._open:
            sign = -1 if row in chosen else 1
            rest = weight + sign * self._weights[row]
            if sign < 0 and len(chosen) == 1:
                found[row] = math.inf
                continue
            if slopes is None:
                change = self._moved(total, weight, row, sign) - here
            else:
                change = sign * self._weights[row] / rest * slopes[row]
            change -= sign * self._prices[row]
            found[row] = math.inf if math.isnan(change) else change
        return found

    def _slopes(self, at: Vector) -> dict[int, float] | None:
        """Return ``<gradient at w + at, g_i - at>`` by row, O(n d); None where there is no gradient."""
        gradient = self._landscape.slope(at)
        if gradient is None or not np.isfinite(gradient).all():
            return None
        own = float(gradient @ at)
        # Products in the updates' own precision: nothing is decided by them.
        short = gradient.astype(self._landscape.batch.rows.dtype)
        return {row: float(short @ self._landscape.update(row)) - own for row in self._open}

    def _sum(self, rows: frozenset[int]) -> tuple[Vector, float]:
        """Return the weighted sum and the sum of weights, added up in an order that depends on contents alone."""
        total: Vector = np.zeros(self._landscape.batch.layout.size)
        weight = 0.0
        for row in self._in_order(rows):
            self._fast.add(total, [self._landscape.update(row)], [self._weights[row]])
            weight += self._weights[row]
        return total, weight

    def _moved(self, total: Vector, weight: float, row: int, sign: int) -> float:
        """Return L of a sum with a row added or subtracted."""
        own = sign * self._weights[row]
        return self._landscape.at((total + own * self._landscape.update(row)) / (weight + own))

    def _price(self, rows: frozenset[int]) -> float:
        return sum(self._prices[row] for row in self._open if row not in rows)

    def _in_order(self, rows: frozenset[int]) -> list[int]:
        return sorted(rows, key=self._place.__getitem__)


def _counts(n: int) -> Iterator[int]:
    """Three quarters of n, a half, a quarter ... one."""
    yield -(-3 * n // 4)
    while n > 1:
        n = -(-n // 2)
        yield n
