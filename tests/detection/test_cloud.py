"""The walk over the columns: which precision, which chunks, which labels; and what it leaves for later."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from flwr_faa import expected
from flwr_faa.detection import geometry
from flwr_faa.detection.geometry import Cloud, embed
from flwr_faa.replies import kernels
from flwr_faa.replies.rows import Matrix
from flwr_faa.replies.updates import Batch, Layout
from tests.detection.simulate import CROWD_SHAPES, batch_of, crowd


def in_rows(cloud, square):
    """A canonical matrix in the order of the batch."""
    return square[cloud.place[:, None], cloud.place]


def cloud_of(x, label_blocks=(), unit=None, width=None):
    """A cloud whose rows are in the order of the matrix."""
    n, d = x.shape
    return Cloud(Matrix(x), d if width is None else width, tuple(range(n)), np.arange(n), label_blocks, unit)


# Where a row stands


def test_clones_stand_where_the_first_of_them_does():
    updates = crowd(9)
    updates[[2, 5]] = updates[1]
    batch = batch_of(updates)
    cloud = Cloud.of(batch)
    assert cloud.order == batch.canonical and len(cloud) == 9
    for row in range(9):
        same = [k for k, other in enumerate(cloud.order) if np.array_equal(updates[other], updates[row])]
        assert cloud.place[row] == min(same)
    assert cloud.by_row(np.arange(9.0)).tolist() == cloud.place.tolist()


@pytest.mark.parametrize("columns", [1, 2, 35])
def test_a_matrix_is_sorted_by_its_bytes(columns):
    updates = np.round(crowd(12)[:, :columns], 1)
    updates[[3, 7]] = updates[10]
    cloud = Cloud.of_matrix(updates, (np.array([0]),), columns, None)
    as_bytes = [updates[row].tobytes() for row in cloud.order]
    assert as_bytes == sorted(as_bytes)
    assert cloud.place.tolist() == [as_bytes.index(row.tobytes()) for row in updates]
    assert len(cloud.label_blocks) == 1 and cloud.unit is None and cloud.width == columns


# What is measured, and how exactly


def off(n, columns, dtype=np.float32):
    """How far off squared distances are, relative to the largest; of integers, so that centring rounds nothing."""
    updates = np.random.default_rng(0).integers(-5000, 5000, (n, columns)).astype(dtype)
    cloud, wide = Cloud.of(batch_of(updates)), updates.astype(np.float64)
    exact = cdist(wide, wide) ** 2
    return np.abs(in_rows(cloud, cloud.whole.squared) - exact).max() / exact.max()


@pytest.mark.parametrize(("n", "rounded"), [(255, False), (256, True)])
def test_from_256_updates_on_products_are_float32_however_few_columns(n, rounded):
    found = off(n, 3)
    assert 1e-10 < found < 1e-6 if rounded else found < 1e-14


def test_distances_within_a_label_take_half_the_memory_where_products_are_float32():
    for n, dtype in ((255, np.float64), (256, np.float32)):
        updates = np.random.default_rng(0).normal(size=(n, 35)).astype(np.float32)
        assert {block.squared.dtype for block in Cloud.of(batch_of(updates, CROWD_SHAPES)).labels} == {np.dtype(dtype)}


@pytest.mark.parametrize(("less", "rounded"), [(0, True), (1, False)])
def test_from_so_many_numbers_on_products_are_float32(monkeypatch, less, rounded):
    """They are counted in the columns that are measured. Products of float64 are float64."""
    monkeypatch.setattr(kernels, "LARGE", 9 * 20 + less)
    found = off(9, 20)
    assert 1e-10 < found < 1e-6 if rounded else found < 1e-14
    assert off(9, 20, np.float64) < 1e-14


@pytest.mark.parametrize("chunk", [5, 7, 40])
@pytest.mark.parametrize("large", [0, 10**9])
def test_updates_much_shorter_than_the_median_are_measured_as_exactly(monkeypatch, chunk, large):
    """Their own products, not differences of large ones; also of one entry alone, and of none."""
    monkeypatch.setattr(geometry, "CHUNK", chunk)
    monkeypatch.setattr(kernels, "LARGE", large)
    updates = crowd(11, dtype=np.float64)
    updates[3] *= 1e-7
    updates[6], updates[8] = 0, 0
    updates[6, 30] = -1e-9
    updates[9] *= 0.09
    cloud = Cloud.of(batch_of(updates, CROWD_SHAPES))
    for block, columns in (
        (cloud.whole, slice(0, 35)),
        (cloud.classifier, slice(20, 35)),
        (cloud.backbone, slice(0, 20)),
    ):
        x = updates[:, columns]
        norms = np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(cloud.by_row(block.norms), norms, rtol=1e-9)
        for name, to in (("to_median", np.median(x, axis=0)), ("to_mean", x.mean(axis=0))):
            cosine = x @ to / np.where(norms > 0, norms, 1) / np.linalg.norm(to)
            np.testing.assert_allclose(cloud.by_row(getattr(block, name)), cosine, atol=1e-9)
        np.testing.assert_allclose(in_rows(cloud, block.squared), cdist(x, x) ** 2, atol=1e-12)
        assert block.width == x.shape[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [8, 2**14])
def test_a_squared_distance_may_be_wrong_by_the_rounding_of_one_chunk(monkeypatch, dtype, chunk):
    """Of twice the usual squared distance from the median, times the root of the columns that are added in one go."""
    monkeypatch.setattr(geometry, "CHUNK", chunk)
    updates = crowd(9, dtype=dtype)
    c = updates - np.median(updates, axis=0)
    usual = np.median((c.astype(float) ** 2).sum(axis=1))
    expected_noise = 2 * usual * np.finfo(dtype).eps * math.sqrt(min(chunk, 35))
    assert cloud_of(updates).whole.noise == pytest.approx(expected_noise, rel=1e-5)


def test_clones_of_float32_products_are_at_distance_zero(monkeypatch):
    """Linear algebra may round a row and its clone differently."""
    monkeypatch.setattr(kernels, "LARGE", 0)
    for n in range(17, 40):
        updates = np.random.default_rng(n).normal(size=(n, 997)).astype(np.float32)
        updates[[n - 1, n // 2]] = updates[0]
        cloud = Cloud.of(batch_of(updates))
        clones = [0, n // 2, n - 1]
        assert not in_rows(cloud, cloud.whole.squared)[np.ix_(clones, clones)].any()


# Labels


def test_a_classifier_and_what_stands_before_and_behind_it_are_told_apart():
    x = crowd(8, dtype=np.float64)[:, :12]
    labels = (np.array([3, 4, 8]), np.array([5, 9]))
    cloud = cloud_of(x, labels, width=11)  # the last column is of running statistics
    feeds, others = [3, 4, 5, 8, 9], [0, 1, 2, 6, 7, 10]
    for block, columns in ((cloud.classifier, feeds), (cloud.backbone, others), (cloud.whole, range(11))):
        part = x[:, list(columns)]
        np.testing.assert_allclose(np.sqrt(block.squared), cdist(part, part), atol=1e-7)
        assert block.width == len(columns)
    for near, columns in zip(cloud.near_labels, labels, strict=True):
        part = x[:, columns]
        np.testing.assert_allclose(near.distance, np.sort(cdist(part, part), axis=1)[:, 1:4])
        assert near.length == pytest.approx(np.median(np.linalg.norm(part, axis=1)))
        assert near.width == len(columns)
    np.testing.assert_array_equal(cloud.statistics, x[:, 11:])
    assert cloud._beyond_labels() == [slice(0, 3), slice(6, 8), slice(10, 11)]
    assert cloud_of(x, (np.arange(2), np.arange(9, 12)))._beyond_labels() == [slice(2, 9)]
    only = cloud_of(x[:, :5], (np.arange(3), np.arange(3, 5)))
    assert only.classifier is None and only.backbone is None and len(only.near_labels) == 2
    assert cloud_of(x).classifier is None and cloud_of(x).near_labels == ()


class Counted(Matrix):
    """Knows how often it was read."""

    times = 0

    def gather(self, rows, parts, out):
        self.times += 1
        super().gather(rows, parts, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_are_kept_as_long_as_they_fit_and_measured_in_turn_beyond(monkeypatch, dtype):
    updates = crowd(8, dtype=dtype)
    of, size = Cloud.of(batch_of(updates, CROWD_SHAPES)), 3 * 8 * 8 * np.dtype(dtype).itemsize
    kept, beyond = (Cloud(Counted(updates), 35, of.order, of.place, of.label_blocks) for _ in range(2))
    monkeypatch.setattr(geometry, "KEEP", size)
    assert len(kept.labels) == 3 and list(kept.each_label()) == list(kept.labels)
    once = kept.rows.times
    assert kept.whole.width == 35 and len(kept.near_labels) == 3
    assert kept.rows.times == once, "the walk that found the labels has measured everything"
    monkeypatch.setattr(geometry, "KEEP", size - 1)
    assert beyond.labels is None
    for one, other in zip(kept.labels, beyond.each_label(), strict=True):
        np.testing.assert_array_equal(one.squared, other.squared)
        np.testing.assert_array_equal(one.norms, other.norms)


# Matrices


def test_a_matrix_of_some_rows_is_measurable_and_its_statistics_are_as_they_are(monkeypatch):
    monkeypatch.setattr(geometry, "WIDTH", 4)
    layout = Layout(((7,), (2,)), (np.dtype(np.float32),) * 2, names=("weight", "running_mean"))
    updates = crowd(6)[:, :9] * np.float32(2.0**-40)
    cloud = Cloud.of(Batch(tuple(range(6)), updates, np.ones(6), layout, {}))
    found = cloud.matrix([4, 1])
    np.testing.assert_array_equal(found[:, 7:], updates[[4, 1], 7:])
    np.testing.assert_array_equal(found[:, :7], np.ldexp(updates[[4, 1], :7], cloud.unit.exponent))
    assert found.dtype == np.float32 and 35 < cloud.unit.exponent < 45
    np.testing.assert_array_equal(Cloud.of(batch_of(crowd(6))).matrix([2]), crowd(6)[[2]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_needs_more_memory_than_there_is_says_what_and_how_much(monkeypatch, dtype):
    cloud = Cloud.of(batch_of(crowd(7, dtype=dtype)))
    needed = 3 * 35 * np.dtype(dtype).itemsize
    monkeypatch.setattr(expected, "memory", lambda: needed)
    assert cloud.matrix([0, 1, 2]).shape == (3, 35)
    monkeypatch.setattr(expected, "memory", lambda: needed - 1)
    with pytest.raises(MemoryError, match="a matrix of 3 updates of 35 parameters, which this detector is fitted on"):
        cloud.matrix([0, 1, 2])
    # Distances between n updates: three n x n matrices of float64 at a time.
    monkeypatch.setattr(expected, "memory", lambda: 3 * 8 * 7 * 7)
    assert Cloud.of(batch_of(crowd(7, dtype=dtype))).whole.width == 35
    monkeypatch.setattr(expected, "memory", lambda: 3 * 8 * 7 * 7 - 1)
    with pytest.raises(MemoryError, match=r"the distances between 7 updates.*judge them in groups"):
        _ = Cloud.of(batch_of(crowd(7, dtype=dtype))).whole


@pytest.mark.parametrize("width", [3, 9, 10, 2**14])
def test_the_unit_follows_from_the_largest_parameter_of_each_update(monkeypatch, width):
    monkeypatch.setattr(geometry, "WIDTH", width)
    layout = Layout(((9,), (2,)), (np.dtype(np.float32),) * 2, names=("weight", "running_mean"))
    updates = np.ones((5, 11), np.float32)
    updates[1, 8], updates[2, 0], updates[:, 9:] = -4e4, 2e4, 1e30
    for largest in (np.empty(0), np.abs(updates[:, :9]).max(axis=1).astype(float)):
        batch = Batch(tuple(range(5)), updates, np.ones(5), layout, {}, largest=largest)
        np.testing.assert_allclose(Cloud.of(batch).unit.factors, [1, 0.25, 0.5, 1, 1])
    updates[3, 2] = np.nan
    with pytest.raises(ValueError, match="expected finite updates"):
        Cloud.of(Batch(tuple(range(5)), updates, np.ones(5), layout, {}))


# Columns and points


@given(st.sets(st.integers(0, 40), min_size=0, max_size=25), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_columns_are_cut_into_chunks_in_their_order(columns, width):
    """Every chunk but the last is full, no run is empty, and runs are as long as can be."""
    ordered = np.array(sorted(columns), np.intp)
    parts = geometry._slices(ordered)
    assert [c for part in parts for c in range(part.start, part.stop)] == sorted(columns)
    assert all(a.stop < b.start for a, b in pairwise(parts))
    chunks = list(geometry._chunks(parts, width))
    assert [c for chunk in chunks for part in chunk for c in range(part.start, part.stop)] == sorted(columns)
    sizes = [sum(part.stop - part.start for part in chunk) for chunk in chunks]
    assert all(size == width for size in sizes[:-1]) and all(0 < size <= width for size in sizes)
    assert all(part.start < part.stop for chunk in chunks for part in chunk)


def test_an_embedding_begins_with_the_longest_axis_and_drops_those_of_no_length():
    points = embed(np.array([[0.0, 9, 1], [9, 0, 16], [1, 16, 0]]))  # on a line at 0, 3 and -1
    np.testing.assert_allclose(points, [[-2 / 3], [7 / 3], [-5 / 3]], atol=1e-12)
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(8, 3)) * [100.0, 1.0, 1e-4]
    points = embed(cdist(flat, flat) ** 2)
    assert points.shape == (8, 3)
    spread = (points**2).sum(axis=0)
    assert (np.diff(spread) < 0).all()
    assert (points[np.abs(points).argmax(axis=0), np.arange(3)] > 0).all()
    assert embed(cdist(flat[:, :2], flat[:, :2]) ** 2 + 1e-12 * (1 - np.eye(8))).shape == (8, 2)
