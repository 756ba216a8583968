"""LoMar as an estimator: PyOD's and scikit-learn's conventions, real data, what it does to attackers."""

import copy
import math
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
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.threshold import largest_z
from flwr_faa.replies.updates import Batch, Layout
from flwr_lomar import detector as module
from flwr_lomar import tiles
from flwr_lomar.detector import LoMarDetector
from flwr_lomar.paper.factor import malicious_factor

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
            n_train=100, n_test=40, n_features=4, contamination=0.1, random_state=42
        )
        return LoMarDetector(request.param, contamination=0.1).fit(self.train)

    def test_attributes(self, fitted):
        assert fitted.decision_scores_.shape == fitted.labels_.shape == (100,)
        np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
        assert set(np.unique(fitted.labels_)) <= {0, 1}
        assert fitted.n_features_in_ == 4

    def test_prediction(self, fitted):
        scores, labels = fitted.decision_function(self.test), fitted.predict(self.test)
        assert scores.shape == labels.shape == (40,)
        np.testing.assert_array_equal(labels, scores > fitted.threshold_)
        if fitted.preset == "robust":
            assert roc_auc_score(self.y, fitted.decision_scores_) > 0.8
            assert roc_auc_score(self.y_test, scores) > 0.8

    def test_probabilities_confidence_and_ranks(self, fitted):
        for method in ("linear", "unify"):
            probabilities = fitted.predict_proba(self.test, method=method)
            assert probabilities.shape == (40, 2)
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
        assert detector.labels_.sum() == 20
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


BLOCKS = [[0, 2], [3, 4, 5]]


def few(n=20, columns=8, dtype=np.float64):
    """Updates that point somewhere, and one that is three times as long."""
    x = np.random.default_rng(n).normal(size=(n, columns)) + 1
    x[0] *= 3
    return x.astype(dtype)


class TestWhatIsPromised:
    @pytest.mark.parametrize(
        ("preset", "settings"),
        [
            ("paper", {"kernel": "printed", "relative": False, "least": 0.0}),
            ("robust", {"kernel": "gaussian", "relative": True, "least": 0.05}),
        ],
    )
    @pytest.mark.parametrize("own", [{}, {"k": 3}, {"k": 0.2, "bandwidth": 2.0}, {"kernel": "appendix"}])
    @pytest.mark.parametrize("spread", [1.0, 1e-3])
    def test_a_preset_is_what_its_description_says_unless_told_otherwise(self, preset, settings, own, spread):
        x = 1 + spread * few()
        expected = malicious_factor(x, BLOCKS, **{"k": 0.4, "bandwidth": 1.0} | settings | own)
        found = LoMarDetector(preset, BLOCKS, **own).fit(x)
        np.testing.assert_array_equal(found.factor_.log_factor, expected.log_factor)
        np.testing.assert_array_equal(found.factor_.bandwidth, expected.bandwidth)
        if preset == "paper":
            np.testing.assert_array_equal(found.decision_scores_, -expected.log_factor)
            assert found.evidence_[3] == f"log F = {expected.log_factor[3]:.4g}" and found.views_ == []

    @pytest.mark.parametrize(
        ("n", "statistics", "views", "chances"),
        [(2, 0, 1, 1), (5, 2, 1, 1), (6, 0, 11, 9), (6, 2, 12, 10), (7, 0, 11, 9)],
    )
    def test_the_threshold_comes_from_the_numbers_of_updates_and_of_views_whose_spread_is_measured(
        self, n, statistics, views, chances
    ):
        """Below six updates it is that of six, and only who is grossly far is seen."""
        found = LoMarDetector(statistics=statistics).fit(few(n))
        assert (len(found.views_), found.threshold_) == (views, largest_z(max(n, 6), chances))

    @pytest.mark.parametrize("settings", [{"preset": "robust"}, {"preset": "paper"}, {"threshold": "contamination"}])
    def test_names_may_be_read_from_a_file(self, settings):
        """Then they are equal to those in the code, and not the same objects."""
        read = {name: "".join(list(value)) for name, value in settings.items()}
        x = few() if "paper" in settings.values() else 1e160 * (1 + 1e-3 * few())  # in any unit, however close
        one, other = LoMarDetector(**settings).fit(x), LoMarDetector(**read).fit(x)
        np.testing.assert_array_equal(one.decision_scores_, other.decision_scores_)
        np.testing.assert_array_equal(one.labels_, other.labels_)
        assert one.threshold_ == other.threshold_

    def test_a_threshold_that_is_given_counts(self):
        x = few()
        robust, paper = LoMarDetector(threshold=1.5).fit(x), LoMarDetector("paper", threshold=2.0).fit(x)
        assert robust.threshold_ == 1.5 and paper.threshold_ == -math.log(2.0) and type(robust.threshold_) is float
        assert LoMarDetector("paper").fit(x).threshold_ == 0
        for found in (robust, paper):
            np.testing.assert_array_equal(found.labels_, found.decision_scores_ > found.threshold_)
        assert robust.labels_.any() and paper.labels_.any()

    def test_by_contamination_a_tenth_is_labelled(self):
        assert LoMarDetector(threshold="contamination").fit(few(20)).labels_.sum() == 2
        assert LoMarDetector("paper", threshold="contamination").fit(few(20)).labels_.sum() == 2

    @BOTH
    def test_a_single_update_has_score_0_and_no_view(self, preset):
        found = LoMarDetector(preset).fit(few(1))
        assert (found.decision_scores_.tolist(), found.labels_.tolist(), found.views_) == ([0.0], [0], [])
        assert found.evidence_ == ["" if preset == "robust" else "log F = 0"]

    def test_the_evidence_is_of_the_view_that_is_oddest(self):
        found = LoMarDetector().fit(few())
        assert re.search(r"larger than usual|higher than the usual|farther than usual", found.evidence_[0])
        assert f"(z = {found.decision_scores_[0]:.1f})" in found.evidence_[0]

    def test_float32_stays_and_is_not_copied(self):
        x = few(dtype=np.float32)
        assert np.shares_memory(LoMarDetector().fit(x).updates_, x)
        assert LoMarDetector().fit(np.eye(8, dtype=int)).updates_.dtype == np.float64

    @BOTH
    def test_statistics_are_in_a_view_of_the_robust_preset_and_in_nothing_else(self, preset):
        x = few(12, 9)
        x[5, 7:] = 1e6
        found = LoMarDetector(preset, statistics=2).fit(x)
        alone = LoMarDetector(preset).fit(x[:, :7])
        np.testing.assert_array_equal(found.factor_.log_factor, alone.factor_.log_factor)
        assert found.n_features_in_ == 9
        if preset == "robust":
            assert np.flatnonzero(found.labels_ > alone.labels_).tolist() == [5] and "statistics" in found.evidence_[5]


