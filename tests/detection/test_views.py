"""Each view against its definition, and how much has to be between clients before it counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from flwr_faa.detection.blocks import Block
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.views import (
    View,
    block_views,
    centre_and_spread,
    clamp,
    gross_view,
    harm_views,
    log_nearest,
    lonely,
    number_of_chances,
    pull_of,
    reach_view,
    robust_z,
    statistics_view,
    update_views,
    without_pairs,
)
from flwr_faa.replies.updates import Batch, Layout
from tests.detection.simulate import CROWD_SHAPES, batch_of, crowd

WIDE = 10**6  # columns: so many that nothing is near, or has the same sign, by chance


def block_of(updates, width=WIDE):
    """What is measured of some updates, from the definitions."""
    norms, n = np.linalg.norm(updates, axis=1), len(updates)
    length = np.where(norms > 0, norms, 1)
    median, mean = np.median(updates, axis=0), updates.mean(axis=0)
    to = (updates @ m / length / (np.linalg.norm(m) or 1.0) for m in (median, mean))
    positive = (updates > 0).sum(axis=1) / np.maximum((updates != 0).sum(axis=1), 1)
    return Block(cdist(updates, updates) ** 2, norms, *to, positive, np.full(n, 0.5), 0.0, width)


def median_of_positive(x):
    return np.median(x[x > 0])


def uneven(n=20):
    """Updates of lengths from a hundredth to a hundred, one of them zero and two of them near each other."""
    x = crowd(n, dtype=np.float64) * np.geomspace(1e-2, 1e2, n)[:, None]
    x[4], x[1] = 0, 1.001 * x[2]
    return x


# What is measured


def test_the_views_of_a_block_are_its_measures():
    block, n = block_of(uneven()), 20
    near = np.sort(np.sqrt(block.squared) + np.diag([np.inf] * n), axis=1)
    views = {view.name: view.values for view in block_views(block, "update", 1.0, 0.0)}
    assert list(views) == [f"update {k} nearest" for k in (1, 2, 3, 8, 12)] + [
        "update norm", "update direction", "update cosine", "update signs"
    ]  # fmt: skip
    for k in (1, 2, 3, 8, 12):
        mean = near[:, :k].mean(axis=1)
        np.testing.assert_allclose(views[f"update {k} nearest"], np.log(mean / np.median(mean)), atol=1e-12)
    length = np.maximum(block.norms / median_of_positive(block.norms), 1e-6)
    np.testing.assert_allclose(views["update norm"], np.log(length), atol=1e-12)
    np.testing.assert_allclose(views["update direction"], np.log(np.maximum(1 - block.to_median, 1e-12)))
    np.testing.assert_array_equal(views["update cosine"], block.to_mean)
    np.testing.assert_array_equal(views["update signs"], block.positive)


def test_without_verification_what_is_below_a_twentieth_of_the_usual_length_is_the_same():
    block, n = block_of(uneven()), 20
    near = np.sort(np.sqrt(block.squared) + np.diag([np.inf] * n), axis=1)
    views = {view.name: view.values for view in block_views(block, "update", 1.0, 0.05)}
    floor = 0.05 * np.median(block.norms)
    assert (near[:, 2] < floor).any()
    for k in (3, 8, 12):
        mean = near[:, :k].mean(axis=1)
        expected = np.log(np.maximum(mean, floor) / np.median(mean))
        np.testing.assert_allclose(views[f"update {k} nearest"], expected, atol=1e-12)
    most = near[:, :12].mean(axis=1)
    for k in (1, 2):
        told = without_pairs(near[:, :k].mean(axis=1), most, np.median(block.norms))
        np.testing.assert_allclose(views[f"update {k} nearest"], np.log(told / np.median(told)), atol=1e-12)
    norm = np.log(np.maximum(block.norms, floor) / median_of_positive(block.norms))
    np.testing.assert_allclose(views["update norm"], norm, atol=1e-12)
    np.testing.assert_allclose(views["update direction"], np.log(np.maximum(1 - block.to_median, 0.05**2 / 2)))
    np.testing.assert_array_equal(views["update pull"], pull_of(block.to_mean, block.norms))


def test_an_update_along_the_median_is_turned_by_nothing():
    turned = replace(block_of(crowd(20)), to_median=np.full(20, 1.0))
    for same, least in ((0.0, 1e-12), (0.05, 0.00125)):
        (view,) = (v for v in block_views(turned, "update", 1.0, same) if v.name == "update direction")
        np.testing.assert_allclose(view.values, math.log(least))


def test_distances_norms_and_turns_read_as_factors_and_shares_and_cosines_as_they_are():
    factors = {view.name.removeprefix("update "): view.log for view in block_views(even(), "update", 1.0, 0.05)}
    assert [name for name, log in factors.items() if not log] == ["cosine", "signs", "pull"]
    values = np.full(20, 0.5)
    values[3] = 0.8
    for view in block_views(even(), "update", 1.0, 0.05):
        told = replace(view, values=values).explain(3)
        assert (" 1.3x " in told) is view.log and ("0.8, higher than the usual 0.5" in told) is not view.log
    words = [str(view.what) for view in block_views(even(), "update", 1.0, 0.0)]
    assert words[:3] == ["update: nearest neighbour", "update: 2 nearest neighbours", "update: 3 nearest neighbours"]


@pytest.mark.parametrize(
    ("k", "n", "number"),
    [(0.2, 10, 1), (2.4, 10, 2), (12, 20, 12), (19, 20, 19), (20, 20, 19), (3, 4, 3), (3, 2, 1), (3, 1, 1)],
)
def test_nobody_has_more_neighbours_than_others_nor_none(k, n, number):
    assert clamp(k, n) == number


def test_distances_to_neighbours_are_told_in_those_that_are_usual():
    block = block_of(np.array([[0.0], [0.25], [1.0], [3.0]]))
    np.testing.assert_allclose(log_nearest(block, 1, 0.0), np.log(np.array([0.25, 0.25, 0.75, 2]) / 0.5))
    np.testing.assert_allclose(log_nearest(block, 2, 0.6), np.log(np.array([0.625, 0.6, 0.875, 2.375]) / 0.75))
    np.testing.assert_array_equal(log_nearest(block_of(np.zeros((1, 3))), 1, 0.0), [0.0])
    np.testing.assert_allclose(log_nearest(block_of(np.ones((4, 3))), 1, 0.0), math.log(1e-6))
    # A clone's distance is a millionth of the usual, which is the median of those that are above zero.
    clones = log_nearest(block_of(np.array([[0.0], [0.0], [0.5], [2.5]])), 1, 0.0)
    np.testing.assert_allclose(clones, np.log([1e-6, 1e-6, 0.5 / 1.25, 2 / 1.25]))


@pytest.mark.parametrize(
    ("near", "told"),
    [
        (8.0, 8.0),  # as usual
        (4.5, 4.5),
        (3.5, 4.0),  # nearer than half: a pair with the same labels explains it
        (0.5, 4.0),
        (0.49, 0.49),  # below a hundredth of the usual length: a copy
        (15.0, 15.0),
        (17.0, 16.0),  # farther than twice: it has labels that no other has
        (30.0, 16.0),
        (30.1, 30.1),  # farther than one and a half times what is usual between two clients: alone
    ],
)
def test_what_honest_pairs_explain_counts_as_a_factor_of_two(near, told):
    others = np.full(5, 8.0)
    found = without_pairs(np.array([*others, near]), np.full(6, 20.0), 50.0)
    np.testing.assert_array_equal(found, [*others, told])


def test_where_all_are_the_same_nobody_copies():
    near = np.array([5.0, 5.0, 5.0, 0.5])
    np.testing.assert_array_equal(without_pairs(near, np.full(4, 20.0), 100.0), [5.0, 5.0, 5.0, 5.0])
    near = np.array([5.1, 5.1, 5.1, 0.5])
    np.testing.assert_array_equal(without_pairs(near, np.full(4, 20.0), 100.0), [5.1, 5.1, 5.1, 0.5])


def test_only_who_is_longer_than_twice_the_usual_pulls():
    to_mean, norms = np.array([0.1, 0.2, 0.3, 0.4, 0.9]), np.array([1.0, 1.0, 1.0, 2.0, 2.1])
    np.testing.assert_array_equal(pull_of(to_mean, norms), [0.3, 0.3, 0.3, 0.3, 0.9])


@pytest.mark.parametrize(("n", "nearest"), [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 4)])
def test_reach_is_the_distance_to_half_of_the_others(n, nearest):
    updates = crowd(n, dtype=np.float64)
    cloud = Cloud.of(batch_of(updates))
    half = np.sort(cdist(updates, updates), axis=1)[:, nearest]
    values = np.log(np.maximum(half, np.median(np.linalg.norm(updates, axis=1))) / np.median(half))
    np.testing.assert_allclose(cloud.by_row(reach_view(cloud).values), values, atol=1e-9)
    assert reach_view(Cloud.of(batch_of(np.ones((1, 3))))).among(4.0).tolist() == [0.0]


@pytest.mark.parametrize("n", [5, 6, 9])
def test_who_is_far_from_equal_ones_is_seen_without_a_detector(n):
    """Six times the usual length away, or fifteen times with fewer than six clients."""
    factor = 15 if n < 6 else 6
    for times, seen in ((0.99 * factor, False), (1.01 * factor, True)):
        updates = np.zeros((n, 3))
        updates[:, 0], updates[2, 1] = 1.0, times
        cloud = Cloud.of(batch_of(updates))
        assert np.flatnonzero(cloud.by_row(lonely(cloud))).tolist() == [2] * seen
    # Others who differ by more than a millionth of that are for the detector to judge.
    for apart, seen in ((1e-3, False), (1e-7, True)):
        updates = np.random.default_rng(0).normal(size=(n, 50)) * apart
        updates[:, 0] += 1.0
        updates[2, 1] = 1000.0
        cloud = Cloud.of(batch_of(updates))
        assert np.flatnonzero(cloud.by_row(lonely(cloud))).tolist() == [2] * seen


def test_a_group_of_less_than_half_is_far_too():
    updates = np.zeros((9, 3))
    updates[:, 0], updates[[1, 3, 4, 8], 1] = 1.0, 100.0
    cloud = Cloud.of(batch_of(updates))
    assert np.flatnonzero(cloud.by_row(lonely(cloud))).tolist() == [1, 3, 4, 8]


def test_running_statistics_count_alike_in_every_unit():
    changes = np.array([[0.0, 1.0, 5.0], [1, 1, 5], [2, 3, 5], [3, 1, 5], [9, 1, 5], [1, 1, 8]])
    # Medians 1.5, 1, 5 and spreads 1.4826 x (1, 0, 0); where half agree, a twentieth of the change or a spread.
    spread = [1.4826, max(0.05, 0.05 * 1.4826), 0.25]
    away = np.abs(changes - [1.5, 1, 5]) / spread
    expected = np.log1p(np.sqrt((away**2).mean(axis=1)))
    np.testing.assert_allclose(statistics_view(changes).values, expected)
    np.testing.assert_allclose(statistics_view(changes * [1e-3, 1e3, 10]).values[0], expected[0], rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "spread"),
    [([[0.0], [0], [0], [1]], 0.05), ([[4.0], [4], [4], [5]], 0.2), ([[-4.0, 0], [-4, 0], [-4, 0], [-5, 0]], 0.2)],
)
def test_where_nobody_s_statistics_differ_a_twentieth_of_their_change_is_the_spread(changes, spread):
    x = np.array(changes)
    expected = np.log1p(np.sqrt(((np.abs(x - x[0]) / spread) ** 2).mean(axis=1)))
    np.testing.assert_allclose(statistics_view(x).values, expected)


def test_statistics_that_fill_float32_stay_finite():
    values = statistics_view(np.array([[0.0], [1], [2], [3e38]], np.float32)).values
    np.testing.assert_allclose(values[3], np.log1p(1e6), rtol=1e-9)


@pytest.mark.parametrize("same", [0.0, 0.05])
def test_labels_are_told_by_the_one_in_which_a_client_is_farthest_and_nearest(same):
    """The distance to three neighbours in each label; without verification, as a factor of the usual one."""
    updates = crowd(12, dtype=np.float64)
    updates[3, [20, 21, 22, 23, 32]] += 20  # rare in the first label
    updates[7, [28, 29, 30, 31, 34]] = updates[8, [28, 29, 30, 31, 34]] = updates[5, [28, 29, 30, 31, 34]]
    cloud = Cloud.of(batch_of(updates, CROWD_SHAPES))
    scores = []
    for columns in cloud.label_blocks:
        x = updates[:, columns]
        mean = np.sort(cdist(x, x), axis=1)[:, 1:4].mean(axis=1)
        usual, floor = median_of_positive(mean), same * np.median(np.linalg.norm(x, axis=1))
        scores.append(robust_z(np.log(np.maximum(mean, floor) / usual), 1.0 if same else 0.0))
    views = {view.name: view for view in (harm_views if same else update_views)(cloud)}
    far, close = views["label farthest"], views["label nearest"]
    np.testing.assert_allclose(cloud.by_row(far.values), np.max(scores, axis=0), atol=1e-6)
    np.testing.assert_allclose(cloud.by_row(close.values), np.min(scores, axis=0), atol=1e-6)
    assert not far.log and not close.log
    assert [far.what[k] for k in cloud.place][3].startswith("label 0, its farthest")
    assert [close.what[k] for k in cloud.place][7].startswith("label 2, its nearest")


def test_statistics_have_a_view_in_the_order_of_the_others():
    layout = Layout(((35,), (3,)), (np.dtype(np.float64),) * 2, names=("weight", "running_mean"))
    assert layout.statistics == slice(35, 38)
    updates = np.concatenate([crowd(9, dtype=np.float64), np.arange(27.0).reshape(9, 3) ** 2], axis=1)
    cloud = Cloud.of(Batch(tuple(range(9)), updates, np.ones(9), layout, {}))
    view = update_views(cloud)[-1]
    assert view.name == "statistics" and view.log
    np.testing.assert_allclose(cloud.by_row(view.values), statistics_view(updates[:, 35:]).values)


# What it takes to count


def even(n=20, width=WIDE):
    """A block in which everybody is at a distance of 1, and all agree."""
    half = np.full(n, 0.5)
    return Block(1.0 - np.eye(n), np.ones(n), half, half, half, half, 0.0, width)


LEAST = {
    "1 nearest": 0.3, "2 nearest": 0.1, "3 nearest": 0.1, "8 nearest": 0.1, "12 nearest": 0.1, "norm": 0.1,
    "direction": 0.1, "cosine": 0.03, "signs": 0.03,
}  # fmt: skip


@pytest.mark.parametrize("slack", [1.0, 2.0])
def test_however_alike_clients_are_a_tenth_of_a_distance_is_one_spread(slack):
    """The least spreads: .3 of the distance to the one nearest, .1 of others and norms, .03 of cosines and shares."""
    alike = 1e-5 * np.arange(20)
    for view in block_views(even(), "update", slack, 0.0):
        z = replace(view, values=view.values + alike).z
        np.testing.assert_allclose(np.diff(z), 1e-5 / (slack * LEAST[view.name.removeprefix("update ")]), rtol=1e-6)


def test_the_least_spread_of_labels_and_statistics():
    layout = Layout(((5, 4), (3, 4), (3,), (2,)), (np.dtype(np.float64),) * 4, names=("a", "b", "c", "running_mean"))
    batch = Batch(tuple(range(9)), crowd(9, dtype=np.float64)[:, [*range(35), 0, 1]], np.ones(9), layout, {})
    views = {view.name: view for view in update_views(Cloud.of(batch), 2.0)}
    assert update_views(Cloud.of(batch))[0].least == 0.3
    for name, least in (("label farthest", 1.0), ("label nearest", 1.0), ("statistics", 0.1)):
        z = replace(views[name], values=1e-5 * np.arange(9)).z
        np.testing.assert_allclose(np.diff(z), 1e-5 / least, rtol=1e-6)


CLOSER, FARTHER = 0, 1
#: Differences, below and above the usual client, that matter without verification. Factors, but for the last four.
MATTERS = {
    "1 nearest": (math.log(5), math.log(3.3)), "2 nearest": (math.log(4), math.log(2.8)),
    "8 nearest": (math.log(4), math.log(2.8)), "norm": (math.inf, math.log(2.2)),
    "direction": (math.inf, math.log(2.2)), "cosine": (0.65, math.inf), "signs": (0.25, 0.25), "pull": (math.inf, 0.7),
}  # fmt: skip


@pytest.mark.parametrize("name", MATTERS)
@pytest.mark.parametrize("side", [CLOSER, FARTHER])
def test_without_verification_only_so_much_matters(name, side):
    """Just below it nobody is odd, however alike the others are; just above it is."""
    (view,) = (v for v in block_views(even(), "update", 1.0, 0.05) if v.name == f"update {name}")
    least = MATTERS[name][side]
    for part, odd in ((0.99, False), (1.01, True)):
        values = view.values.copy()
        values[7] += (1 if side else -1) * part * (1e6 if math.isinf(least) else least)
        z = replace(view, values=values).among(4.0)
        assert np.flatnonzero(np.abs(z) > 4.0).tolist() == [7] * (odd and math.isfinite(least))


def test_what_matters_of_labels_and_statistics():
    layout = Layout(((5, 4), (3, 1000), (3,), (2,)), (np.dtype(np.float64),) * 4, names=("a", "b", "c", "running_mean"))
    updates = np.random.default_rng(0).normal(size=(9, layout.size))
    cloud = Cloud.of(Batch(tuple(range(9)), updates, np.ones(9), layout, {}))
    views = {view.name: view for view in harm_views(cloud)}
    few = 1 + 9 / min(len(columns) for columns in cloud.label_blocks) ** 1.5
    assert views["label farthest"].matters == (math.inf, math.inf)
    assert all(views[view.name].least == view.least for view in update_views(cloud))  # for who gives them a threshold
    np.testing.assert_allclose(views["label nearest"].matters, (few * math.log(3.3), math.inf))
    np.testing.assert_allclose(views["statistics"].matters, (math.inf, math.log(10)))


@pytest.mark.parametrize(("columns", "times"), [(0, 10.0), (1, 10.0), (4, 2.125), (100, 1.009)])
def test_of_few_columns_more_is_needed(columns, times):
    view = View("a", np.zeros(3), "a", "less", "more", matters=(2.0, 3.0))
    assert view.in_few(columns).matters == pytest.approx((2 * times, 3 * times))
    assert replace(view, matters=None).in_few(columns).matters is None
    (norm,) = (v for v in block_views(even(width=columns), "x", 1.0, 0.05) if v.name == "x norm")
    assert norm.matters == pytest.approx((math.inf, math.log(2.2) * times))


@pytest.mark.parametrize(("n", "factor"), [(1, 15), (5, 15), (6, 6), (30, 6)])
def test_what_is_gross_depends_on_nobody_s_spread(n, factor):
    half = np.geomspace(1.0, 1.1, n) if n > 1 else np.ones(1)
    assert gross_view(half, 0.1).matters == pytest.approx((math.inf, math.log(factor)))
    if n > 1:
        for times, odd in ((0.99, 0), (1.01, 1)):
            half[-1] = times * factor * np.median(half)
            assert np.count_nonzero(np.abs(gross_view(half, 0.1).among(4.0)) > 4.0) == odd


def test_with_five_clients_there_is_one_view_and_with_six_all():
    five, six = (harm_views(Cloud.of(batch_of(crowd(n), CROWD_SHAPES))) for n in (5, 6))
    assert [v.name for v in five] == ["reach"]
    names = [v.name for v in six]
    assert names[0] == "reach" and {"update norm", "classifier pull", "label nearest"} < set(names)


def test_chances_are_counted_where_the_spread_is_measured():
    one, known = View("a", np.zeros(3), "a", "less", "more"), View("b", np.zeros(3), "b", "less", "more", spread=0.0)
    assert [number_of_chances(views) for views in ([], [known], [one], [one, known, one])] == [1, 1, 1, 2]


# z


def test_spreads_of_any_size_are_measured():
    x = np.array([1.0, 2, 3, 4, 10])
    for unit in (0.01, 1.0, 100.0):
        centre, spread = centre_and_spread(unit * x, 0.0)
        assert (centre, spread) == pytest.approx((3 * unit, 1.4826 * unit))
    assert centre_and_spread(1e-6 * x, 0.0)[1] == 1e-3  # nobody differs by less than a tenth of a percent
    np.testing.assert_allclose(robust_z(np.array([[1.0, 2, 3], [10.0, 20, 30]])), np.array([[-1, 0, 1]] * 2) / 1.4826)


def test_a_view_that_says_nothing_else_is_measured_by_itself_and_read_as_factors():
    values = np.log([1.0, 2, 4, 8, 1024])
    view = View("a", values, "size", "smaller", "larger")
    np.testing.assert_allclose(view.z, robust_z(values))
    np.testing.assert_allclose(view.among(3.0), view.z)
    assert view.explain(2) == "size 1.0x larger than usual (z = 0.0)"
    assert view.explain(0, 9.87) == "size 4.0x smaller than usual (z = 9.9)"
    assert replace(view, values=np.log([1, 1, 998.6])).explain(2).startswith("size 999x larger")


def test_the_calm_say_what_is_usual_unless_that_is_known():
    values, calm = np.array([0.0, 1, 2, 3, 4, 50, 60]), np.arange(7) < 5
    view = View("a", values, "a", "less", "more", matters=(0.1, 0.1))
    np.testing.assert_allclose(view.among(2.0), (values - 3) / (2 * 1.4826))
    np.testing.assert_allclose(view.among(2.0, calm), (values - 2) / 1.4826)
    np.testing.assert_allclose(replace(view, spread=5.0).among(2.0, calm), (values - 3) / 5)
    # Too little to matter: below the centre it takes 6, above it 8, to reach a z of 2.
    matters = replace(view, matters=(6.0, 8.0)).among(2.0)
    np.testing.assert_allclose(matters, np.where(values < 3, (values - 3) / 3, (values - 3) / 4))


@given(st.integers(0, 2**32 - 1), st.integers(6, 25))
@settings(max_examples=15, deadline=None)
def test_a_block_of_any_updates_has_finite_views(seed, n):
    x = uneven(n) * np.random.default_rng(seed).choice([0.0, 1e-9, 1.0, 1e9], (n, 1))
    for same in (0.0, 0.05):
        assert all(np.isfinite(view.values).all() for view in block_views(block_of(x), "update", 1.0, same))
