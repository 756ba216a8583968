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

from flwr_faa.detection import OCSVM, MultiView, PyODDetector, Sequential, as_detector, pyod
from flwr_faa.replies.updates import Batch, Layout
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


class Told:
    """A detector with the scores, threshold and labels that a test chose, which it leaves or whose error it raises."""

    def __init__(self, scores, threshold=1.0, error=None, **attributes):
        self.scores, self.threshold, self.error = np.asarray(scores, float), threshold, error
        self.seen = []
        self.__dict__.update(attributes)

    def __deepcopy__(self, memo):
        made = Told(self.scores, self.threshold, self.error)
        made.__dict__.update(self.__dict__)  # what is seen is seen by all copies
        return made

    def fit(self, x):
        self.seen.append({"shape": x.shape, **{k: v for k, v in vars(self).items() if k != "seen"}})
        if self.error is not None:
            raise self.error
        self.decision_scores_, self.threshold_ = self.scores[: len(x)], self.threshold
        self.labels_ = (self.decision_scores_ > self.threshold).astype(int)


def told(batch, scores, **more):
    """A detection whose detector gave these scores to the rows of the batch."""
    return PyODDetector(Told(np.asarray(scores, float)[list(batch.canonical)], **more)).detect(batch, 0)


def test_scores_threshold_and_labels_are_reported_as_they_are():
    batch = batch_of(crowd(4))
    found = told(batch, [0.5, 3.0, -1.0, 2.0], threshold=1.25, evidence_=["near"] * 4)
    assert found.scores.tolist() == [0.5, 3.0, -1.0, 2.0] and found.threshold == 1.25
    assert found.suspects == (1, 3) and found.evidence[0] == "Told: 0.5 against 1.25; near"
    assert told(batch, [0.5, 3.0, -1.0, 2.0]).evidence[1] == "Told: 3 against 1"
    with pytest.raises(ValueError, match="shorter"):  # one line a row
        told(batch, [0.5, 3.0, -1.0, 2.0], evidence_=["near"] * 3)
    endless = told(batch, [0.5, np.inf, -1.0, 0.0])
    assert endless.suspects == (1,) and endless.scores[1] == np.finfo(float).max


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [([0, 0, np.nan, 9, 0, 0, 0, 0], 1.0), ([0, 0, 0, 9, 0, 0, 0, 0], np.nan), ([0, 0, -np.inf, 9, 0, 0, 0, 0], 1.0)],
)
def test_a_score_or_a_threshold_that_is_no_number_is_enough_to_do_without_a_detector(scores, threshold):
    """Although it has named somebody, and somebody else it has not."""
    batch = batch_of(crowd(8))
    broken = Told(scores, threshold)
    with pytest.warns(
        RuntimeWarning, match="Told failed on 8 updates .a score or the threshold is not a number., so MultiView"
    ) as w:
        found = PyODDetector(broken).detect(batch, 0)
    assert found.threshold == MultiView().detect(batch).threshold
    assert w[0].filename == __file__  # the warning points at who asked


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, IndexError, RuntimeError, np.linalg.LinAlgError])
def test_what_numerics_raise_is_survived(error):
    batch = batch_of(crowd(8))
    with pytest.warns(RuntimeWarning, match=f"{error.__name__}: too odd.*MultiView decides"):
        found = PyODDetector(Told(np.zeros(8), error=error("too odd"))).detect(batch, 0)
    assert found.evidence[0].startswith("Told failed; ")


def test_a_mistake_of_the_program_is_not_taken_for_odd_updates():
    with pytest.raises(TypeError, match="not an array"):
        PyODDetector(Told(np.zeros(8), error=TypeError("not an array"))).detect(batch_of(crowd(8)), 0)


@pytest.mark.parametrize(("seed", "state"), [(0, 0), (7, 7), (2**32 - 1, 2**32 - 1), (2**32 + 5, 5), (-1, 2**32 - 1)])
def test_a_random_state_that_is_left_open_is_the_round_s_seed(seed, state):
    for given, expected in ((None, state), (3, 3)):
        detector = Told(np.zeros(4), random_state=given)
        PyODDetector(detector).detect(batch_of(crowd(4)), seed)
        assert [seen["random_state"] for seen in detector.seen] == [expected]
        assert detector.random_state == given


@pytest.mark.parametrize(("components", "shape"), [(None, (6, 5)), (2, (6, 2)), (9, (6, 5))])
def test_so_many_principal_coordinates_are_kept(components, shape):
    detector = Told(np.zeros(6))
    PyODDetector(detector, components).detect(batch_of(crowd(6, dtype=np.float64)), 0)
    assert [seen["shape"] for seen in detector.seen] == [shape]


def test_who_works_on_parameters_gets_statistics_only_if_it_asks():
    layout = Layout((*CROWD_SHAPES, (40,)), (np.dtype(np.float32),) * 4, names=("a", "b", "c", "running_mean"))
    updates = np.concatenate([crowd(5), np.ones((5, 40), np.float32)], axis=1)
    batch = Batch(tuple(range(5)), updates, np.ones(5), layout, {})
    for attributes, columns in (({}, 35), ({"statistics": None}, 75)):
        detector = Told(np.zeros(5), label_blocks=None, **attributes)
        PyODDetector(detector).detect(batch, 0)
        (seen,) = detector.seen
        assert seen["shape"] == (5, columns) and len(seen["label_blocks"]) == 3
        assert "statistics" not in attributes or seen["statistics"] == 40


