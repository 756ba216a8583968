"""LoMar as an estimator: PyOD's and scikit-learn's conventions, real data, what it does to attackers."""

import copy
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from pyod.utils.data import generate_data
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import flwr_lomar
from flwr_faa.detection import PyODDetector
from flwr_faa.replies.updates import Batch, Layout
from flwr_lomar.detector import LoMarDetector

BOTH = pytest.mark.parametrize("preset", ["robust", "paper"])


def digits():
    """Zeros, and eight other digits."""
    data, target = load_digits(return_X_y=True)
    rows = np.r_[np.flatnonzero(target == 0)[:150], np.flatnonzero(target == 4)[:8]]
    return data[rows], (target[rows] != 0).astype(int)


def cancer():
    """Benign tumours, and ten malignant ones."""
    data, target = load_breast_cancer(return_X_y=True)
    rows = np.r_[np.flatnonzero(target == 1)[:200], np.flatnonzero(target == 0)[:10]]
    return StandardScaler().fit_transform(data[rows]), (target[rows] == 0).astype(int)


class TestData:
    @pytest.mark.parametrize("load", [digits, cancer])
    def test_finds_what_is_different(self, load):
        """By default only who is far enough to matter in a mean is labelled; other data set a contamination."""
        data, odd = load()
        detector = LoMarDetector(threshold="contamination", contamination=odd.mean()).fit(data)
        assert roc_auc_score(odd, detector.decision_scores_) > 0.85
        assert detector.labels_[odd == 1].mean() > 3 * detector.labels_[odd == 0].mean()
        assert LoMarDetector().fit(data).labels_[odd == 0].mean() <= 0.02

    @pytest.mark.parametrize("load", [digits, cancer])
    def test_the_paper_keeps_a_few_that_are_different(self, load):
        data, odd = load()
        assert roc_auc_score(odd, LoMarDetector("paper").fit(data).decision_scores_) < 0.5

    def test_lists_integers_and_frames(self):
        data, _ = digits()
        scores = LoMarDetector().fit(data).decision_scores_
        for same in (data.astype(int), data.tolist(), np.asfortranarray(data)):
            np.testing.assert_array_equal(LoMarDetector().fit(same).decision_scores_, scores)


def test_a_hairs_breadth_among_equals_has_no_malicious_factor():
    """A bandwidth taken from the neighbours alone would be 0, and their smallest difference infinite."""
    data = np.tile(np.linspace(1, 2, 40), (10, 1))
    data[3] += 1e-6 * np.random.default_rng(0).normal(size=40)
    assert np.abs(LoMarDetector().fit(data).factor_.log_factor).max() < 1e-3


class TestPyOD:
    """PyOD's own checks of a detector."""

    @pytest.fixture(params=["robust", "paper"])
    def fitted(self, request):
        self.train, self.test, self.y, self.y_test = generate_data(
            n_train=200, n_test=100, n_features=4, contamination=0.1, random_state=42
        )
        return LoMarDetector(request.param, contamination=0.1).fit(self.train)

    def test_attributes(self, fitted):
        assert fitted.decision_scores_.shape == fitted.labels_.shape == (200,)
        np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
        assert set(np.unique(fitted.labels_)) <= {0, 1}
        assert fitted.n_features_in_ == 4

    def test_prediction(self, fitted):
        scores, labels = fitted.decision_function(self.test), fitted.predict(self.test)
        assert scores.shape == labels.shape == (100,)
        np.testing.assert_array_equal(labels, scores > fitted.threshold_)
        if fitted.preset == "robust":
            assert roc_auc_score(self.y, fitted.decision_scores_) > 0.8
            assert roc_auc_score(self.y_test, scores) > 0.8

    def test_probabilities_confidence_and_ranks(self, fitted):
        for method in ("linear", "unify"):
            probabilities = fitted.predict_proba(self.test, method=method)
            assert probabilities.shape == (100, 2)
            assert ((probabilities >= 0) & (probabilities <= 1)).all()
        _, confidence = fitted.predict(self.test, return_confidence=True)
        assert ((confidence >= 0) & (confidence <= 1)).all()
        assert fitted._predict_rank(self.test, normalized=True).max() <= 1
        certain, rejecting = fitted.predict(self.test), fitted.predict_with_rejection(self.test)
        assert ((rejecting == certain) | (rejecting == -2)).all() and (rejecting != -2).any()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(fitted.fit_predict(self.train), fitted.labels_)

    def test_contamination(self, fitted):
        detector = clone(fitted).set_params(threshold="contamination", contamination=0.2).fit(self.train)
        assert detector.labels_.sum() == 40
        kept = fitted.labels_ == 0  # an outlier may have had a second look
        np.testing.assert_array_equal(detector.decision_scores_[kept], fitted.decision_scores_[kept])
        assert (detector.decision_scores_ >= fitted.decision_scores_).all()

    def test_clone_pickle_and_copy(self, fitted):
        unfitted = clone(LoMarDetector(fitted.preset, label_blocks=[np.arange(2), [2, 3]], k=7, bandwidth=0.5))
        assert not hasattr(unfitted, "labels_")
        assert unfitted.get_params()["k"] == 7
        assert re.search(rf"k=7,.* preset=.{fitted.preset}", repr(unfitted), re.DOTALL)
        for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):  # noqa: S301
            np.testing.assert_array_equal(again.decision_function(self.test), fitted.decision_function(self.test))

    def test_wrong_input(self, fitted):
        with pytest.raises(ValueError, match="expected 4 features, got 3"):
            fitted.decision_function(self.test[:, :3])
        for bad in (np.nan, np.inf):
            for act in (clone(fitted).fit, fitted.decision_function):
                with pytest.raises(ValueError, match="expected finite"):
                    act(np.where(np.arange(self.test.size).reshape(self.test.shape) == 5, bad, self.test))
        for parameter in ({"preset": "best"}, {"threshold": 0.0}, {"threshold": "auto"}, {"k": -1}, {"kernel": "x"}):
            with pytest.raises(ValueError, match="expected"):
                clone(fitted).set_params(**parameter).fit(self.train)
        with pytest.raises(ValueError, match="Expected 2D array"):
            clone(fitted).fit(self.train[0])


