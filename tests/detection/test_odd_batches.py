"""Batches that no honest federation sends: every detector has an answer, a finite one, and holds nobody for others."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyod.models.abod import ABOD
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lof import LOF
from pyod.models.pca import PCA

from flwr_faa.detection import OCSVM, MultiView, Sequential, as_detector
from flwr_faa.detection.units import FAR, measurable
from flwr_faa.replies.updates import Batch
from flwr_lomar import LoMarDetector
from tests.detection.simulate import batch_of, crowd

DETECTORS = {
    "multiview": MultiView(),
    "multiview 5": MultiView(threshold=5),
    "sequential": Sequential(),
    "ocsvm": OCSVM(),
    "lomar": as_detector(LoMarDetector()),
    "lomar paper": as_detector(LoMarDetector("paper")),
    "knn": as_detector(KNN()),
    "abod": as_detector(ABOD()),
    "lof": as_detector(LOF()),
    "pca": as_detector(PCA()),
    "ecod": as_detector(ECOD()),
    "iforest": as_detector(IForest(n_estimators=5)),
}
LARGEST = {np.float32: 3e38, np.float64: 1e300}


@st.composite
def odd_updates(draw):
    """Updates with clones, constant columns, zeros, huge and tiny ones; of few clients and few columns."""
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 10))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(size=d) + draw(st.sampled_from([0.0, 1e-7, 1e-3, 1.0])) * rng.normal(size=(n, d))
    x *= draw(st.sampled_from([1e-30, 1e-4, 1.0, 1e4, 1e15, 1e30]))
    for row in range(n):
        kind = draw(st.sampled_from(["as it is"] * 6 + ["zero", "clone", "huge", "tiny", "largest"]))
        if kind == "zero":
            x[row] = 0
        elif kind == "clone":
            x[row] = x[0]
        elif kind in ("huge", "tiny"):
            x[row] *= 1e15 if kind == "huge" else 1e-15
        elif kind == "largest":
            x[row] = LARGEST[dtype] * np.sign(x[row])
    if draw(st.booleans()):
        x[:, : draw(st.integers(1, d))] = draw(st.sampled_from([0.0, 1.0, -7.5]))
    x = x.astype(dtype)
    assume(np.isfinite(x).all())
    shapes = ((d,),) if d < 4 or draw(st.booleans()) else ((d - 4,), (2, 1), (2,))
    return x, shapes


def detect(name: str, batch: Batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DETECTORS[name].detect(batch, 3)


@pytest.mark.parametrize("name", list(DETECTORS))
@given(odd=odd_updates(), shuffle=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_every_batch_has_finite_scores_in_any_order(name, odd, shuffle):
    x, shapes = odd
    order = np.random.default_rng(shuffle).permutation(len(x))
    found, again = detect(name, batch_of(x, shapes)), detect(name, batch_of(x[order], shapes))
    assert np.isfinite(found.scores).all() and len(found.evidence) == len(x) == len(found.scores)
    assert "nan" not in " ".join(found.evidence).split()
    assert np.array_equal(found.scores[order], again.scores)
    assert [x[row].tobytes() for row in found.suspects] == [x[order][row].tobytes() for row in again.suspects]


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in ("ocsvm", "lomar paper", "multiview 5")])
@given(
    n=st.integers(3, 12),
    d=st.integers(1, 30),
    near=st.sampled_from([0.0, 1e-9, 1e-5]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e10, 1e30]),
    times=st.sampled_from([1e2, 1e4, 1e7]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_a_poisoner_far_away_among_nearly_equal_updates_is_suspected(name, n, d, near, scale, times, seed):
    rng = np.random.default_rng(seed)
    x = scale * (1 + rng.random(d)) * (1 + near * rng.normal(size=(n, d)))
    x[-1] = times * (scale or 1.0) * (1 + rng.random(d)) * rng.choice([-1, 1], d)
    found = detect(name, batch_of(x.astype(np.float32)))
    assert n - 1 in found.suspects or n - 1 in found.audits
    assert len(found.suspects) < n


@pytest.mark.parametrize("name", ["multiview", "lomar"])
def test_nearly_equal_updates_are_equal(name):
    """An update .01% off nine that are the same moves the mean by a hundred-thousandth."""
    for off in (1e-6, 1e-4, 1e-2):
        updates = np.tile(crowd(1), (10, 1))
        updates[4] *= 1 + off
        updates[6, 0] += off
        assert detect(name, batch_of(updates)).suspects == ()


def test_only_what_cannot_be_measured_is_scaled_and_that_exactly():
    x = crowd(6)
    assert measurable(x) is x
    x[2] *= 100
    assert measurable(x) is x
    for unit in (2.0**-90, 2.0**90):
        unit = np.float32(unit)
        scaled = measurable(crowd(6) * unit)
        ratio = scaled / crowd(6)
        assert len(np.unique(ratio)) == 1 and np.isfinite(np.square(scaled).sum()) and np.square(scaled).min() > 0
    x[2] = np.float32(1e30)
    shrunk = measurable(x)
    assert np.array_equal(np.delete(shrunk, 2, 0), np.delete(x, 2, 0))
    usual = np.median(np.abs(x).max(axis=1))
    np.testing.assert_allclose(shrunk[2], FAR * usual, rtol=1e-6)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="expected finite"):
            measurable(np.array([[1.0, bad], [0.0, 1.0]]))
    assert not measurable(np.zeros((3, 0))).size and not measurable(np.zeros((3, 2))).any()
