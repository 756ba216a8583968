"""The paper's transform: M of Eq. (29), its exact inverse, and that it hides nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from flwr_faa.crypto.aont import inverse, transform


def paper_matrix(n: int, lam: int = 2) -> np.ndarray:
    m = np.eye(n, dtype=np.int64)
    m[-1, :] = m[:, -1] = 1
    m[-1, -1] = lam
    return m


SAMPLES = hnp.array_shapes(min_dims=2, max_dims=4, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-(2**40), 2**40))
)


@given(x=SAMPLES, lam=st.integers(-5, 5))
def test_round_trip_and_the_paper_s_matrix(x: np.ndarray, lam: int) -> None:
    n = x.shape[-2]
    if lam == n - 1:
        with pytest.raises(ValueError, match="singular"):
            transform(x, lam)
        return
    u = transform(x, lam)
    assert (u == paper_matrix(n, lam) @ x).all()
    assert (inverse(u, lam) == x).all()


def test_the_paper_s_size() -> None:
    x = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    u = transform(x)
    assert u.dtype == np.int64 and u.min() >= 0 and u.max() < 2**14
    assert (inverse(u) == x).all()


def test_one_row_is_multiplied_by_lambda() -> None:
    assert transform(np.array([[5, -7]])).tolist() == [[10, -14]]
    assert inverse(np.array([[10, -14]])).tolist() == [[5, -7]]


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 1)])
def test_singular_for_three_rows(shape: tuple[int, ...]) -> None:
    for act in (transform, inverse):
        with pytest.raises(ValueError, match=r"not lambda \+ 1 = 3 \(M is singular\), got 3"):
            act(np.ones(shape, int))


def test_tampering_shows_where_no_integer_gives_it() -> None:
    u = transform(np.arange(64).reshape(1, 8, 8))  # the divisor is 2 - 8 + 1 = -5
    for row in (0, 7):
        u[0, row, 3] += 1
        with pytest.raises(ValueError, match="expected the transform of integers, got 1 columns that are not"):
            inverse(u)
        u[0, row, 3] -= 1
    inverse(u)


@pytest.mark.parametrize("x", [np.zeros((4, 4)), np.ones((4, 4), bool), np.ones(4, int), np.zeros((2, 0, 4), int)])
def test_what_is_no_sample(x: np.ndarray) -> None:
    for act in (transform, inverse):
        with pytest.raises(ValueError, match=r"expected .*, got"):
            act(x)


@pytest.mark.parametrize("value", [2**62, -(2**63), 2**63 - 1])
def test_values_that_could_overflow(value: int) -> None:
    for act in (transform, inverse):
        with pytest.raises(ValueError, match="fits int64"):
            act(np.full((4, 2), value))


@pytest.mark.parametrize(("rows", "lam"), [(1, 2), (4, 2), (4, -5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_are_exact_and_larger_ones_are_refused(rows: int, lam: int, sign: int) -> None:
    most = (2**63 - 1) // (2 * rows + abs(lam))
    x = np.full((rows, 1), sign * most)
    assert transform(x, lam)[:, 0].tolist() == [2 * sign * most] * (rows - 1) + [(rows - 1 + lam) * sign * most]
    for act in (transform, inverse):
        with pytest.raises(ValueError, match=f"whose transform fits int64, got {most + 1}"):
            act(x + sign, lam)


def test_no_samples_and_no_columns() -> None:
    for shape in [(0, 4, 2), (4, 0)]:
        assert transform(np.zeros(shape, int)).shape == inverse(np.zeros(shape, int)).shape == shape


def test_input_is_not_changed() -> None:
    x = np.arange(8).reshape(4, 2)
    inverse(transform(x))
    assert (x == np.arange(8).reshape(4, 2)).all()


def test_the_paper_s_transform_leaks() -> None:
    """No key: guess x_n = min_i u_i from the rows sent in the clear. All of every image with a margin, as MNIST's."""
    digits = load_digits().images.astype(np.int64)
    framed = np.pad(digits, ((0, 0), (1, 1), (1, 1)))
    for images, share in ((framed, 1.0), (digits, 0.8)):
        clear = transform(images)[:, :-1]
        guess = clear.min(axis=1, keepdims=True)
        recovered = np.concatenate([clear - guess, guess], axis=1)
        assert (recovered == images).mean() >= share
