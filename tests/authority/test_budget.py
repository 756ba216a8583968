"""The bound on what is known: never below the rank, never above the budget, moved by nothing but new knowledge."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.authority import BudgetExceeded, Refused
from flwr_faa.authority.budget import Account, Digests, allowance, digests, gradient, gradient_share, spend

ORDER = 2**61 - 1
WIDTH, SAMPLES = 5, 4
KEY = b"k" * 32

vectors = st.lists(st.integers(-3, 3), min_size=WIDTH, max_size=WIDTH)
requests = st.tuples(
    st.lists(vectors, max_size=3), st.lists(vectors, max_size=3), st.sets(st.integers(0, SAMPLES - 1), max_size=3)
)


def digest(*found: list[int]) -> Digests:
    return digests(found, WIDTH, ORDER, KEY)


def rank(found: list[list[int]]) -> int:
    """Modulo the order, by elimination: what the bound is a bound of."""
    rows, result = [[v % ORDER for v in y] for y in found], 0
    for column in range(WIDTH):
        pivot = next((row for row in rows[result:] if row[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        inverse = pow(pivot[column], -1, ORDER)
        pivot = [v * inverse % ORDER for v in pivot]
        rows = [[(a - row[column] * b) % ORDER for a, b in zip(row, pivot, strict=True)] for row in rows]
        rows.insert(result, pivot)
        result += 1
    return result


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

    def rank(self) -> int:
        return max(rank(self.keys + stated) for stated in self.values.values())


@given(st.lists(requests, max_size=6), st.integers(0, WIDTH))
def test_bound_is_never_below_the_rank_nor_above_the_budget(asked: list, budget: int) -> None:
    truth = Truth(Account(WIDTH, budget))
    for request in asked:
        before = truth.account
        if not truth.ask(*request):
            assert truth.account == before
        assert truth.rank() <= truth.account.rank <= budget


@given(st.lists(requests, max_size=4), st.lists(requests, max_size=4), st.permutations(range(SAMPLES)))
def test_another_set_may_be_the_same_samples_in_another_order(first: list, then: list, order: list[int]) -> None:
    truth = Truth(Account(WIDTH, WIDTH))
    for request in first:
        assert truth.ask(*request)
    old = truth.account
    truth.account = Account(WIDTH, WIDTH, carried=old.carried + old.peak, keyed=old.keyed)
    truth.stated = {}
    truth.values = {new: truth.values[row] for new, row in enumerate(order)}
    assert truth.account.rank == old.rank
    for request in then:
        assert truth.ask(*request)
        assert truth.rank() <= truth.account.rank


@given(requests)
def test_the_same_again_costs_nothing_even_with_a_spent_budget(request: tuple) -> None:
    truth = Truth(Account(WIDTH, WIDTH))
    truth.ask(*request)
    spent = truth.account
    truth.account = Account(WIDTH, spent.rank, spent.carried, spent.peak, spent.keyed)
    assert truth.ask(*request)
    assert truth.account.rank == spent.rank


def test_a_key_counts_for_all_samples_and_a_stated_value_for_its_rows() -> None:
    e = np.eye(WIDTH, dtype=int).tolist()
    truth = Truth(Account(WIDTH, 3))
    assert truth.ask([], [e[0], e[1]], {0})
    assert truth.ask([], [e[2], e[3]], {1})
    assert truth.account.rank == 2
    assert truth.ask([e[4]], [], {2})
    assert truth.account.rank == 3  # of rows 0 and 1, which the request does not name
    assert not truth.ask([[1, 1, 1, 1, 1]], [], {2})
    assert truth.ask([], [e[0], e[1]], {2})


def test_equal_functions_count_once_and_the_zero_function_not_at_all() -> None:
    y = [1, -2, 3, 0, 5]
    assert len(digest(y, y, [v + ORDER // 4 for v in y], [0] * WIDTH)) == 2
    assert digest(np.array(y)) == digest(y)  # type: ignore[arg-type]
    assert digests([y], WIDTH, ORDER, b"another") != digest(y)


@given(st.lists(st.tuples(st.integers(1, 3), st.permutations(range(SAMPLES)), st.integers(1, SAMPLES)), max_size=4))
def test_all_counts_together_bound_the_rank_of_all_gradients(steps: list) -> None:
    draw, equations, counts = np.random.default_rng(len(steps)), [np.zeros(SAMPLES * WIDTH)], [0] * SAMPLES
    for units, order, size in steps:
        rows = order[:size]
        for counted in rows:
            counts[counted] += gradient_share(units, WIDTH, size)
        for delta in draw.normal(size=(units, size)):  # one equation a unit and coordinate: sum_i delta_i x_i
            spread = np.zeros(SAMPLES)
            spread[rows] = delta
            equations += list(np.kron(spread, np.eye(WIDTH)))
    assert np.linalg.matrix_rank(np.array(equations)) <= sum(counts)


def test_a_gradient_is_as_many_functions_of_each_sample_as_its_share_and_its_steps_own() -> None:
    assert [gradient_share(10, 784, b) for b in (1, 10, 50, 34)] == [784, 784, 157, 231]
    stated = digest([1, 0, 0, 0, 0])
    one = gradient(stated, [3, 1], 4, KEY)
    assert len(one) == 4 and not one & stated and one == gradient(stated, [1, 3], 4, KEY)
    assert not one & gradient(stated, [1, 2], 4, KEY) and not one & gradient(frozenset(), [1, 3], 4, KEY)


@pytest.mark.parametrize("y", [[1, 2], [1] * (WIDTH + 1), [ORDER] * WIDTH, [1.0] * WIDTH, ["1"] * WIDTH, []])
def test_functions_that_do_not_fit_are_refused(y: list) -> None:
    with pytest.raises(Refused, match="expected"):
        digest(y)


def test_the_default_is_a_quarter() -> None:
    assert [allowance(n, 0.25) for n in (3, 4, 28, 64, 784)] == [n // 4 for n in (3, 4, 28, 64, 784)]
