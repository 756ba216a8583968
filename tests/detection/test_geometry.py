import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from flwr_faa.detection import geometry
from flwr_faa.detection.geometry import Cloud, embed, ranked
from tests.detection.simulate import CROWD_SHAPES, batch_of, crowd


def in_rows(cloud, square):
    """A canonical matrix in the order of the batch."""
    return square[cloud.place[:, None], cloud.place]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_survive_a_large_common_mean(dtype):
    rng = np.random.default_rng(0)
    updates = (1000 + 1e-3 * rng.normal(size=(12, 100_000))).astype(dtype)
    updates[5] += dtype(0.5)
    cloud = Cloud.of(batch_of(updates))

    exact = cdist(updates.astype(np.float64), updates.astype(np.float64))

    np.testing.assert_allclose(np.sqrt(in_rows(cloud, cloud.whole.squared)), exact, rtol=1e-6)
    points = cloud.by_row(cloud.embedding)
    assert points.shape[1] <= 11
    np.testing.assert_allclose(cdist(points, points), exact, rtol=1e-6, atol=1e-6 * exact.max())


def test_one_huge_update_does_not_blur_the_others():
    updates = crowd(20)
    before = Cloud.of(batch_of(updates[1:]))
    updates[0] = 1e8
    after = Cloud.of(batch_of(updates))

    expected = np.sqrt(in_rows(before, before.whole.squared))
    np.testing.assert_allclose(np.sqrt(in_rows(after, after.whole.squared)[1:, 1:]), expected, rtol=1e-5)


def test_near_clones_keep_their_distance():
    updates = crowd(20, dtype=np.float64)
    updates[3] = updates[4] + 1e-5
    cloud = Cloud.of(batch_of(updates))
    assert np.sqrt(in_rows(cloud, cloud.whole.squared))[3, 4] == pytest.approx(1e-5 * np.sqrt(35), rel=1e-3)


def test_identical_rows_are_one_point():
    updates = crowd(9)
    updates[[2, 5, 7]] = updates[1]
    cloud = Cloud.of(batch_of(updates))
    distance = in_rows(cloud, cloud.whole.squared)
    assert not distance[np.ix_([1, 2, 5, 7], [1, 2, 5, 7])].any()
    assert len(np.unique(cloud.by_row(cloud.embedding)[[1, 2, 5, 7]], axis=0)) == 1


def test_rows_of_a_matrix_share_a_place_only_where_all_their_bytes_agree():
    updates = crowd(9)
    updates[:, -1] = 1  # where the comparison begins
    updates[[2, 5]] = updates[1]
    cloud = Cloud.of_matrix(updates, (), updates.shape[1], None)
    of_row = np.unique(updates, axis=0, return_inverse=True)[1]
    assert np.array_equal(cloud.place[:, None] == cloud.place, of_row[:, None] == of_row)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=20)
def test_the_order_of_the_rows_changes_no_bit(seed, n):
    rng = np.random.default_rng(seed)
    updates = crowd(n, seed)
    updates[rng.integers(n)] = updates[0]  # clones too
    shuffled = rng.permutation(n)
    one, other = Cloud.of(batch_of(updates, CROWD_SHAPES)), Cloud.of(batch_of(updates[shuffled], CROWD_SHAPES))

    assert np.array_equal(one.by_row(one.embedding)[shuffled], other.by_row(other.embedding))
    for a, b in zip((one.whole, *one.labels), (other.whole, *other.labels), strict=True):
        assert np.array_equal(in_rows(one, a.squared)[np.ix_(shuffled, shuffled)], in_rows(other, b.squared))
        for name in ("norms", "to_median", "to_mean", "positive"):
            assert np.array_equal(one.by_row(getattr(a, name))[shuffled], other.by_row(getattr(b, name))), name


def test_a_block_measures_its_columns(monkeypatch):
    monkeypatch.setattr(geometry, "CHUNK", 7)  # several chunks, the last one short
    updates = crowd(15, dtype=np.float64)
    updates[3] = 0
    updates[:, 8] = 0
    cloud = Cloud.of(batch_of(updates, CROWD_SHAPES))
    assert cloud.classifier is not None and len(cloud.labels) == 3
    blocks = [(cloud.whole, np.arange(35)), (cloud.classifier, np.arange(20, 35))]
    blocks += list(zip(cloud.labels, cloud.label_blocks, strict=True))
    for block, columns in blocks:
        x = updates[:, columns]
        to = {"to_median": np.median(x, axis=0), "to_mean": x.mean(axis=0)}
        norms = np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(cloud.by_row(block.norms), norms)
        np.testing.assert_allclose(np.sqrt(in_rows(cloud, block.squared)), cdist(x, x), atol=1e-7)
        for name, y in to.items():
            cosine = x @ y / np.where(norms, norms, 1) / np.linalg.norm(y)
            np.testing.assert_allclose(cloud.by_row(getattr(block, name)), cosine, atol=1e-12)
        signs = np.where((x != 0).any(axis=1), (x > 0).sum(axis=1) / np.maximum((x != 0).sum(axis=1), 1), 0.5)
        np.testing.assert_allclose(cloud.by_row(block.positive), signs)


def test_a_model_that_is_nothing_but_a_classifier_has_no_second_block():
    assert Cloud.of(batch_of(crowd()[:, :15], ((3, 4), (3,)))).classifier is None
    assert Cloud.of(batch_of(crowd())).classifier is None


def test_the_embedding_is_signed_and_ignores_translation():
    updates = crowd(10, dtype=np.float64)
    one, other = Cloud.of(batch_of(updates)), Cloud.of(batch_of(updates + 3.0))
    points = one.by_row(one.embedding)
    assert (points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])] > 0).all()
    np.testing.assert_allclose(points, other.by_row(other.embedding), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_or_identical_points_embed_to_something_finite(n):
    for squared in (np.zeros((n, n)), 1.0 - np.eye(n)):
        points = embed(squared)
        assert points.shape[1] >= 1 and np.isfinite(points).all()
        np.testing.assert_allclose(cdist(points, points) ** 2, squared, atol=1e-12)


def test_ties_are_broken_by_the_next_key_and_then_by_content():
    batch = batch_of(crowd(6))
    assert ranked(batch, [0, 0, 0, 5, 0, 0], [1, 1, 1, 0, 2, 1])[:2] == [3, 4]
    assert ranked(batch, np.zeros(6)) == list(batch.canonical)


def test_a_batch_is_measured_once_and_forgotten_with_the_batch():
    batch = batch_of(crowd())
    cloud = weakref.ref(Cloud.of(batch))
    assert Cloud.of(batch) is cloud()
    del batch
    gc.collect()
    assert cloud() is None
