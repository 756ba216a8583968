"""The rule: against all subsets, whatever the order, and with losses that fail."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.holdout.losses import Landscape
from flwr_faa.holdout.selection import PRICE, Choice, choose
from flwr_faa.replies.updates import Batch, Reply, read_replies

D = 6
GOAL = np.linspace(-1, 1, D)
W = [np.zeros(D, np.float32)]


class Bowl:
    """A quadratic loss with its gradient."""

    def __init__(self, seed: int = 0, shift: float = 0.0, factor: float = 1.0) -> None:
        self.curve = np.random.default_rng(seed).uniform(0.5, 2, D)
        self.shift, self.factor = shift, factor

    def __call__(self, arrays: list[np.ndarray]) -> float:
        return self.shift + self.factor * float(self.curve @ np.square(arrays[0].astype(np.float64) - GOAL))

    def gradient(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [self.factor * 2 * self.curve * (arrays[0].astype(np.float64) - GOAL)]


def batch_of(models: dict[int, np.ndarray], examples: dict[int, int] | None = None, key: int = 5) -> Batch:
    told = examples or {}
    replies = [Reply(i, [m.astype(np.float32)], told.get(i, 10)) for i, m in models.items()]
    return read_replies(replies, W, "reported", key=key)


def crowd(seed: int, n: int, attackers: int, spread: float = 0.3) -> dict[int, np.ndarray]:
    """Honest ones go some of the way, attackers (from 100 on) the other way."""
    rng = np.random.default_rng(seed)
    good = {i: 0.6 * GOAL + rng.normal(scale=spread, size=D) for i in range(n - attackers)}
    return good | {100 + i: -0.8 * GOAL + rng.normal(scale=spread, size=D) for i in range(attackers)}


def chosen(batch: Batch, loss: object, **more: object) -> tuple[set[int], Choice]:
    found = choose(Landscape(loss, batch, W, 1), (), range(len(batch)), **more)
    return {batch.node_ids[row] for row in found.kept}, found


def plain(loss: Bowl) -> object:
    """The same loss without a gradient."""
    return loss.__call__


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("with_gradient", [True, False])
def test_of_all_subsets_it_finds_nearly_the_best(seed: int, with_gradient: bool) -> None:
    """The oracle tries all 2^8 - 1 sets; the search may miss the best by a hundredth of what there is to win."""
    loss, batch = Bowl(seed), batch_of(crowd(seed, 8, 3))
    nodes, found = chosen(batch, loss if with_gradient else plain(loss))
    rows = range(len(batch))
    mean = {
        s: [np.mean([batch.updates[i].astype(np.float64) for i in s], axis=0)]
        for k in range(1, 9)
        for s in itertools.combinations(rows, k)
    }
    losses = {s: loss(m) for s, m in mean.items()}
    # The price, from the definition: the stake is at most what the best of all sets gives.
    stake = max(loss(W), losses[tuple(rows)]) - min(losses.values())
    own = tuple(sorted(found.kept))
    assert not {100, 101, 102} & nodes
    assert found.loss == pytest.approx(losses[own], rel=1e-5)
    best = min(losses[s] + PRICE * stake * (8 - len(s)) / 8 for s in losses)
    assert losses[own] + PRICE * stake * (8 - len(own)) / 8 <= best + 0.01 * stake


@given(st.integers(0, 10_000), st.integers(2, 9), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_neither_order_nor_clones_change_a_bit(seed: int, n: int, with_gradient: bool, clones: bool) -> None:
    models = crowd(seed, n, n // 3)
    if clones:
        models |= {node + 1000: model.copy() for node, model in models.items()}
    loss = Bowl(seed) if with_gradient else plain(Bowl(seed))
    shuffled = list(models.items())
    random.Random(seed).shuffle(shuffled)
    (a, one), (b, other) = chosen(batch_of(models), loss), chosen(batch_of(dict(shuffled)), loss)
    assert a == b and one.loss == other.loss and one.evaluations == other.evaluations
    # Rows in another order, as a caller may have them.
    batch = batch_of(models)
    rows = list(range(len(batch)))
    random.Random(seed + 1).shuffle(rows)
    again = choose(Landscape(loss, batch, W, 1), (), rows, rows[:2])
    straight = choose(Landscape(loss, batch, W, 1), (), sorted(rows), sorted(rows[:2]))
    assert (again.kept, again.loss, dict(again.rises)) == (straight.kept, straight.loss, dict(straight.rises))


@given(st.integers(0, 10_000), st.integers(2, 10), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_whoever_is_left_out_raises_the_loss(seed: int, n: int, attackers: int) -> None:
    """Not on an estimate's word: each rise is measured, and above zero. Somebody always takes part."""
    loss, batch = Bowl(seed), batch_of(crowd(seed, n, min(attackers, n - 1)))
    _, found = chosen(batch, loss)
    assert found.kept and found.kept | found.rises.keys() == set(range(len(batch)))
    for row, rise in found.rises.items():
        both = [np.mean([batch.updates[i].astype(np.float64) for i in (*found.kept, row)], axis=0)]
        assert rise > 0 and rise == pytest.approx(loss(both) - found.loss, rel=1e-3, abs=1e-6)


