"""What only a large round does: compiled loops and float32 products. Here of few entries, taken for many."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from flwr_faa.detection import OCSVM, MultiView, as_detector
from flwr_faa.detection.geometry import Cloud
from flwr_faa.replies import kernels
from flwr_faa.replies.updates import Layout, Reply, read_replies
from flwr_lomar import LoMarDetector
from tests.detection.simulate import batch_of

N, D = 21, 40_000


@pytest.fixture(autouse=True)
def large(monkeypatch):
    monkeypatch.setattr(kernels, "LARGE", 0)


def updates(seed=0):
    """A crowd with a common step, three clones, one far away, one nearly and one entirely without an update."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(D) + 0.5 * rng.standard_normal((N, D))).astype(np.float32)
    x[[7, 11]] = x[2]
    x[5] *= 1000
    x[6], x[8] = 1e-4 * x[6], 0
    return x


@pytest.mark.parametrize("detector", [MultiView(), MultiView(threshold=5.0), OCSVM()], ids=str)
def test_the_order_of_the_rows_changes_no_bit(detector):
    x, order = updates(), np.random.default_rng(1).permutation(N)
    one, other = (detector.detect(batch_of(each), 0) for each in (x, x[order]))
    assert np.array_equal(one.scores[order], other.scores)
    assert [order[row] for row in other.suspects] == list(one.suspects) or len(set(one.scores)) < N
    assert {order[row] for row in other.suspects} == set(one.suspects)


@pytest.mark.parametrize(
    "detector",
    [MultiView(), OCSVM(), as_detector(LoMarDetector()), as_detector(LoMarDetector("paper"))],
    ids=["MultiView", "OCSVM", "LoMar", "LoMar paper"],
)
def test_the_number_of_threads_changes_no_bit(detector):
    batch = batch_of(updates(), ((30, 1000), (10, 999), (10,)))
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append(detector.detect(replace(batch), 0))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].scores, other.scores)
        assert found[0].suspects == other.suspects


def test_measures_are_those_of_float64():
    x = updates()
    cloud = Cloud.of(batch_of(x))
    block, wide = cloud.whole, x.astype(np.float64)
    found = np.sqrt(block.squared[cloud.place[:, None], cloud.place])
    # What is nearer than a thousandth of its distance from the median is only known to be near.
    np.testing.assert_allclose(found, cdist(wide, wide), rtol=1e-5, atol=1e-3 * np.linalg.norm(np.median(wide, axis=0)))
    assert not found[np.ix_([2, 7, 11], [2, 7, 11])].any()
    norms = np.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(cloud.by_row(block.norms), norms, rtol=1e-5)
    for name, to in (("to_median", np.median(wide, axis=0)), ("to_mean", wide.mean(axis=0))):
        cosine = wide @ to / np.where(norms > 0, norms, 1) / np.linalg.norm(to)
        np.testing.assert_allclose(cloud.by_row(getattr(block, name)), cosine, atol=1e-5)
    np.testing.assert_array_equal(cloud.by_row(block.positive)[norms > 0], (x > 0).mean(axis=1)[norms > 0])


def test_replies_and_a_matrix_of_their_updates_are_measured_alike():
    rng, shapes = np.random.default_rng(3), ((300, 100), (9_990,), ())
    model = [rng.standard_normal(s, np.float32) for s in shapes]
    sent = [[w + rng.standard_normal(w.shape, np.float32) for w in model] for _ in range(6)]
    sent[3] = [a.copy(order="F") for a in sent[2]]  # a clone, stored otherwise
    batch = read_replies([Reply(i, arrays, 1) for i, arrays in enumerate(sent)], model)
    flat = np.stack([Layout.of(model).flat([a - w for a, w in zip(arrays, model, strict=True)]) for arrays in sent])
    np.testing.assert_array_equal(batch.updates, flat)
    one, other = Cloud.of(batch), Cloud.of(batch_of(flat, shapes))
    assert batch.digests == batch_of(flat, shapes).digests
    assert one.place[2] == one.place[3]
    np.testing.assert_array_equal(one.whole.squared, other.whole.squared)
    np.testing.assert_array_equal(one.matrix(range(6)), flat)
