"""LoMar as an estimator over matrices that break arithmetic, parameters that mean nothing, and rows that come later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_lomar.detector import LoMarDetector


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1e5, 1e15, 1e30, -3e38])
def test_a_huge_value_is_an_outlier_and_no_nan(dtype, value):
    x = np.random.default_rng(0).normal(size=(20, 30)).astype(dtype)
    x[3, 4] = value
    detector = LoMarDetector().fit(x)
    assert np.isfinite(detector.decision_scores_).all()
    assert detector.labels_[3] == 1 and detector.labels_.sum() == 1


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    d=st.integers(1, 8),
    unit=st.sampled_from([1e-300, 1e-40, 1e-30, 1.0, 1e30, 1e300]),
    row=st.sampled_from([0.0, 1e-200, 1.0, 1e8, 1e200]),
    blocks=st.booleans(),
)
@settings(max_examples=60)
def test_scores_are_finite_whatever_the_unit(seed, n, d, unit, row, blocks):
    x = np.random.default_rng(seed).normal(size=(n, d)) * unit
    x[0] = np.clip(x[0] * row, -1e307, 1e307)
    given_blocks = [np.arange(d // 2), np.arange(d // 2, d)] if blocks and d > 1 else None
    detector = LoMarDetector(label_blocks=given_blocks).fit(x)
    assert np.isfinite(detector.decision_scores_).all() and np.isfinite(detector.threshold_)
    same = LoMarDetector(label_blocks=given_blocks).fit(np.ldexp(x, 0))
    assert np.array_equal(same.decision_scores_, detector.decision_scores_)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"k": np.float32(0.4)}, {"k": 0.4}),
        ({"k": np.float64(0.4)}, {"k": 0.4}),
        ({"k": np.float16(0.5)}, {"k": 0.5}),
        ({"k": np.int32(7)}, {"k": 7}),
        ({"k": np.uint8(7)}, {"k": 7}),
        ({"bandwidth": np.float32(0.5)}, {"bandwidth": 0.5}),
        ({"threshold": np.float32(4)}, {"threshold": 4.0}),
        ({"statistics": np.int64(2)}, {"statistics": 2}),
    ],
)
def test_numpys_scalars_are_numbers(theirs, ours):
    x = np.random.default_rng(1).normal(size=(20, 6))
    one, other = LoMarDetector(**theirs).fit(x), LoMarDetector(**ours).fit(x)
    np.testing.assert_array_equal(one.decision_scores_, other.decision_scores_)
    np.testing.assert_array_equal(one.factor_.neighbours, other.factor_.neighbours)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"preset": "best"}, {"preset": None}, {"preset": ["robust"]},
        {"k": 0}, {"k": -1}, {"k": 1.5}, {"k": float("nan")}, {"k": "many"}, {"k": True}, {"k": [3]},
        {"kernel": "x"}, {"kernel": 3}, {"bandwidth": 0}, {"bandwidth": "wide"}, {"bandwidth": float("inf")},
        {"threshold": 0.0}, {"threshold": -1}, {"threshold": "auto"}, {"threshold": float("nan")}, {"threshold": True},
        {"contamination": 0}, {"contamination": 0.9}, {"contamination": "auto"}, {"contamination": None},
        {"statistics": -1}, {"statistics": 1.5}, {"statistics": None},
        {"label_blocks": 3}, {"label_blocks": [[0, 1], [1]]}, {"label_blocks": [[0.5]]}, {"label_blocks": [0, 1]},
        {"label_blocks": [[-1]]}, {"label_blocks": "01"}, {"k": np.zeros(2)},
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line_where_it_is_said(nonsense):
    with pytest.raises(ValueError, match=r"(?i)expected|contamination") as caught:
        LoMarDetector(**nonsense)
    assert "\n" not in str(caught.value)
    if not {"contamination"} & nonsense.keys():
        with pytest.raises(ValueError, match="expected"):
            LoMarDetector().set_params(**nonsense).fit(np.eye(8))


@pytest.mark.parametrize("shape", [(40, 20), (30, 200), (60, 4)])
def test_new_rows_from_the_same_distribution_are_no_outliers(shape):
    """Seven of eight were: their distance to the fitted rows' centre is not that of the fitted."""
    rng = np.random.default_rng(2)
    common = rng.normal(size=shape[1])
    detector = LoMarDetector().fit(common + rng.normal(size=shape))
    assert detector.predict(common + rng.normal(size=(40, shape[1]))).sum() <= 2
    odd = np.stack([-10 * common, common + 20 * rng.normal(size=shape[1]), detector.updates_[3] * 10])
    assert detector.predict(odd).tolist() == [1, 1, 1]


def test_a_new_row_has_the_score_that_it_has_among_the_fitted_and_itself():
    x = np.random.default_rng(3).normal(size=(21, 15))
    detector = LoMarDetector().fit(x[:20])
    assert detector.decision_function(x[20:]) == LoMarDetector().fit(x).decision_scores_[20]
