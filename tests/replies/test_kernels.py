"""Compiled or not, the loops over all entries give the same bits, and what their names say."""

import builtins
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_faa.replies import kernels
from flwr_faa.replies.kernels import PLAIN, fastest, network
from flwr_faa.replies.layout import Layout
from flwr_faa.replies.rows import Differences, Matrix, hashed

FAST = fastest(kernels.LARGE)
DTYPES = st.sampled_from([np.float32, np.float64])


def numbers(shape, finite=True):
    return DTYPES.flatmap(
        lambda dtype: hnp.arrays(
            dtype, shape, elements={"allow_nan": not finite, "allow_infinity": not finite, "min_value": None}
        )
    )


def test_a_large_round_is_compiled_and_a_small_one_is_not():
    assert FAST is not PLAIN
    assert fastest(kernels.LARGE - 1) is PLAIN


@settings(deadline=None)
@given(numbers(st.integers(1, 300), finite=False))
def test_the_largest(values):
    (found,), (expected,) = FAST.largest(values[None]), PLAIN.largest(values[None])
    assert np.isfinite(found) == np.isfinite(expected) == np.isfinite(values).all()
    if np.isfinite(expected):
        assert found == expected == np.abs(values).max()


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32))
def test_the_hash(width, seed):
    rng = np.random.default_rng(seed)
    words, keys = rng.integers(2**32, size=width, dtype=np.uint32), rng.integers(2**64, size=width, dtype=np.uint64)
    expected = sum(int(w) * int(k) for w, k in zip(words, keys, strict=True)) % 2**64
    for each in (FAST, PLAIN):
        totals = np.zeros(2, np.uint64)
        each.hash(np.stack([words, words + 1]), keys, totals)
        assert totals[0] == expected != totals[1]


@settings(deadline=None, max_examples=50)
@given(numbers(st.tuples(st.integers(1, 9), st.integers(1, 40))))
def test_centring(x):
    results = []
    for each in (FAST, PLAIN):
        points, median, counts = x.copy(), np.empty(x.shape[1], x.dtype), np.zeros((2, len(x)), np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            each.centre(points, median, *counts)
        results.append((points, median, counts))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(results[0][2], [(x > 0).sum(axis=1), (x != 0).sum(axis=1)])
    with np.errstate(over="ignore", invalid="ignore"):
        ordered = np.sort(x, axis=0)
        np.testing.assert_array_equal(
            results[0][1], (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / x.dtype.type(2)
        )


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_means_between_ranks(data):
    n, columns, dtype = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40)), data.draw(DTYPES)
    low = data.draw(st.integers(0, n - 1))
    high = data.draw(st.integers(low + 1, n))
    x = data.draw(hnp.arrays(dtype, (n, columns), elements={"allow_nan": False, "min_value": -1e6, "max_value": 1e6}))
    found = np.empty((2, columns))
    for each, out in zip((FAST, PLAIN), found, strict=True):
        each.between(x, low, high, out)
    np.testing.assert_array_equal(*found)
    expected = np.sort(x.astype(np.float64), axis=0)[low:high].mean(axis=0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-12, atol=1e-6)


@settings(deadline=None)
@given(numbers(st.integers(1, 100), finite=False), st.floats(0, 1))
def test_adding_keeps_every_bit(values, weight):
    totals = [np.full(len(values), -0.0) for _ in range(2)]
    with np.errstate(over="ignore", invalid="ignore"):
        for total, each in zip(totals, (FAST, PLAIN), strict=True):
            each.add(total, [values, values[::-1].copy()] * 3, [weight, 0.1, 1.0, 0.3, 1e-9, 0.7])
    np.testing.assert_array_equal(*totals)
    np.testing.assert_array_equal(*np.signbit(np.nan_to_num(totals)))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 2000), DTYPES, st.integers(0, 2**32))
def test_products_are_those_of_float64_and_the_same_both_ways(n, width, dtype, seed):
    x = np.random.default_rng(seed).standard_normal((n, width)).astype(dtype)
    found, size = FAST.product(x.copy()), np.linalg.norm(x.astype(np.float64), axis=1)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, found.T)
    wide = x.astype(np.float64) @ x.astype(np.float64).T
    assert (np.abs(found - wide) <= 8 * np.finfo(dtype).eps * np.multiply.outer(size, size)).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 33, 100])
def test_a_network_puts_the_middle_where_it_belongs(n):
    """By the 0-1 principle, on random thresholds: what is right for zeros and ones is right for all numbers."""
    rng = np.random.default_rng(n)
    x = (rng.random((n, 2000)) < rng.random(2000)).astype(np.int8)
    for i, j in network(n):
        x[[i, j]] = np.minimum(x[i], x[j]), np.maximum(x[i], x[j])
    ones = x.sum(axis=0)
    for rank in ((n - 1) // 2, n // 2):
        np.testing.assert_array_equal(x[rank], rank >= n - ones)


def test_without_numba_a_large_round_is_judged_all_the_same(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "numba":
            raise ImportError(name)
        return real(name, *rest)

    kernels._compiled.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    assert fastest(kernels.LARGE) is PLAIN
    kernels._compiled.cache_clear()


def test_what_equals_the_broadcast_is_a_difference_of_zero_in_any_memory_order():
    base = [np.array([[1.0, -np.inf, np.nan], [2, 3, 4]], np.float32), np.array(3), np.ones(2, np.float16)]
    models = [[np.asfortranarray(base[0]), np.array(9), base[2]], [base[0].copy(), np.array(1), base[2] * 3]]
    models[1][0][1] += 1
    rows = Differences(models, base, Layout.of(base))
    assert rows.shape == (2, 8) and rows.dtype == np.float32
    whole = np.empty((2, 8), np.float32)
    rows.read([0, 1], slice(0, 8), whole)
    np.testing.assert_array_equal(whole, [[0] * 8, [0, 0, 0, 1, 1, 1, 2, 2]])
    part = np.empty((1, 4), np.float32)
    rows.read([1], slice(4, 8), part)
    np.testing.assert_array_equal(part, whole[1:, 4:])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**64), st.integers(1, 70_000), st.integers(0, 31))
def test_one_bit_changes_the_fingerprint_and_the_place_of_a_row_does_not(key, width, bit):
    rng = np.random.default_rng(width)
    x = np.tile(rng.standard_normal(width).astype(np.float32), (3, 1))
    x[1].view(np.uint32)[rng.integers(width)] ^= np.uint32(1 << bit)
    one, other, again = hashed(Matrix(x), [0, 1, 2], key)
    assert one == again != other
    assert hashed(Matrix(x), [1, 0], key) == [other, one]
    assert hashed(Matrix(x), [0], key + 1) != [one]
