import subprocess
import sys
import warnings

import numpy as np
import pytest
from pyod.models.abod import ABOD
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.lof import LOF
from pyod.models.pca import PCA
from pyod.models.rod import ROD
from pyod.models.sos import SOS
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
        self.threshold_ = 30.0
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self


def test_label_blocks_get_the_updates_themselves():
    updates = crowd(10)
    updates[6, 28:32] += 10
    batch = batch_of(updates, CROWD_SHAPES)
    found = as_detector(Labelled()).detect(batch, 0)
    assert found.suspects == (6,)
    np.testing.assert_allclose(found.scores, np.abs(updates[:, [28, 29, 30, 31, 34]]).sum(axis=1), rtol=1e-5)
    fixed = Labelled()
    fixed.label_blocks = (np.arange(3),) * 3
    assert as_detector(fixed).detect(batch, 0).suspects == ()


def test_a_detector_that_cannot_work_at_all_leaves_the_decision_to_multiview():
    updates = crowd(8)
    updates[5] += 1000
    with pytest.warns(RuntimeWarning, match="KNN failed on 8 updates .*, so MultiView decides"):
        found = PyODDetector(KNN(n_neighbors=9)).detect(batch_of(updates), 0)
    assert found.suspects == MultiView().detect(batch_of(updates)).suspects
    assert 5 in found.suspects and len(found.suspects) < 4 and found.evidence[0].startswith("KNN failed; ")


class Fragile(KNN):
    """Raises, or has no number, where two rows coincide that are no zeros."""

    def __init__(self, how):
        super().__init__(contamination=0.1)
        self.how = how

    def fit(self, x, y=None):
        super().fit(x)
        if self.decision_scores_.max() > 1e3:
            if self.how == "raises":
                raise ValueError("too far")
            if self.how == "scores":
                self.decision_scores_[0] = np.nan
            self.threshold_ = np.nan
            self.labels_[:] = 0
        return self


@pytest.mark.parametrize("how", ["raises", "scores", "threshold"])
@pytest.mark.parametrize("twice", [False, True])
def test_whoever_breaks_a_detector_is_named_and_the_others_are_not_held(how, twice):
    updates = crowd(12)
    updates[7] += 2000
    updates[3] = updates[7] if twice else updates[3]
    bad = {3, 7} if twice else {7}
    with pytest.warns(RuntimeWarning, match="Fragile failed on 12 updates .* and works without node"):
        found = PyODDetector(Fragile(how)).detect(batch_of(updates), 0)
    assert bad <= set(found.suspects) and len(found.suspects) <= len(bad) + 1
    assert np.isfinite(found.scores).all() and set(np.argsort(-found.scores)[: len(bad)]) == bad
    assert "works without node" in found.evidence[7] and found.evidence[0].startswith("Fragile: ")


@pytest.mark.parametrize("kind", [ABOD, SOS, ROD, PCA, LOF, KNN, ECOD, COPOD, HBOS, LODA])
def test_a_poisoner_among_clients_that_change_nothing_is_not_trusted(kind):
    updates = np.zeros((10, 35), np.float32)
    updates[4] = crowd(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PyODDetector(kind()).detect(batch_of(updates), 0)
    assert 4 in found.suspects and np.isfinite(found.scores).all()
    assert len(found.suspects) <= 5


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
        with pytest.raises(TypeError, match="expected a detector"):
            as_detector(other)
    with pytest.raises(TypeError, match="IsolationForest"):
        PyODDetector(IsolationForest()).detect(batch_of(crowd(8)), 0)


def test_importing_detection_imports_nothing_heavy():
    code = (
        "import sys, flwr_faa.detection; print([m for m in ('pyod', 'sklearn', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
