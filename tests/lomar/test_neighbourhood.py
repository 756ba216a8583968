"""Neighbours and ties, columns of labels, what can be measured, and updates seen by place and by answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_lomar.neighbourhood import Seen, cloud_of, neighbours, split_columns


def squared_distances(x):
    return ((x[:, None].astype(np.float64) - x) ** 2).sum(axis=2)


class TestNeighbours:
    @given(data=st.data(), n=st.integers(2, 12))
    def test_they_are_the_nearest_others_and_ties_go_to_the_first(self, data, n):
        k = data.draw(st.integers(1, n - 1))
        line = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.float64)
        squared = (line[:, None] - line) ** 2
        before = squared.copy()
        found = neighbours(squared, k)
        expected = [sorted(sorted({*range(n)} - {i}, key=lambda j, i=i: (squared[i, j], j))[:k]) for i in range(n)]
        assert np.sort(found.index, axis=1).tolist() == expected
        assert found.member.tolist() == [[float(j in near) for j in range(n)] for near in expected]
        assert (squared == before).all()

    @pytest.mark.parametrize("k", [1, 40, 400])
    def test_of_many(self, k):
        squared = squared_distances(np.random.default_rng(k).normal(size=(600, 3)))
        nearest = np.argsort(squared, axis=1)[:, 1 : k + 1]  # without oneself
        assert (np.sort(neighbours(squared, k).index, axis=1) == np.sort(nearest, axis=1)).all()


class TestSplitColumns:
    @pytest.mark.parametrize(
        ("blocks", "d", "columns", "rest"),
        [
            (None, 3, [[0, 1, 2]], []),
            ([], 3, [[0, 1, 2]], []),
            (None, None, [[]], []),
            ([[3, 1], [0]], 5, [[1, 3], [0]], [2, 4]),
            ([[4], [], np.uint8([0])], 5, [[4], [], [0]], [1, 2, 3]),
            (np.array([[0, 1], [2, 3]]), 4, [[0, 1], [2, 3]], []),
            ([[3, 0]], None, [[0, 3]], [1, 2]),
            ([[], []], None, [[], []], []),
            ([[0], [1]], 2, [[0], [1]], []),
        ],
    )
    def test_columns_of_each_block_in_order_and_those_of_none(self, blocks, d, columns, rest):
        found, others = split_columns(blocks, d)
        assert [block.tolist() for block in found] == columns and others.tolist() == rest
        assert all(block.dtype == np.intp for block in (*found, others))

    @pytest.mark.parametrize(
        ("blocks", "d", "why"),
        [
            (3, 5, "a sequence of columns, got int"),
            ([[5]], 5, "columns from 0 to 4 in label_blocks, got 5 to 5"),
            ([[0, 9]], 5, "columns from 0 to 4 in label_blocks, got 0 to 9"),
            ([[0], [1, -1]], 5, "columns from 0 to 4 in label_blocks, got -1 to 1"),
            ([[-1]], None, "got -1 to -1"),
            ([[0, 1], [2, 1], [1]], 5, "disjoint label_blocks, got column 1 3 times"),
            ([[0, 0]], None, "got column 0 2 times"),
            ([0, 1], 5, "a list of column numbers in label_blocks, got 0"),
            ([[[0], [1]]], 5, "a list of column numbers"),
            ([[0.0]], 5, "a list of column numbers in label_blocks, got .0.0."),
            ([[True, False]], 5, "a list of column numbers"),
            (["0"], 5, "a list of column numbers"),
            ([["a" * 99]], 5, r"got \['a{58}$"),
        ],
    )
    def test_anything_else_is_refused(self, blocks, d, why):
        with pytest.raises(ValueError, match=f"expected .*{why}"):
            split_columns(blocks, d)


class TestCloudOf:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("d", [1, 10])
    def test_updates_are_taken_up_to_where_squares_may_overflow(self, d, dtype):
        """Two updates of opposite sign are 2 |u| apart; the rest of the limit is for sums and centring."""
        limit = math.sqrt(float(np.finfo(dtype).max) / d) / 3
        x = np.ones((2, d), dtype)
        x[0] = 0.999 * limit
        x[1] = -x[0]
        assert np.isfinite(cloud_of(x).whole.squared).all()
        x[0, -1] = 1.001 * limit
        with pytest.raises(ValueError, match="expected finite updates with finite squares"):
            cloud_of(x)
        assert len(cloud_of(x[:1])) == 1  # who has no others has no distances
        assert np.isfinite(cloud_of(x, free=True).whole.squared).all()

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_statistics_are_in_no_distance_and_not_looked_at(self, bad, n):
        x = np.arange(8.0).reshape(2, 4)[:n]
        x[0, 3] = bad
        cloud = cloud_of(x, [[2], [0]], statistics=1)
        assert (cloud.width, [block.tolist() for block in cloud.label_blocks]) == (3, [[2], [0]])
        assert (cloud.whole.squared == 48 * (1 - np.eye(n))).all()
        np.testing.assert_array_equal(cloud.statistics, x[:, 3:])
        for free in (False, True):
            with pytest.raises(ValueError, match="expected finite updates"):
                cloud_of(x, [[2], [0]], free=free)

    def test_a_column_of_statistics_belongs_to_no_label(self):
        with pytest.raises(ValueError, match="columns from 0 to 2 in label_blocks, got 3 to 3"):
            cloud_of(np.ones((2, 4)), [[3]], statistics=1)

    @pytest.mark.parametrize("none", [None, (), []])
    def test_without_labels_a_cloud_has_none(self, none):
        assert cloud_of(np.asfortranarray(np.eye(3)), none).label_blocks == ()


#: Two labels and a column of none, and two columns of statistics. The second update and the last are equal.
X = np.array([[5, 1, 0, 9, 8], [1, 2, 3, 6, 1], [0, 4, 1, 4, 3], [7, 7, 7, 2, 2], [1, 2, 3, 0, 5.0]])
LABELS = [[0], [2]]


class TestSeen:
    def test_all_updates_answer_in_the_order_of_the_rows(self):
        cloud = cloud_of(X, LABELS, statistics=2)
        seen = Seen.of_all(cloud)
        assert seen.several and (seen.statistics == X[:, 3:]).all()
        for block, columns in zip((*seen.labels(), seen.blocks["update"]), ([0], [2], [0, 1, 2]), strict=True):
            by_answer = np.empty((5, 5))
            by_answer[np.ix_(seen.number, seen.number)] = block.squared
            np.testing.assert_allclose(by_answer, squared_distances(X[:, columns]))
        np.testing.assert_allclose(seen.blocks["classifier"].squared[np.ix_(seen.place, seen.place)],
                                   squared_distances(X[:, [0, 2]]))  # fmt: skip
        np.testing.assert_allclose(seen.blocks["backbone"].squared[np.ix_(seen.place, seen.place)],
                                   squared_distances(X[:, [1]]))  # fmt: skip

    def test_equal_updates_share_the_place_of_the_first(self):
        x = X[:, :3]
        seen = Seen.of_all(cloud_of(x, LABELS))
        assert seen.place[1] == seen.place[4] and len(set(seen.place)) == 4
        assert sorted(seen.number) == [0, 1, 2, 3, 4]
        assert (x[seen.number[seen.place]] == x).all()

    @pytest.mark.parametrize("missing", range(5))
    def test_some_updates_answer_in_the_order_they_are_named_in(self, missing):
        cloud = cloud_of(X, LABELS, statistics=2)
        rows = np.array([k for k in range(5) if cloud.order[k] != missing])
        named = X[[cloud.order[k] for k in rows]]
        seen = Seen.of_some(cloud, rows)
        assert (seen.statistics == named[:, 3:]).all() and seen.number.tolist() == [0, 1, 2, 3]
        for block, columns in zip((*seen.labels(), seen.blocks["update"]), ([0], [2], [0, 1, 2]), strict=True):
            np.testing.assert_allclose(block.squared, squared_distances(named[:, columns]))
            assert len(block.norms) == 4

    def test_without_labels_all_columns_are_the_one_label(self):
        seen = Seen.of_all(cloud_of(X))
        assert not seen.several and list(seen.blocks) == ["update"]
        (block,) = seen.labels()
        np.testing.assert_allclose(block.squared[np.ix_(seen.place, seen.place)], squared_distances(X))
        assert not Seen.of_all(cloud_of(X, [[0, 1, 2, 3, 4]])).several