class TestParameters:
    @pytest.mark.parametrize(
        "least",
        [
            {"k": 1}, {"k": 1e-9}, {"k": 1.0}, {"threshold": 1e-9}, {"statistics": 0}, {"statistics": 7},
            {"contamination": 0.5}, {"contamination": 1e-9}, {"random_state": 0}, {"bandwidth": 1e-9},
            {"label_blocks": [[0], []]}, {"kernel": "printed"}, {"approximate": np.False_}, {"threshold": np.int64(3)},
        ],
    )  # fmt: skip
    def test_what_just_has_a_meaning_is_taken(self, least):
        assert np.isfinite(LoMarDetector(**least).fit(few()).decision_scores_).all()

    @pytest.mark.parametrize(
        ("nonsense", "why"),
        [
            ({"contamination": 0.0}, "contamination to be a finite number above 0 and at most 0.5, got 0"),
            ({"contamination": 0.51}, "contamination to be a finite number above 0 and at most 0.5, got 0.51"),
            ({"contamination": -0.5}, "contamination to be a finite number above 0 and at most 0.5"),
            ({"random_state": -1}, "random_state to be an integer of at least 0, got -1"),
            ({"random_state": 1.5}, "random_state to be an integer"),
            ({"preset": "best"}, "preset paper or robust, got 'best'"),
            ({"kernel": "x"}, "kernel printed, appendix, gaussian or None, got 'x'"),
            ({"threshold": 0.0}, "threshold to be positive, contamination or None, got 0.0"),
            ({"threshold": True}, "threshold to be positive, contamination or None, got True"),
            ({"statistics": -1}, "statistics to be a number of columns, got -1"),
            ({"bandwidth": -1.0}, "a positive bandwidth, got -1.0"),
        ],
    )
    def test_what_has_none_is_refused_at_once_and_when_it_is_set(self, nonsense, why):
        with pytest.raises(ValueError, match=f"expected {why}"):
            LoMarDetector(**nonsense)
        with pytest.raises(ValueError, match=f"expected {why}"):
            LoMarDetector().set_params(**nonsense).fit(few())
        cloud = Cloud.of(batch_of(few()))
        with pytest.raises(ValueError, match=f"expected {why}"):
            LoMarDetector().set_params(**nonsense).fit_cloud(cloud, np.arange(20))

    def test_approximate_is_true_or_false(self):
        with pytest.raises(TypeError, match="expected approximate to be True or False, got 'no'"):
            LoMarDetector(approximate="no")

    def test_statistics_leave_at_least_one_column(self):
        assert LoMarDetector(statistics=7).fit(few()).n_features_in_ == 8
        for many in (8, 9):
            with pytest.raises(ValueError, match=f"expected columns beside {many} of statistics, got 8 in all"):
                LoMarDetector(statistics=many).fit(few())