@pytest.mark.parametrize("n", [1, 2])
def test_one_client_is_no_suspect_and_of_two_one_may_be(n):
    detector = Told([5.0, 0.0])
    found = PyODDetector(detector).detect(batch_of(crowd(n)), 0)
    assert len(detector.seen) == n - 1 and len(found.suspects) == n - 1
    if n == 1:
        assert found.scores.tolist() == [0.0] and found.threshold == 0.0
        assert found.evidence == ("Told: nobody to compare with",)


def test_nobody_is_compared_with_nobody():
    """Of two whose detector fails nobody is left out: one alone cannot be fitted."""
    detector = Told([0.0, 0.0], error=ValueError("two"))
    with pytest.warns(RuntimeWarning, match="MultiView decides"):
        PyODDetector(detector).detect(batch_of(crowd(2)), 0)
    assert len(detector.seen) == 1


@pytest.mark.parametrize(
    ("n", "suspects", "sizes"),
    [(12, 3, [3, 1, 2, 4]), (12, 0, [1, 2, 4]), (12, 6, [6, 1, 2, 4]), (12, 7, [1, 2, 4]), (16, 2, [2, 1, 4, 8]),
     (15, 1, [1, 2, 4]), (2, 1, [1]), (3, 2, [1]), (1, 1, [])],
)  # fmt: skip
def test_the_suspects_are_left_out_first_then_the_oddest_and_at_most_half(n, suspects, sizes):
    order = list(range(n))[::-1]
    assert list(pyod._oddest(order, suspects)) == [order[:size] for size in sizes]


class Blind:
    """Finds the last odd, and nothing else; as LoMar it works on distances."""

    def fit_cloud(self, cloud, places):
        self.decision_scores_, self.threshold_ = np.eye(len(places))[-1], 0.5
        self.labels_ = (self.decision_scores_ > 0.5).astype(int)


class BlindMatrix(Blind):
    """The same without distances."""

    fit_cloud = property()  # hasattr is False

    def fit(self, x):
        Blind.fit_cloud(self, None, x)


@pytest.mark.parametrize(
    ("kind", "many", "trusted"),
    [(Blind, 13, False), (Blind, 12, True), (Blind, 5, True), (BlindMatrix, 13, False), (BlindMatrix, 12, False)],
)
def test_in_large_rounds_who_works_on_distances_is_trusted_to_see_who_is_far(monkeypatch, kind, many, trusted):
    monkeypatch.setattr(pyod, "MANY", many)
    updates = np.zeros((12, 35), np.float32)
    updates[:, 0], updates[:, 1], updates[4] = 1, 1e-5 * np.arange(12), 1000
    batch = batch_of(updates)
    assert batch.canonical[-1] != 4  # whom the detector names
    if trusted:
        assert 4 not in PyODDetector(kind()).detect(batch, 0).suspects
    else:
        with pytest.warns(RuntimeWarning, match="finds nothing odd in an update far from equal ones"):
            assert 4 in PyODDetector(kind()).detect(batch, 0).suspects


class Short(Told):
    """Fails on a full round, and finds nobody odd in others."""

    def __deepcopy__(self, memo):
        made = Short(self.scores, self.threshold)
        made.seen = self.seen
        return made

    def fit(self, x):
        super().fit(x)
        if len(x) == len(self.scores):
            raise ValueError("one too many")
        self.labels_[:] = 0


@pytest.mark.parametrize("highest", [-5.0, 0.0, 0.25, 7.0, 1e308])
@pytest.mark.parametrize("threshold", [-8.0, 0.5, 20.0, np.inf, 1e308])
def test_whoever_had_to_be_left_out_is_odder_than_all_others(highest, threshold):
    updates = crowd(9)
    updates[5] *= 50
    with pytest.warns(RuntimeWarning, match="works without node 5") as w:
        found = PyODDetector(Short(highest - np.arange(9.0), threshold)).detect(batch_of(updates), 0)
    assert found.suspects[0] == 5 and np.isfinite(found.scores).all() and w[0].filename == __file__
    most = max(np.delete(found.scores, 5).max(), threshold if np.isfinite(threshold) else -np.inf)
    assert found.scores[5] > most or found.scores[5] == np.finfo(float).max
    assert found.threshold == threshold


def test_all_odd_is_no_answer():
    with pytest.warns(RuntimeWarning, match="it finds all of them odd"):
        PyODDetector(Told(np.full(8, 5.0))).detect(batch_of(crowd(8)), 0)


def test_a_detector_needs_both_methods_or_a_fit_with_labels():
    class Half:
        def detect(self, batch, seed):
            return None

    class Fits:
        def fit(self, x):
            return self

    for other in (Half(), Fits()):
        with pytest.raises(TypeError, match="expected a detector"):
            as_detector(other)
    labelled = Fits()
    labelled.label_blocks = None
    assert as_detector(labelled).detector is labelled