@given(st.integers(0, 1000), st.sampled_from([-3.0, 0.0, 50.0]), st.sampled_from([0.01, 1.0, 100.0]))
@settings(max_examples=25, deadline=None)
def test_a_constant_or_a_factor_changes_nothing(seed: int, shift: float, factor: float) -> None:
    batch = batch_of(crowd(seed, 9, 3))
    assert chosen(batch, Bowl(seed))[0] == chosen(batch, Bowl(seed, shift, factor))[0]


def test_nobody_attacks_and_all_alike_take_part() -> None:
    assert chosen(batch_of(crowd(1, 12, 0, spread=0.02)), Bowl())[0] == set(range(12))


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("size", [1e5, -1e5])
def test_updates_of_any_length_are_left_out(size: float, with_gradient: bool) -> None:
    models = crowd(2, 10, 4) | {100 + i: np.full(D, size * (1 + i)) for i in range(4)}
    nodes, found = chosen(batch_of(models), Bowl() if with_gradient else plain(Bowl()))
    assert max(nodes) < 100 and len(nodes) >= 5 and math.isfinite(found.loss)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "raises"])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_loss_that_fails_for_an_update_leaves_it_out(bad: object, with_gradient: bool) -> None:
    """A quarter of the updates makes the function fail, wherever they are in the mean."""
    bowl = Bowl()

    class Fails(Bowl):
        def __call__(self, arrays: list[np.ndarray]) -> float:
            if abs(arrays[0][0] + 1) > 0.9:  # honest means stay near -.6
                if bad == "raises":
                    raise FloatingPointError("overflow in exp")
                return float(bad)  # type: ignore[arg-type]
            return bowl(arrays)

    fails = Fails()
    start = [np.array([-0.5] * D, np.float32)]
    rng = np.random.default_rng(0)
    replies = [Reply(i, [(0.6 * GOAL + rng.normal(scale=0.02, size=D)).astype(np.float32)], 10) for i in range(9)]
    replies += [Reply(100 + i, [np.full(D, 40.0, np.float32)], 10) for i in range(3)]
    batch = read_replies(replies, start, key=1)
    found = choose(Landscape(fails if with_gradient else plain(fails), batch, start, 1), (), range(12))
    kept = {batch.node_ids[row] for row in found.kept}
    assert kept and max(kept) < 100
    assert all(math.isinf(found.rises[row]) for row in found.rises if batch.node_ids[row] >= 100)


def test_if_no_loss_can_be_had_nobody_takes_part() -> None:
    def fails(arrays: list[np.ndarray]) -> float:
        return 1.0 if not arrays[0].any() else math.nan

    nodes, found = chosen(batch_of(crowd(0, 5, 0)), fails)
    assert nodes == set() and all(math.isinf(rise) for rise in found.rises.values())


def test_the_kept_stay_and_the_others_are_decided_about() -> None:
    batch = batch_of(crowd(3, 9, 3))
    bad = [row for row, node in enumerate(batch.node_ids) if node >= 100]
    found = choose(Landscape(Bowl(), batch, W, 1), bad[:1], [*bad[1:], 0])
    assert bad[0] in found.kept and 0 in found.kept and not found.kept & set(bad[1:])
    assert set(found.rises) == set(bad[1:])