def batch_of(x):
    """As replies of a model with two labels of three inputs and one array before them; no statistics."""
    layout = Layout(((2,), (2, 2), (2,)), (x.dtype,) * 3)
    return Batch(tuple(range(len(x))), x, np.ones(len(x)), layout, {})


class TestManyOrFew:
    """From ``LARGE`` updates on they are judged tile by tile, and beyond ``SAMPLE`` of them perhaps approximately."""

    @BOTH
    @pytest.mark.parametrize("large", [20, 21])
    def test_tile_by_tile_with_statistics(self, monkeypatch, large, preset):
        x = few(20, 9)
        x[5, 7:] = 1e6
        once = LoMarDetector(preset, BLOCKS, statistics=2).fit(x)
        monkeypatch.setattr(module, "LARGE", large)
        called = []
        monkeypatch.setattr(module, "tiled_factor", lambda *a, **k: called.append(1) or tiles.tiled_factor(*a, **k))
        tiled = LoMarDetector(preset, BLOCKS, statistics=2).fit(x)
        assert bool(called) == (large == 20)
        np.testing.assert_allclose(tiled.decision_scores_, once.decision_scores_, rtol=1e-6, atol=1e-9)
        assert tiled.evidence_ == once.evidence_ and tiled.threshold_ == once.threshold_

    @pytest.mark.parametrize("unit", [1e-200, 1e160])
    def test_tile_by_tile_in_any_unit(self, monkeypatch, unit):
        monkeypatch.setattr(module, "LARGE", 2)
        plain, other = LoMarDetector().fit(few()), LoMarDetector().fit(few() * unit)
        np.testing.assert_allclose(other.decision_scores_, plain.decision_scores_, rtol=1e-6)
        with pytest.raises(ValueError, match="expected finite updates with finite squares"):
            LoMarDetector("paper").fit(few() * 1e160)

    @BOTH
    @pytest.mark.parametrize("large", [3000, 7])
    @pytest.mark.parametrize("own", [None, [], BLOCKS])
    def test_some_updates_of_a_cloud_are_judged_as_a_matrix_of_them(self, monkeypatch, own, large, preset):
        x = few(10)
        cloud, rows = Cloud.of(batch_of(x)), np.array([0, 1, 3, 4, 6, 8, 9])
        matrix = x[[cloud.order[k] for k in rows]]
        columns = [list(c) for c in cloud.label_blocks] if own is None else own
        expected = LoMarDetector(preset, columns).fit(matrix)
        monkeypatch.setattr(module, "LARGE", large)
        found = LoMarDetector(preset, own).fit_cloud(cloud, rows)
        np.testing.assert_allclose(found.decision_scores_, expected.decision_scores_, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(found.labels_, expected.labels_)
        assert len(found.views_) == len(expected.views_)

    @pytest.mark.parametrize(
        ("settings", "sampled"),
        [
            ({}, None),
            ({"approximate": True}, (20, 0)),
            ({"approximate": True, "random_state": 0}, (20, 0)),
            ({"approximate": True, "random_state": 7}, (20, 7)),
        ],
    )
    def test_an_approximate_answer_draws_stand_ins_beyond_so_many_updates(self, monkeypatch, settings, sampled):
        monkeypatch.setattr(module, "LARGE", 2)
        monkeypatch.setattr(module, "require_faiss", lambda: None)
        found = []

        def factor(*given, sample, **more):
            found.append(sample)
            return tiles.tiled_factor(*given, **more)

        monkeypatch.setattr(module, "tiled_factor", factor)
        for size in (20, 19):
            monkeypatch.setattr(module, "SAMPLE", size)
            monkeypatch.setattr(tiles, "SAMPLE", size)
            LoMarDetector(**settings).fit(few())
        assert found[0] is None
        if sampled is None:
            assert found[1] is None
        else:
            drawn = tiles.Sample.drawn(*sampled)
            np.testing.assert_array_equal(found[1].rows, drawn.rows)
            assert found[1].nearest.keywords == drawn.nearest.keywords

    def test_a_number_of_neighbours_has_no_approximate_answer(self, monkeypatch):
        monkeypatch.setattr(module, "require_faiss", lambda: None)
        with pytest.raises(ValueError, match="expected k to be a share with approximate=True, got 3 neighbours"):
            LoMarDetector(approximate=True, k=3)
        assert LoMarDetector(approximate=True, k=0.3).k == 0.3


def test_importing_the_package_is_cheap():
    heavy = "{'numpy', 'pyod', 'sklearn', 'flwr', 'torch'}"
    code = f"import sys, flwr_lomar; assert not {heavy} & set(sys.modules); flwr_lomar.LoMarDetector; import pyod"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = flwr_lomar.Nothing
