"""Phase I against a second implementation in mpmath, and what must not change it."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_faa.detection import geometry
from flwr_lomar.paper.factor import (
    log_density,
    log_ratio,
    malicious_factor,
    neighbourhood_size,
    relative_bandwidth,
)

mp.mp.dps = 40


def distance(a, b, columns):
    """Squared, exact to 40 digits."""
    return mp.fsum((mp.mpf(float(a[c])) - mp.mpf(float(b[c]))) ** 2 for c in columns)


def oracle(updates, blocks, k, kernel, bandwidth, relative):
    """Eqs. 4-9 as they are written, with densities and not their logarithms; log F at the very end."""
    n, all_columns = len(updates), range(updates.shape[1])

    def nearest(row, others):
        return sorted(others, key=lambda j: distance(row, updates[j], all_columns))[:k]

    near = [nearest(updates[i], [j for j in range(n) if j != i]) for i in range(n)]
    factors = [mp.mpf(1)] * n
    for columns in blocks:
        h = mp.mpf(bandwidth)
        if relative:
            means = sorted(mp.fsum(distance(updates[i], updates[j], columns) for j in near[i]) / k for i in range(n))
            median = (means[(n - 1) // 2] + means[n // 2]) / 2
            h *= median if kernel == "appendix" else mp.sqrt(median)

        def density(row, neighbours, columns=columns, h=h):
            terms = []
            for j in neighbours:
                d2 = distance(row, updates[j], columns)
                exponent = {"printed": mp.sqrt(d2) / (2 * h), "appendix": d2 / (2 * h), "gaussian": d2 / (2 * h * h)}
                terms.append(mp.exp(-exponent[kernel]) / (mp.sqrt(2 * mp.pi) * h))
            return mp.fsum(terms) / len(terms)

        q = [density(updates[i], near[i]) for i in range(n)]
        for i in range(n):
            factors[i] *= mp.fsum(q[j] for j in near[i]) / (k * q[i])
    return np.array([float(mp.log(f)) for f in factors])


def draw(seed, n, labels, width=3, rest=2, scale=1.0, dtype=np.float64):
    """Random updates of unequal norms, and shuffled label blocks."""
    rng = np.random.default_rng(seed)
    d = labels * width + rest
    updates = (scale * rng.normal(size=(n, d)) * rng.lognormal(0, 0.5, (n, 1)) + scale * rng.normal()).astype(dtype)
    return updates, list(rng.permutation(d)[: labels * width].reshape(labels, width))


def close(ours, theirs, tolerance=1e-9):
    """Relative error of F, or of log F where F leaves float64."""
    return np.all(np.abs(ours - theirs) <= tolerance * np.maximum(1, np.abs(theirs)))


class TestOracle:
    @pytest.mark.parametrize("labels", range(1, 11))
    @pytest.mark.parametrize("kernel", ["printed", "appendix", "gaussian"])
    def test_constant_bandwidth(self, labels, kernel):
        updates, blocks = draw(labels, 11, labels)
        ours = malicious_factor(updates, blocks, k=0.4, kernel=kernel, bandwidth=1.0, relative=False)
        assert close(ours.log_factor, oracle(updates, blocks, 4, kernel, 1.0, False))
        assert close(ours.log_factor, ours.log_factor_by_label.sum(axis=1))

    @pytest.mark.parametrize("labels", [1, 4, 10])
    @pytest.mark.parametrize("kernel", ["printed", "appendix", "gaussian"])
    def test_relative_bandwidth(self, labels, kernel):
        updates, blocks = draw(labels, 12, labels)
        read = "".join(list(kernel))  # as from a file, and no object of the code's
        ours = malicious_factor(updates, blocks, k=5, kernel=read, bandwidth=0.7, relative=True)
        assert close(ours.log_factor, oracle(updates, blocks, 5, kernel, 0.7, True))

    @pytest.mark.parametrize("scale", [30.0, 1e3, 1e5])
    @pytest.mark.parametrize("kernel", ["printed", "gaussian"])
    def test_exponentials_that_underflow(self, scale, kernel):
        updates, blocks = draw(3, 12, 4, scale=scale)
        expected = oracle(updates, blocks, 4, kernel, 1.0, False)
        assert np.abs(expected).max() > 10
        ours = malicious_factor(updates, blocks, kernel=kernel, bandwidth=1.0, relative=False)
        assert close(ours.log_factor, expected)

    def test_one_neighbour_and_all_neighbours(self):
        updates, blocks = draw(5, 9, 2)
        for k in (1, 8):
            ours = malicious_factor(updates, blocks, k=k, kernel="printed", bandwidth=2.0, relative=False)
            assert close(ours.log_factor, oracle(updates, blocks, k, "printed", 2.0, False))

    @pytest.mark.parametrize("offset", [0.0, 1.0])
    def test_float32_is_as_good_as_a_centred_float32_product(self, offset):
        updates, blocks = draw(8, 60, 5, width=50, rest=30, scale=1e-3)
        updates = (updates + offset).astype(np.float32)
        single = malicious_factor(updates, blocks)
        double = malicious_factor(updates.astype(np.float64), blocks)
        np.testing.assert_array_equal(np.sort(single.neighbours), np.sort(double.neighbours))
        np.testing.assert_allclose(single.log_factor, double.log_factor, atol=2e-5)


class TestOrder:
    @given(
        seed=st.integers(0, 2**32 - 1),
        n=st.integers(2, 40),
        labels=st.integers(1, 4),
        clones=st.integers(0, 12),
        dtype=st.sampled_from([np.float32, np.float64]),
        preset=st.sampled_from([{}, {"kernel": "printed", "relative": False}]),
    )
    @settings(max_examples=60)
    def test_permuted_rows_have_permuted_answers_bit_for_bit(self, seed, n, labels, clones, dtype, preset):
        rng = np.random.default_rng(seed)
        updates, blocks = draw(seed, n, labels, dtype=dtype)
        updates = np.concatenate([updates, updates[rng.integers(0, n, clones)]])
        order = rng.permutation(len(updates))
        straight, mixed = (
            malicious_factor(updates, blocks, **preset),
            malicious_factor(updates[order], blocks, **preset),
        )
        np.testing.assert_array_equal(mixed.log_factor, straight.log_factor[order])
        np.testing.assert_array_equal(mixed.log_factor_by_label, straight.log_factor_by_label[order])
        np.testing.assert_array_equal(mixed.log_density, straight.log_density[order])
        np.testing.assert_array_equal(mixed.bandwidth, straight.bandwidth)

    def test_large_enough_for_every_kernel_of_blas(self, monkeypatch):
        monkeypatch.setattr(geometry, "CHUNK", 970)
        updates, blocks = draw(1, 131, 10, width=97, rest=1500, dtype=np.float32)
        updates[[3, 50, 120]] = updates[7]
        order = np.random.default_rng(0).permutation(131)
        straight, mixed = malicious_factor(updates, blocks), malicious_factor(updates[order], blocks)
        np.testing.assert_array_equal(mixed.log_factor, straight.log_factor[order])
        assert len(set(straight.log_factor[[3, 50, 120, 7]])) == 1

    def test_what_is_not_kept_is_computed_again(self, monkeypatch):
        updates, blocks = draw(2, 30, 6, width=20)
        kept = malicious_factor(updates, blocks)
        for keep in (0, 3 * 30 * 30 * 8):
            monkeypatch.setattr(geometry, "KEEP", keep)
            np.testing.assert_array_equal(malicious_factor(updates, blocks).log_factor, kept.log_factor)

    def test_memory_order_does_not_matter(self):
        updates, blocks = draw(2, 20, 3)
        np.testing.assert_array_equal(
            malicious_factor(np.asfortranarray(updates), blocks).log_factor,
            malicious_factor(updates, blocks).log_factor,
        )


class TestScale:
    @pytest.mark.parametrize("kernel", ["printed", "appendix", "gaussian"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_relative_bandwidths_are_free_of_units(self, kernel, dtype):
        updates, blocks = draw(4, 40, 5, dtype=dtype)
        plain = malicious_factor(updates, blocks, kernel=kernel)
        doubled = malicious_factor(updates * dtype(2.0**-20), blocks, kernel=kernel)
        np.testing.assert_array_equal(doubled.log_factor, plain.log_factor)
        scaled = malicious_factor(updates * dtype(123.4), blocks, kernel=kernel)
        np.testing.assert_allclose(scaled.log_factor, plain.log_factor, atol=2e-5 if dtype == np.float32 else 1e-12)

    def test_one_enormous_update_does_not_drown_the_distances_between_the_others(self):
        honest, blocks = draw(9, 40, 3, width=40, dtype=np.float32)
        attacked = np.concatenate([honest, np.full((1, honest.shape[1]), 1e7, np.float32)])
        alone, among = malicious_factor(honest, blocks, k=8), malicious_factor(attacked, blocks, k=8)
        np.testing.assert_array_equal(np.sort(among.neighbours[:40]), np.sort(alone.neighbours))
        assert among.log_factor.argmax() == 40


class TestDegenerate:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("relative", [True, False])
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_few_updates(self, n, relative, dtype):
        updates, blocks = draw(n, n, 3, dtype=dtype)
        answer = malicious_factor(updates, blocks, relative=relative)
        assert answer.neighbours.shape == (n, [0, 1, 1, 1, 2][n - 1])
        assert np.isfinite(answer.log_factor).all()
        assert answer.log_factor_by_label.shape == (n, 3)
        if n <= 2:
            np.testing.assert_array_equal(answer.log_factor, 0)

    @pytest.mark.parametrize("value", [0.0, 0.1, -1234.5])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_equal_updates(self, value, dtype):
        answer = malicious_factor(np.full((7, 30), value, dtype), [np.arange(10), np.arange(10, 20)])
        np.testing.assert_array_equal(answer.log_factor, 0)
        np.testing.assert_array_equal(answer.bandwidth, 0)

    def test_mostly_equal_updates_take_the_mean(self):
        updates = np.zeros((20, 5))
        updates[:3] = np.random.default_rng(0).normal(size=(3, 5))
        answer = malicious_factor(updates)
        assert answer.bandwidth[0] > 0
        assert (answer.log_factor[:3] > 0).all()
        np.testing.assert_array_equal(answer.log_factor[3:], 0)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_label_that_is_empty_or_frozen_has_no_say(self, dtype):
        updates, blocks = draw(3, 25, 3, dtype=dtype)
        frozen = np.concatenate([updates, np.full((25, 4), 0.1, dtype)], axis=1)
        with_more = malicious_factor(frozen, [*blocks, [], np.arange(frozen.shape[1] - 4, frozen.shape[1])])
        np.testing.assert_array_equal(with_more.log_factor_by_label[:, 3:], 0)
        np.testing.assert_allclose(with_more.log_factor, malicious_factor(updates, blocks).log_factor, atol=1e-5)

    def test_k_beyond_the_others_means_all_others(self):
        updates, blocks = draw(3, 6, 2)
        np.testing.assert_array_equal(
            malicious_factor(updates, blocks, k=100).log_factor, malicious_factor(updates, blocks, k=5).log_factor
        )
        shares = (0.4, 0.29, np.float32(0.29), 0.299, 0.001, 1.0, 1, 99, 1000)
        assert [neighbourhood_size(k, 100) for k in shares] == [40, 29, 29, 29, 1, 99, 1, 99, 99]
        assert [neighbourhood_size(k, n) for n in (1, 2, 3) for k in (0.4, 2)] == [0, 0, 1, 1, 1, 2]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
    @pytest.mark.parametrize("n", [1, 2, 9])
    def test_values_that_cannot_be_scored(self, bad, n):
        updates = draw(1, n, 1, dtype=np.float32)[0]
        updates[-1, 2] = bad
        if n == 1 and np.isfinite(bad):
            assert malicious_factor(updates).log_factor == [0]
        else:
            with pytest.raises(ValueError, match="expected finite"):
                malicious_factor(updates)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"k": 0}, {"k": 1.5}, {"k": True}, {"k": np.nan}, {"bandwidth": 0}, {"bandwidth": np.inf},
            {"bandwidth": True}, {"bandwidth": "1"}, {"bandwidth": -1.0}, {"bandwidth": 1e-160}, {"bandwidth": 1e160},
            {"kernel": "cosine"}, {"label_blocks": [[0, 1], [1, 2]]}, {"label_blocks": [[0, 99]]},
            {"label_blocks": [[-1]]},
        ],
    )  # fmt: skip
    def test_arguments_out_of_range(self, arguments):
        with pytest.raises(ValueError, match="expected"):
            malicious_factor(draw(1, 9, 1)[0], **arguments)

    @pytest.mark.parametrize(
        "updates", [np.zeros(4), np.zeros((2, 2, 2)), np.zeros((0, 3)), np.zeros((3, 0)), np.eye(3, dtype=int)]
    )
    def test_what_is_no_matrix_of_floats(self, updates):
        with pytest.raises(ValueError, match=r"expected a matrix of float32 or float64, got (float|int)64 of shape \("):
            malicious_factor(updates)
        assert malicious_factor(np.zeros((1, 1), np.float32)).log_factor.tolist() == [0]

    @pytest.mark.parametrize(("blocks", "labels"), [(None, 1), ([[0]], 1), ([[0], [2], [1, 3]], 3)])
    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_shapes(self, n, blocks, labels):
        found = malicious_factor(np.random.default_rng(n).normal(size=(n, 4)), blocks, k=2)
        shapes = {name: value.shape for name, value in vars(found).items()}
        assert shapes == {
            "log_factor": (n,), "log_factor_by_label": (n, labels), "log_density": (n, labels), "bandwidth": (labels,),
            "neighbours": (n, min(2, n - 1)), "place": (n,),
        }  # fmt: skip
        assert sorted(found.place) == list(range(n))

    def test_what_is_not_said_is_four_tenths_a_gaussian_and_a_relative_bandwidth_without_a_floor(self):
        updates, blocks = draw(6, 15, 2)
        said = malicious_factor(updates, blocks, k=6, kernel="gaussian", bandwidth=1.0, relative=True, least=0.0)
        np.testing.assert_array_equal(malicious_factor(updates, blocks).log_factor, said.log_factor)
        floored = malicious_factor(updates, blocks, least=10.0).bandwidth
        lengths = [np.median(np.linalg.norm(updates[:, columns], axis=1)) for columns in blocks]
        np.testing.assert_allclose(floored, 10 * np.array(lengths))


class TestByHand:
    @pytest.mark.parametrize(
        ("kernel", "noise", "least", "h"),
        [
            ("gaussian", 0.0, 0.0, 0.5 * 2),
            ("printed", 3.9, 0.0, 0.5 * 2),
            ("appendix", 3.9, 0.0, 0.5 * 4),
            ("gaussian", 4.0, 0.0, 0.5 * 3),  # the median may be rounding: the mean, 9
            ("gaussian", 8.9, 0.0, 0.5 * 3),
            ("gaussian", 9.0, 0.0, 0.0),
            ("gaussian", 9.0, 7.0, 0.0),
            ("gaussian", 0.0, 1.9, 0.5 * 2),
            ("gaussian", 0.0, 5.0, 0.5 * 5),
            ("appendix", 4.0, 5.0, 0.5 * 25),
        ],
    )
    def test_a_relative_bandwidth(self, kernel, noise, least, h):
        """Mean squared distances whose median is 4 and whose mean is 9, and c = 1/2."""
        assert relative_bandwidth(np.array([1.0, 22.0, 4.0]), noise, kernel, 0.5, least) == h

    @pytest.mark.parametrize(
        ("kernel", "exponents"),
        [("gaussian", (4 / 18, 36 / 18)), ("printed", (2 / 6, 1.0)), ("appendix", (4 / 6, 6.0))],
    )
    def test_a_density(self, kernel, exponents):
        """Squared distances 4 and 36, and h = 3."""
        found = log_density(np.array([[4.0, 36.0], [36.0, 36.0]]), kernel, 3.0)
        np.testing.assert_allclose(found, [np.log(np.exp(np.negative(exponents)).mean()), -exponents[1]])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_densities_of_the_extremes(self, dtype):
        squared = np.array([[0, 1], [1, 1]], dtype)
        assert log_density(squared, "gaussian", 0.0).tolist() == [0, 0]
        # A bandwidth whose square float32 has not: whom nothing separates is all that counts.
        np.testing.assert_allclose(log_density(squared, "gaussian", 1e-30), [np.log(0.5), -0.5e60])

    def test_a_ratio(self):
        """Two updates have the neighbours 1, 2 and 0, 2. In the second label, 1 and 2 lie e^1000 times sparser."""
        theirs = np.log([[4.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
        theirs[1:, 1] = [-1000, -1001]
        index, member = np.array([[1, 2], [2, 0]]), np.array([[0, 1, 1], [1, 0, 1.0]])
        found = log_ratio(index, member, theirs, np.array([[0.5, -7.0], [0.0, 3.0]]))
        np.testing.assert_allclose(found[:, 0], [np.log(2) - 0.5, np.log(3.5)])
        np.testing.assert_allclose(found[:, 1], [-1000 + np.log((1 + np.exp(-1)) / 2) + 7, np.log(0.5) - 3])
