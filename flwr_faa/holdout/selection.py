"""The rule: which updates to average, by the held-out loss of their mean.

Of all sets S of updates it looks for one with a low

    J(S) = L(w + mean of S) + price * stake * (weight of who is left out / weight of all)

L is the held-out loss, and the stake is what the round is about: the loss of the broadcast model, or the median one of
the sets that the search may start with where that is higher, less the lowest of these. The price keeps honest clients
in: where clients hold different data, half of them raise the loss of any mean a little, and a set chosen by the loss
alone learns less, because it has seen less.

The search starts with everybody, or with a part of them where that has a lower J. Then it exchanges who should be in
for who should be out, many at a time while that lowers J, as long as anything does. Which to try first is told by
first-order estimates: with the gradient of the loss, one product an update; without it, by the loss itself with each
update in turn taken out or put in.

Then those who are out get the benefit of the doubt, twice.

* Half of all take part at least, the best first: a majority is honest. Where most updates raise the loss of any mean,
  as in the first round of a network with batch normalisation, the loss tells of the network and not of clients.
* The stake of a late round is near zero, and then anybody who raises the loss at all would be out. But honest updates
  raise it by something in every round. How much is usual is seen among those who are in: they differ in their slopes

      s_i = <gradient of L at w + m, g_i - m>,   m the mean of those who are in

  and where enough are in, the price of each is at least its share of ``median(s) + SPREADS * 1.4826 * MAD(s)``. Few
  held-out samples make the slopes differ more, so they leave out fewer.

Whoever is left out raises the loss by more than its price, and whoever does not is in: no estimate decides that. A
constant added to the loss, or a factor, changes nothing.

Cost, for n updates of d numbers of which m are left out: with a gradient about ``log2(n) + 2 BLOCKS + 2 m`` losses and
some gradients; without one about n losses for each time that the estimates are made anew, which is two to five times.
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
#: What is usual ends so many standard deviations above the middle; it is known where so many are in.
SPREADS, OTHERS = 1.0, 5


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
    chosen = search.descended(search.start(frozenset(doubted)))
    if len(chosen) < OTHERS:
        chosen = search.with_half(chosen)
    search.believe(chosen)
    chosen, losses = search.joined(search.descended(chosen))
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
        self._rate, self._half = price, (len(kept) + len(open_rows)) // 2
        self._summed: tuple[frozenset[int], Vector, float] = frozenset(), np.zeros(batch.layout.size), 0.0
        #: What is known beside ``_losses``: by set and row, L with the row on the other side, and the slope towards it.
        self._neighbours: dict[frozenset[int], dict[int, float]] = {}
        self._known_slopes: dict[frozenset[int], dict[int, float] | None] = {}
        #: By row: what leaving it out costs. It is known when the search has started.
        self._prices = dict.fromkeys(self._open, 0.0)

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
        order = self._ranked(promise)
        few = (self._kept | set(order[:count]) for count in _counts(len(order)))
        sets = [everybody, everybody - (doubted - self._kept), *few]
        sets = [rows for rows in sets if rows]
        gain = self.loss(frozenset()) - min(map(self.loss, sets))
        if math.isfinite(gain):  # it is not where a loss is infinite
            self._prices = {row: self._rate * max(0.0, gain) * share for row, share in self._shares.items()}
        best = min(sets, key=self.cost)
        return best if math.isfinite(self.loss(best)) else self._kept

    def descended(self, chosen: frozenset[int]) -> frozenset[int]:
        """Return a set of low J, by exchanges that the estimates propose, as long as these lead anywhere."""
        block = max(1, len(self._open) // BLOCKS)
        while True:
            changes = self._estimates(chosen)
            better = self._lowered(chosen, self._ranked(changes, below=0.0), block)
            if better == chosen:
                return chosen
            chosen = better

    def with_half(self, chosen: frozenset[int]) -> frozenset[int]:
        """Return a set with the best of the others, so that it is half of all where the loss allows."""
        missing = self._half - len(chosen)
        if missing <= 0:
            return chosen
        more = chosen | frozenset(self._ranked(self._with_one_more(chosen), below=math.inf)[:missing])
        return more if math.isfinite(self.loss(more)) else chosen

    def believe(self, chosen: frozenset[int]) -> None:
        """Raise the prices to what is usual among those who are in, where they are enough."""
        if len(chosen) >= OTHERS and not chosen >= set(self._open):
            usual = self._usual(chosen)
            self._prices = {row: max(price, usual * self._shares[row]) for row, price in self._prices.items()}

    def joined(self, chosen: frozenset[int]) -> tuple[frozenset[int], dict[int, float]]:
        """Let in whoever does not raise J, and half of all at least; return who is in, and L with each of the others.

        No estimate decides here.
        """
        while True:
            losses = self._with_one_more(chosen)
            changes = {row: loss - self.loss(chosen) - self._prices[row] for row, loss in losses.items()}
            queue = self._ranked(changes, below=0.0)
            better = self._lowered(chosen, queue, len(queue))
            if better == chosen and (better := self.with_half(chosen)) == chosen:
                return chosen, losses
            chosen = better

    def _lowered(self, best: frozenset[int], queue: list[int], block: int) -> frozenset[int]:
        """Return the set after rows of a queue have changed sides, a block at a time while that lowers J."""
        while queue:
            other = best ^ frozenset(queue[:block])
            # Never nobody: where clients differ, every mean of a late round may raise the loss for a while.
            if other and self.cost(other) < self.cost(best):
                best, queue = other, queue[block:]
            elif block > 1:
                block //= 2
            else:
                break
        return best

    def _with_one_more(self, chosen: frozenset[int]) -> dict[int, float]:
        """Return L with each of those who are out in addition."""
        total, weight = self._sum(chosen)
        return {row: self._moved(chosen, total, weight, row) for row in self._open if row not in chosen}

    def _usual(self, chosen: frozenset[int]) -> float:
        """Return the highest slope of L from the mean of a set that is usual among its updates; 0 if none is known.

        Their median and ``SPREADS`` standard deviations, as 1.4826 times their median distance from it: no minority
        sets either, but a standard deviation it would.
        """
        total, weight = self._sum(chosen)
        slopes = self._slopes(chosen)
        if slopes is None:  # by differences; most of these losses are known
            here, whole = self.loss(chosen), {row: weight / self._weights[row] - 1 for row in chosen}
            slopes = {
                row: (here - self._moved(chosen, total, weight, row)) * whole[row] for row in chosen if whole[row]
            }
        own = np.array([slopes[row] for row in chosen if row in slopes])
        middle = float(np.median(own))
        usual = middle + SPREADS * 1.4826 * float(np.median(np.abs(own - middle)))
        return usual if math.isfinite(usual) else 0.0

    def _promise(self) -> dict[int, float]:
        """Return what each update would do to L by itself: the cosine to the gradient at w, or L itself; low is good.

        A cosine, because the estimate of a long update says nothing.
        """
        slopes = self._slopes(frozenset())
        if slopes is None:
            return {row: self.loss(frozenset({row})) for row in self._open}
        lengths = {row: float(np.linalg.norm(self._landscape.update(row).astype(np.float64))) for row in self._open}
        return {row: slopes[row] / lengths[row] if lengths[row] else 0.0 for row in self._open}

    def _estimates(self, chosen: frozenset[int]) -> dict[int, float]:
        """Return by how much J would change, roughly, if a row changed sides; infinite where nothing is known."""
        total, weight = self._sum(chosen)
        slopes, here = self._slopes(chosen), self.loss(chosen)
        found = {}
        for row in self._open:
            sign = -1 if row in chosen else 1
            rest = weight + sign * self._weights[row]
            if sign < 0 and len(chosen) == 1:
                found[row] = math.inf
                continue
            if slopes is None:
                change = self._moved(chosen, total, weight, row) - here
            else:
                change = sign * self._weights[row] / rest * slopes[row]
            change -= sign * self._prices[row]
            found[row] = math.inf if math.isnan(change) else change
        return found

    def _slopes(self, chosen: frozenset[int]) -> dict[int, float] | None:
        """Return ``<gradient at w + m, g_i - m>`` by row, m the mean of a set; None without a gradient. O(n d)."""
        if chosen not in self._known_slopes:
            total, weight = self._sum(chosen)
            mean = total / weight if weight else total
            gradient = self._landscape.slope(mean)
            found = None
            if gradient is not None and np.isfinite(gradient).all():
                own = float(gradient @ mean)
                # Products in the updates' own precision: nothing is decided by them alone.
                short = gradient.astype(self._landscape.batch.rows.dtype)
                rows = self._in_order(self._kept | frozenset(self._open))
                found = {row: float(short @ self._landscape.update(row)) - own for row in rows}
            self._known_slopes[chosen] = found
        return self._known_slopes[chosen]

    def _sum(self, rows: frozenset[int]) -> tuple[Vector, float]:
        """Return the weighted sum and the sum of weights, added up in an order that depends on contents alone."""
        if rows != self._summed[0]:
            total: Vector = np.zeros(self._landscape.batch.layout.size)
            weight = 0.0
            for row in self._in_order(rows):
                self._fast.add(total, [self._landscape.update(row)], [self._weights[row]])
                weight += self._weights[row]
            self._summed = rows, total, weight  # the same set is asked for several times in a row
        return self._summed[1:]

    def _moved(self, rows: frozenset[int], total: Vector, weight: float, row: int) -> float:
        """Return L of a set, whose sums these are, with a row added or taken out."""
        known = self._neighbours.setdefault(rows, {})
        if row not in known:
            own = -self._weights[row] if row in rows else self._weights[row]
            known[row] = self._landscape.at((total + own * self._landscape.update(row)) / (weight + own))
        return known[row]

    def _price(self, rows: frozenset[int]) -> float:
        return sum(self._prices[row] for row in self._open if row not in rows)

    def _ranked(self, values: Mapping[int, float], below: float = math.inf) -> list[int]:
        """Return the rows whose value is below a number, the lowest first."""
        found = (row for row in values if values[row] < below)
        return sorted(found, key=lambda row: (values[row], self._place[row]))

    def _in_order(self, rows: frozenset[int]) -> list[int]:
        return sorted(rows, key=self._place.__getitem__)


def _counts(n: int) -> Iterator[int]:
    """Three quarters of n, a half, a quarter ... one."""
    yield -(-3 * n // 4)
    while n > 1:
        n = -(-n // 2)
        yield n
