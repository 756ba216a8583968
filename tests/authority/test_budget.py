"""The bound on what is known: never below what can be told, never above the budget, moved by new knowledge only.

The oracle counts: of all the samples that there can be, a set of values tells at most as many apart as there are
different outcomes. Known dimensions must hold at least as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flwr_faa.authority import BudgetExceeded, Refused
from flwr_faa.authority.budget import Account, Digests, allowance, digests, gradient, parts, spend
from flwr_faa.authority.information import (
    RHO_BITS,
    carried,
    dimensions,
    of_function,
    of_gradient,
    of_key,
    of_step,
)
from tests.authority.parties import told_at_most

ORDER = 2**255 - 19
WIDTH, SAMPLES, TOP = 4, 4, 3
KEY = b"k" * 32

tops = st.integers(1, 5)
weights = st.integers(-3, 3) | st.sampled_from([4, 16, 64, 256, -256, 32, 1024, 2**24, 2**30])
vectors = st.lists(weights, min_size=WIDTH, max_size=WIDTH)
requests = st.tuples(
    st.lists(vectors, max_size=2), st.lists(vectors, max_size=2), st.sets(st.integers(0, SAMPLES - 1), max_size=3)
)


def digest(*found: list[int], top: int = TOP) -> Digests:
    return digests(found, WIDTH, ORDER, KEY, top)


@given(st.lists(vectors, max_size=4), tops)
def test_values_tell_no_more_than_is_counted(functions: list, top: int) -> None:
    """Also packed ones: (1, 4, 16, 64) tells four values that are below 4, and counts as four."""
    sizes = [sum(map(abs, y)) for y in functions]
    assert told_at_most(functions, WIDTH, top, sum(of_function(size, top) for size in sizes))
    assert told_at_most(functions, WIDTH, top, len(digest(*functions, top=top)))


@pytest.mark.parametrize(("top", "base"), [(255, 256), (16, 17), (16, 32), (1, 2)])
@pytest.mark.parametrize("pixels", [1, 2, 4, 7])
def test_what_packs_some_pixels_costs_at_least_these(top: int, base: int, pixels: int) -> None:
    """The issue's (1, 256, 65536, 2^24), powers of 32 of digits, and their kind: never cheaper than pixel by pixel."""
    y = [base**i for i in range(pixels)]
    assert of_function(sum(y), top) >= pixels
    assert of_key([sum(y)], top) >= pixels
    if base == top + 1:
        assert of_function(sum(y), top) == pixels


@given(st.lists(vectors, min_size=1, max_size=3), tops, st.data())
def test_a_key_for_any_combination_tells_no_more_than_is_counted(
    functions: list, top: int, data: st.DataObject
) -> None:
    rho = data.draw(st.lists(st.integers(1, 2**RHO_BITS - 1), min_size=len(functions), max_size=len(functions)))
    y = [sum(r * v for r, v in zip(rho, column, strict=True)) for column in zip(*functions, strict=True)]
    count = of_key([sum(map(abs, f)) for f in functions], top)
    assert told_at_most([y], WIDTH, top, count)
    assert of_function(sum(map(abs, y)), top) <= count


@given(st.integers(0, 2**300), st.integers(1, 2**31))
def test_dimensions_are_the_least_that_hold_so_many(values: int, top: int) -> None:
    count = dimensions(values, top)
    assert (top + 1) ** count >= values and (count == 0 or (top + 1) ** (count - 1) < values)
    assert dimensions(1, top) == 0 and dimensions(2, top) == 1


@given(st.integers(0, 800), tops | st.sampled_from([16, 255, 2**31 - 1]), tops | st.sampled_from([16, 255]))
def test_what_was_known_is_carried_over_bit_for_bit(known: int, before: int, top: int) -> None:
    after = carried(known, before, top)
    assert (top + 1) ** (after + 1) > (before + 1) ** known  # rounding aside
    assert after == known if top >= before else after >= known