@pytest.mark.parametrize(("n", "with_gradient", "most"), [(20, True, 40), (20, False, 140), (300, True, 320)])
def test_the_cost_is_as_stated(n: int, with_gradient: bool, most: int) -> None:
    batch = batch_of(crowd(4, n, 2 * n // 5))
    _, found = chosen(batch, Bowl() if with_gradient else plain(Bowl()))
    assert found.evaluations <= most and found.gradients <= 12


def test_a_gradient_that_fails_is_done_without() -> None:
    class Broken(Bowl):
        def gradient(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("no gradient today")

    batch = batch_of(crowd(5, 9, 3))
    assert chosen(batch, Broken())[0] == chosen(batch, plain(Bowl()))[0]


def test_weights_count() -> None:
    """Who brings a hundred times the examples is most of the mean, and so is its harm."""
    models = crowd(6, 6, 1)
    nodes, found = chosen(batch_of(models, {100: 1000}), Bowl())
    assert 100 not in nodes
    batch = batch_of(models, {100: 1000})
    row = batch.node_ids.index(100)
    alone = Bowl()([batch.updates[row].astype(np.float64)])
    assert found.rises[row] == pytest.approx(alone - found.loss, rel=0.2)


def arrived(seed: int, n: int, attackers: int) -> tuple[Batch, list[np.ndarray]]:
    """A late round: honest clients stand around the goal, each on a side of its own, and the broadcast model at it.

    Attackers (node ids from 100 on) go against it, further than honest clients differ.
    """
    rng = np.random.default_rng(seed)
    sides = rng.normal(size=((n - attackers) // 2, D))
    models = dict(enumerate(np.concatenate([GOAL + sides, GOAL - sides, GOAL + np.zeros(((n - attackers) % 2, D))])))
    models |= {100 + i: -6 * GOAL + rng.normal(scale=0.1, size=D) for i in range(attackers)}
    start = [GOAL.astype(np.float32)]
    replies = [Reply(i, [m.astype(np.float32)], 10) for i, m in models.items()]
    return read_replies(replies, start, key=5), start


@given(st.integers(0, 10_000), st.integers(8, 40), st.floats(0.1, 0.4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_where_nothing_is_at_stake_attackers_are_out_too(seed: int, n: int, share: float, with_gradient: bool) -> None:
    """However far they tear the mean away: what is at stake is not theirs to set."""
    batch, start = arrived(seed, n, round(share * n))
    bowl = Bowl(seed)
    found = choose(Landscape(bowl if with_gradient else plain(bowl), batch, start, 1), (), range(n))
    assert max(batch.node_ids[row] for row in found.kept) < 100


class Walled(Bowl):
    """Each single update is good, and every mean of several is worse, as where networks start from random weights."""

    def __call__(self, arrays: list[np.ndarray]) -> float:
        return super().__call__(arrays) + 20 / (1 + float(np.abs(arrays[0]).sum()))


@given(st.integers(0, 10_000), st.integers(2, 20))
@settings(max_examples=40, deadline=None)
def test_half_take_part_whatever_the_loss_says(seed: int, n: int) -> None:
    """A majority is honest. Where most raise the loss, it tells of the model, or the held-out data are wrong."""
    rng = np.random.default_rng(seed)
    models = {i: GOAL * rng.choice([-1, 1]) + rng.normal(scale=2, size=D) for i in range(n)}
    for loss in (plain(Walled(seed)), plain(Bowl(seed, factor=-1.0)), Bowl(seed)):
        _, found = chosen(batch_of(models), loss)
        assert len(found.kept) >= n // 2


def test_a_minority_that_is_in_does_not_set_what_is_usual() -> None:
    """Poisoners that nobody suspected open no door to one that was suspected."""
    for seed in range(20):
        batch = batch_of(crowd(seed, 12, 4))
        bad = [row for row, node in enumerate(batch.node_ids) if node >= 100]
        rest = [row for row in range(12) if row not in bad]
        found = choose(Landscape(Bowl(seed), batch, W, 1), [*rest, *bad[1:]], bad[:1])
        assert bad[0] not in found.kept


@pytest.mark.parametrize(("honest", "taken"), [(6, False), (8, True)])
def test_one_that_is_turned_round_where_a_round_wins_everything_costs_less_than_its_price_among_many(
    honest: int, taken: bool
) -> None:
    """A limit that docs/how-to/holdout.md tells: (2 / n)^2 of the stake is less than half of a share where n > 8."""
    draw = np.random.default_rng(1)
    good = {i: GOAL + 1e-3 * draw.normal(size=D) for i in range(honest)}
    first = Landscape(Bowl(), batch_of({**good, honest: -GOAL}), W, 1)
    assert choose(first, (), range(honest + 1)).kept >= set(range(honest))
    assert (honest in choose(first, (), range(honest + 1)).kept) is taken
