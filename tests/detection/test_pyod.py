import subprocess
import sys
import warnings

import numpy as np
import pytest
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from sklearn.ensemble import IsolationForest

from flwr_faa.detection import OCSVM, MultiView, PyODDetector, Sequential, as_detector
from tests.detection.simulate import CROWD_SHAPES, batch_of, crowd


def outliers():
    updates = crowd(20)
    updates[[4, 11]] += 20 * np.random.default_rng(5).normal(size=(2, 35)).astype(np.float32)
    return updates


@pytest.mark.parametrize(
    "detector",
    [
        as_detector(KNN(contamination=0.1)),
        PyODDetector(ECOD(contamination=0.1), components=2),
        PyODDetector(IForest(contamination=0.1, random_state=0), components=2),
        PyODDetector(IForest(contamination=0.1), components=2),
    ],
    ids=["knn", "ecod", "iforest", "iforest seeded by the round"],
)
def test_any_pyod_detector_works_in_any_order(detector):
    batch = batch_of(outliers())
    found = detector.detect(batch, seed=3)
    assert set(found.suspects) == {4, 11}
    assert list(found.suspects) == sorted(found.suspects, key=lambda r: -found.scores[r])
    assert all(found.scores[r] > found.threshold for r in found.suspects)
    assert type(detector.detector).__name__ in found.evidence[4]
    assert not hasattr(detector.detector, "labels_"), "the detector that was passed in is left alone"
    shuffled = np.random.default_rng(1).permutation(20)
    again = detector.detect(batch_of(outliers()[shuffled]), seed=3)
    assert np.array_equal(found.scores[shuffled], again.scores)
    assert [int(shuffled[r]) for r in again.suspects] == list(found.suspects)


def test_contamination_decides_how_many():
    for share, expected in ((0.1, 2), (0.25, 5), (0.5, 10)):
        assert len(PyODDetector(KNN(contamination=share)).detect(batch_of(crowd(20)), 0).suspects) == expected


class Labelled:
    """As LoMar's detector: works on parameters and label blocks."""

    label_blocks = None

    def fit(self, x):
        self.seen = x.shape, self.label_blocks
        self.decision_scores_ = np.abs(x[:, self.label_blocks[2]]).sum(axis=1)
        self.threshold_ = 100.0
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self


def test_label_blocks_get_the_updates_themselves():
    updates = crowd(10)
    updates[6, 28:32] += 100
    batch = batch_of(updates, CROWD_SHAPES)
    found = as_detector(Labelled()).detect(batch, 0)
    assert found.suspects == (6,)
    np.testing.assert_allclose(found.scores, np.abs(updates[:, [28, 29, 30, 31, 34]]).sum(axis=1), rtol=1e-5)
    fixed = Labelled()
    fixed.label_blocks = (np.arange(3),) * 3
    assert as_detector(fixed).detect(batch, 0).suspects == ()


def test_a_detector_that_breaks_lets_nobody_pass():
    with pytest.warns(RuntimeWarning, match="KNN failed on 3 updates, so all are suspected"):
        found = PyODDetector(KNN(n_neighbors=5)).detect(batch_of(crowd(3)), 0)
    assert sorted(found.suspects) == [0, 1, 2] and "n_neighbors" in found.evidence[0]


@pytest.mark.parametrize("n", [1, 2, 12])
def test_identical_updates_give_finite_scores(n):
    for inner in (KNN(n_neighbors=1), ECOD(), IForest(random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = PyODDetector(inner).detect(batch_of(np.ones((n, 3), np.float32)), 0)
        assert np.isfinite(found.scores).all() and len(found.evidence) == n
        assert n > 1 or found.suspects == ()


def test_what_is_a_detector_and_what_is_not():
    for ours in (Sequential(), MultiView(), OCSVM()):
        assert as_detector(ours) is ours
    assert repr(PyODDetector(KNN(), 5)).endswith(", 5)")
    assert repr(as_detector(KNN())).startswith("PyODDetector(KNN(") and "\n" not in repr(as_detector(KNN()))
    for other in (KNN, MultiView, IsolationForest(), "ocsvm", None, object()):
        with pytest.raises(TypeError, match="Expected a detector"):
            as_detector(other)
    with pytest.raises(TypeError, match="IsolationForest"):
        PyODDetector(IsolationForest()).detect(batch_of(crowd(8)), 0)


def test_importing_detection_imports_nothing_heavy():
    code = (
        "import sys, flwr_faa.detection; print([m for m in ('pyod', 'sklearn', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