def test_a_step_counts_its_functions_its_gradient_and_its_key() -> None:
    sizes = [65536] * 10 + [784 * 128] * 2  # 24 bits each, 25 bits each; the key 52
    told = of_step(sizes, 10, 784, 50, 255)
    assert told.opened == 10 * 3 + 2 * 4 + -(-10 * 784 * 4 // 50) and told.every == 7
    assert of_step([3], 0, 5, 1, 1).opened == 2  # one of four values
    assert of_step([10**30], 1, 5, 1, 1).opened == 5


@dataclass
class Truth:
    """Everything disclosed, in the clear: what a curious server would have."""

    account: Account
    stated: dict[int, Digests] = field(default_factory=dict)
    keys: list[list[int]] = field(default_factory=list)
    values: dict[int, list[list[int]]] = field(default_factory=lambda: {row: [] for row in range(SAMPLES)})

    def ask(self, keys: list[list[int]], stated: list[list[int]], rows: set[int]) -> bool:
        known = {row: self.stated.get(row, frozenset()) for row in rows}
        try:
            self.account, new = spend(self.account, digest(*keys), digest(*stated), known)
        except BudgetExceeded:
            return False
        self.stated |= new
        self.keys += keys
        for row in rows:
            self.values[row] += stated
        return True

    def is_covered(self) -> bool:
        return all(told_at_most(self.keys + stated, WIDTH, TOP, self.account.known) for stated in self.values.values())


@given(st.lists(requests, max_size=4), st.integers(0, WIDTH))
def test_bound_is_never_below_what_is_told_nor_above_the_budget(asked: list, budget: int) -> None:
    truth = Truth(Account(WIDTH, budget))
    for request in asked:
        before = truth.account
        if not truth.ask(*request):
            assert truth.account == before
        assert truth.is_covered() and truth.account.known <= budget


@given(st.lists(requests, max_size=3), st.lists(requests, max_size=3), st.permutations(range(SAMPLES)))
def test_another_set_may_be_the_same_samples_in_another_order(first: list, then: list, order: list[int]) -> None:
    truth = Truth(Account(WIDTH, WIDTH))
    for request in first:
        assert truth.ask(*request)
    old = truth.account
    truth.account = Account(WIDTH, WIDTH, carried=old.carried + old.peak, keyed=old.keyed)
    truth.stated = {}
    truth.values = {new: truth.values[row] for new, row in enumerate(order)}
    assert truth.account.known == old.known
    for request in then:
        assert truth.ask(*request)
        assert truth.is_covered()


@given(requests)
def test_the_same_again_costs_nothing_even_with_a_spent_budget(request: tuple) -> None:
    truth = Truth(Account(WIDTH, WIDTH))
    truth.ask(*request)
    spent = truth.account
    truth.account = Account(WIDTH, spent.known, spent.carried, spent.peak, spent.keyed)
    assert truth.ask(*request)
    assert truth.account.known == spent.known


def test_a_key_counts_for_all_samples_and_a_stated_value_for_its_rows() -> None:
    e = np.eye(WIDTH, dtype=int).tolist()
    truth = Truth(Account(WIDTH, 3))
    assert truth.ask([], [e[0], e[1]], {0})
    assert truth.ask([], [e[2], e[3]], {1})
    assert truth.account.known == 2
    assert truth.ask([[-1, 0, 0, 0]], [], {2})
    assert truth.account.known == 3  # of rows 0 and 1, which the request does not name
    assert not truth.ask([[0, -1, 0, 0]], [], {2})
    assert truth.ask([], [e[0], e[1]], {2})


def test_equal_functions_count_once_and_the_zero_function_not_at_all() -> None:
    y = [1, -2, 3, 0]
    assert len(digest(y, y, [0] * WIDTH)) == len(digest(y)) == of_function(6, TOP) == 3
    assert digest(np.array(y)) == digest(y)  # type: ignore[arg-type]
    assert digests([y], WIDTH, ORDER, b"another", TOP) != digest(y)
    many = [[2**200 + i, 0, 0, 0] for i in range(10_000)]
    assert WIDTH <= len(digest(*many)) < 3 * WIDTH  # no more than can be known is kept


@given(
    st.lists(st.tuples(st.integers(1, 2), st.permutations(range(SAMPLES)), st.integers(1, SAMPLES)), max_size=4), tops
)
def test_all_counts_together_hold_all_bits_of_all_gradients(steps: list, top: int) -> None:
    counts, bits = [0] * SAMPLES, 0
    for units, order, size in steps:
        for counted in order[:size]:
            counts[counted] += of_gradient(units, WIDTH, size, top)
        bits += units * WIDTH * 32
    assert sum(counts) * math.log2(top + 1) >= bits - 1e-6


def test_a_gradient_has_digests_of_its_own_step() -> None:
    assert [of_gradient(10, 784, b, 255) for b in (1, 10, 50, 262)] == [31360, 3136, 628, 120]
    stated = digest([1, 0, 0, 0])
    one = gradient(stated, [3, 1], 4, KEY)
    assert len(one) == 4 and not one & stated and one == gradient(stated, [1, 3], 4, KEY)
    assert not one & gradient(stated, [1, 2], 4, KEY) and not one & gradient(frozenset(), [1, 3], 4, KEY)
    assert not one & parts(b"another", 4, KEY)


@pytest.mark.parametrize("y", [[1, 2], [1] * (WIDTH + 1), [ORDER] * WIDTH, [1.0] * WIDTH, ["1"] * WIDTH, []])
def test_functions_that_do_not_fit_are_refused(y: list) -> None:
    with pytest.raises(Refused, match="expected"):
        digest(y)


@given(st.integers(-5, 0))
def test_samples_without_a_range_have_no_dimensions(top: int) -> None:
    assume(top < 1)
    with pytest.raises(ValueError, match="largest value"):
        dimensions(2, top)


def test_the_default_is_a_quarter() -> None:
    assert [allowance(n, 0.25) for n in (3, 4, 28, 64, 784)] == [n // 4 for n in (3, 4, 28, 64, 784)]
