"""What products cost, in additions, and that they are right for many sizes: where a point is its own logarithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.crypto import groups, pedersen
from tests.crypto.counted import Counted, scalars, windows

SIZES = pytest.mark.parametrize(("count", "bits"), [(c, b) for c in (1, 9, 100, 1000) for b in (1, 8, 64, 254)])
LARGE = st.integers(-(2**254), 2**254) | st.integers(-(2**12), 2**12)


@SIZES
def test_multiples_of_a_point_cost_no_more_than_by_the_best_table(count: int, bits: int) -> None:
    group, factors = Counted(), scalars(count, bits)
    assert groups.multiples(group, 77, factors) == [77 * k % group.order for k in factors]
    tables = [windows(bits, w) * (2 ** (w - 1) + count) for w in range(1, 13)]
    assert group.cost <= 1.1 * min(*tables, count * group.mul_cost) + 2


@SIZES
def test_small_multiples_of_the_generator_cost_a_few_additions_each(count: int, bits: int) -> None:
    group, factors = Counted(), scalars(count, bits)
    groups.multiples(group, group.generator, [2**30])  # a table is kept
    group.cost = 0
    assert groups.multiples(group, group.generator, factors) == [k % group.order for k in factors]
    if bits <= 64:
        assert group.cost <= count * windows(bits, 8) + windows(64, 8) * 2**8


@SIZES
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_of_products_costs_no_more_than_by_the_best_buckets(count: int, bits: int, sign: int) -> None:
    """Negative scalars as much as positive ones."""
    group, factors = Counted(), [sign * abs(k) for k in scalars(count, bits)]
    bases = scalars(count, 254, seed=1)
    expected = sum(p * k for p, k in zip(bases, factors, strict=True)) % group.order
    assert groups.msm(group, bases, factors) == expected
    buckets = [-(-bits // w) * (count + 2 ** (w + 1)) + bits for w in range(1, 17)]
    assert group.cost <= 1.1 * min(*buckets, count * (group.mul_cost + 1))
    group.cost = 0
    assert (
        groups.msm(group, bases, [k * (i == 0) for i, k in enumerate(factors)]) == bases[0] * factors[0] % group.order
    )
    assert group.cost <= group.mul_cost + 2  # zeros cost nothing


@pytest.mark.parametrize(("rows", "bits"), [(1, 16), (10, 16), (50, 32), (400, 32), (50, 1)])
def test_combined_rows_cost_no_more_than_by_the_best_buckets(rows: int, bits: int) -> None:
    group, factors = Counted(), scalars(rows, bits)
    table = [scalars(3, 254, seed=i) for i in range(rows)]
    expected = [sum(k * row[j] for k, row in zip(factors, table, strict=True)) % group.order for j in range(3)]
    assert groups.combine(group, table, factors) == expected
    buckets = [windows(bits, w) * (rows + 2**w + w) for w in range(1, 13)]
    assert group.cost <= 1.1 * 3 * min(buckets)


def test_a_commitment_costs_what_its_docstring_says() -> None:
    """Two additions for every value that is not zero, and 30 for each of the base-16 digits."""
    group, values = Counted(), np.random.default_rng(0).integers(0, 256, 784) * (np.arange(784) % 2)
    bases = scalars(784, 254)
    assert (
        pedersen._weighted(group, bases, values)
        == sum(p * int(v) for p, v in zip(bases, values, strict=True)) % group.order
    )
    assert group.cost <= 2 * np.count_nonzero(values) + 2 * 30 + 4


@settings(max_examples=200)
@given(st.lists(st.tuples(LARGE, LARGE), max_size=12))
def test_products_are_right_whatever_their_sizes(pairs: list[tuple[int, int]]) -> None:
    group, bases, factors = Counted(), [p % Counted.order for p, _ in pairs], [k for _, k in pairs]
    products = [p * k % group.order for p, k in zip(bases, factors, strict=True)]
    assert groups.msm(group, bases, factors) == sum(products) % group.order
    assert [groups.multiples(group, p, [k])[0] for p, k in zip(bases, factors, strict=True)] == products
    for base in (5, group.generator):
        assert groups.multiples(group, base, factors) == [base * k % group.order for k in factors]
    if pairs:
        assert groups.combine(group, [[p, 1] for p in bases], factors) == [
            sum(products) % group.order, sum(factors) % group.order
        ]  # fmt: skip


@given(st.lists(st.integers(0, 40), max_size=30))
def test_buckets_hold_every_digit_but_zeros(digits: list[int]) -> None:
    found = groups.buckets(np.array(digits, np.int64))
    top = max(digits, default=0)
    assert [sorted(bucket) for bucket in found] == [
        [i for i, d in enumerate(digits) if d == value] for value in range(top, 0, -1)
    ]
    assert groups.bucketed(Counted(), range(len(digits)), [found], 1) == sum(i * d for i, d in enumerate(digits))