def honest_and(attackers, n=60, d=200, dtype=np.float32):
    """Honest updates around a common direction, in ten labels, and others appended."""
    rng = np.random.default_rng(5)
    common = rng.normal(size=d)
    updates = common + rng.normal(size=(n, d)) * rng.lognormal(0, 0.1, (n, 1))
    return np.concatenate([updates, attackers(common, updates, rng)]).astype(dtype), list(np.arange(d).reshape(10, -1))


class TestUpdates:
    @pytest.mark.parametrize(
        "attackers",
        [
            lambda common, updates, rng: 10 * updates[:4],
            lambda common, updates, rng: -updates[:4],
            lambda common, updates, rng: common + 3 * rng.normal(size=(4, len(common))),
        ],
        ids=["boosted", "signs flipped", "noise"],
    )
    def test_scattered_attackers_are_rejected_in_any_unit(self, attackers):
        updates, blocks = honest_and(attackers)
        labels = LoMarDetector(label_blocks=blocks).fit(updates).labels_
        assert labels[60:].all()
        assert labels[:60].mean() < 0.1
        for unit in (1e-4, 0.37, 1e4):
            np.testing.assert_array_equal(
                LoMarDetector(label_blocks=blocks).fit(updates * np.float32(unit)).labels_, labels
            )

    def test_a_few_copies_are_rejected_from_the_other_side(self):
        updates, blocks = honest_and(lambda common, updates, rng: np.tile(updates.mean(axis=0), (6, 1)))
        detector = LoMarDetector(label_blocks=blocks).fit(updates)
        assert detector.labels_[60:].all()
        assert (detector.factor_.log_factor[60:] < np.median(detector.factor_.log_factor)).all()

    @BOTH
    def test_as_a_detector_of_faa_dl(self, preset):
        updates, _ = honest_and(lambda common, updates, rng: 10 * updates[:4])
        order = np.random.default_rng(1).permutation(len(updates))
        layout = Layout(((10, 19), (10,)), (np.dtype("f4"), np.dtype("f4")))
        batch = Batch(tuple(range(64)), updates[order], np.ones(64), layout, {})
        found = PyODDetector(LoMarDetector(preset)).detect(batch, seed=0)
        expected = LoMarDetector(preset, label_blocks=layout.label_blocks).fit(updates)
        # Not to the last bit: in a round the rows are in the order of a keyed hash, here in that of their bytes.
        np.testing.assert_allclose(found.scores, expected.decision_scores_[order], rtol=1e-6)
        assert set(order[list(found.suspects)]) == set(np.flatnonzero(expected.labels_))

    @BOTH
    def test_without_a_classifier_all_columns_are_one_block(self, preset):
        updates, _ = honest_and(lambda common, updates, rng: 10 * updates[:4])
        np.testing.assert_array_equal(
            LoMarDetector(preset, label_blocks=()).fit(updates).decision_scores_,
            LoMarDetector(preset).fit(updates).decision_scores_,
        )


class TestDegenerate:
    @BOTH
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_few(self, n, preset):
        detector = LoMarDetector(preset).fit(np.random.default_rng(n).normal(size=(n, 6)))
        assert np.isfinite(detector.decision_scores_).all()
        assert preset == "paper" or not detector.labels_.any()
        if n <= 2:
            assert len(set(detector.decision_scores_)) == 1 and not detector.labels_.any()
            assert not detector.factor_.log_factor.any()
        assert len(detector.evidence_) == n
        assert detector.decision_function(np.zeros((3, 6))).shape == (3,)

    @BOTH
    def test_equal(self, preset):
        detector = LoMarDetector(preset, label_blocks=[[0, 1], []]).fit(np.full((12, 3), 0.7, np.float32))
        assert not detector.decision_scores_.any() and not detector.labels_.any()

    def test_one_among_equals(self):
        updates = np.zeros((12, 3))
        updates[4] = 1
        np.testing.assert_array_equal(np.flatnonzero(LoMarDetector().fit(updates).labels_), [4])

    def test_equidistant_updates_differ_by_rounding_only(self):
        assert LoMarDetector().fit(np.eye(30) * 0.3).decision_scores_.max() < 1


def test_importing_the_package_is_cheap():
    heavy = "{'numpy', 'pyod', 'sklearn', 'flwr', 'torch'}"
    code = f"import sys, flwr_lomar; assert not {heavy} & set(sys.modules); flwr_lomar.LoMarDetector; import pyod"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = flwr_lomar.Nothing
