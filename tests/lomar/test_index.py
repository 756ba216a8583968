"""The index: few points are found exactly, many nearly; candidates are measured without projection, piece by piece."""

from importlib.util import find_spec

import numpy as np
import pytest

from flwr_lomar import index

WITH_FAISS = pytest.mark.skipif(find_spec("faiss") is None, reason="needs faiss, of the extra 'large'")


def points(n, d, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def exact(x):
    """Mean distances to the 1 and the 3 nearest others, of every pair."""
    away = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    np.fill_diagonal(away, np.inf)
    away.sort(axis=1)
    return away[:, 0], away[:, :3].mean(axis=1)


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


class TestNearestByIndex:
    @WITH_FAISS
    @pytest.mark.parametrize("n", [4, 40, 100])
    def test_few_points_of_few_columns_are_found_exactly(self, n):
        same(index.nearest_by_index(points(n, 64), 0), exact(points(n, 64)))

    @WITH_FAISS
    @pytest.mark.parametrize("d", [3, 70])
    def test_in_many_cells_nearly_all_are_found(self, d):
        """The points lie in little groups, as clients do who hold the same labels."""
        x = (np.repeat(10 * points(100, d, 1), 4, axis=0) + points(400, d)).astype(np.float32)
        one, three = index.nearest_by_index(x, 0)
        least, mean = exact(x)
        assert (one >= (1 - 1e-5) * least).all() and (one <= (1 + 1e-5) * least).mean() > 0.95
        assert (three >= (1 - 1e-5) * mean).all() and (three <= (1 + 1e-5) * mean).mean() > 0.95

    @WITH_FAISS
    def test_each_has_as_many_candidates_beside_itself_as_are_wanted(self, monkeypatch):
        monkeypatch.setattr(index, "CANDIDATES", 3)
        same(index.nearest_by_index(points(50, 5), 0), exact(points(50, 5)))
        monkeypatch.setattr(index, "CANDIDATES", 2)
        assert np.isinf(index.nearest_by_index(points(50, 5), 0)[1]).all()

    @WITH_FAISS
    def test_points_of_no_columns_are_all_the_same(self):
        one, three = index.nearest_by_index(np.zeros((5, 0), np.float32), 0)
        assert one.tolist() == three.tolist() == [0.0] * 5

    @WITH_FAISS
    def test_one_seed_one_result(self):
        x = points(200, 500)
        one, other, another = (index.nearest_by_index(x, seed)[1] for seed in (1, 1, 2))
        assert (one == other).all() and not (one == another).all()


class TestProjected:
    def test_points_of_64_columns_stay_as_they_are_and_wider_ones_get_64(self):
        x = points(6, 64, dtype=np.float64)
        assert (index.projected(x, 0) == x.astype(np.float32)).all()
        wide = index.projected(np.asfortranarray(points(6, 65, dtype=np.float64)), 0)
        assert wide.shape == (6, 64) and wide.dtype == np.float32 and wide.flags.c_contiguous

    def test_distances_are_kept_to_a_tenth_or_so(self):
        x = points(60, 1000)
        away, after = (
            np.linalg.norm(a[:, None] - a, axis=2)[np.triu_indices(60, 1)] for a in (x, index.projected(x, 3))
        )
        ratio = after / away / 8  # of 64 directions of length one each
        assert 0.97 < ratio.mean() < 1.03 and 0.05 < ratio.std() < 0.15

    def test_the_directions_come_from_the_seed(self):
        x = points(3, 100)
        assert (index.projected(x, 1) == index.projected(x, 1)).all()
        assert not (index.projected(x, 1) == index.projected(x, 2)).any()


class TestNearestOf:
    @pytest.mark.parametrize("rows", [1, 4, 7, 30], ids="{} rows at a time".format)
    def test_all_others_as_candidates_give_the_exact_answer(self, monkeypatch, rows):
        x = points(30, 6)
        monkeypatch.setattr(index, "GATHERED", rows * 30 * 6)
        same(index.nearest_of(x, np.tile(np.arange(30), (30, 1))), exact(x))

    def test_less_room_than_one_row_takes_is_room_for_one(self, monkeypatch):
        monkeypatch.setattr(index, "GATHERED", 1)
        same(index.nearest_of(points(9, 6), np.tile(np.arange(9), (9, 1))), exact(points(9, 6)))

    def test_only_candidates_count_and_neither_itself_nor_a_number_below_0(self):
        x = np.array([[0.0], [1.0], [3.0], [7.0]])
        found = np.array([[0, 2, 3, 1], [-1, 1, 2, 0], [-1, -2, 3, 2], [0, 1, 2, -1]])
        one, three = index.nearest_of(x, found)
        assert one.tolist() == [1, 1, 4, 4]
        np.testing.assert_allclose(three, [11 / 3, np.inf, np.inf, 17 / 3])


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(index, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"expected faiss .* pip install 'flwr-anomaly\[large\]'"):
        index.require_faiss()
    monkeypatch.setattr(index, "find_spec", lambda name: name == "faiss" or None)
    index.require_faiss()
