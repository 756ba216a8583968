"""LoMar as a PyOD detector: any matrix in, scores, threshold and labels out; Flower is not needed.

    labels = LoMarDetector().fit(updates).labels_

Higher = more anomalous, as in PyOD, for both presets. The paper rejects a *small* F, so its score is -log F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pyod.models.base import BaseDetector
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from flwr_lomar.factor import Factor, Kernel, factor_of_new, malicious_factor
from flwr_lomar.neighbourhood import Doubles
from flwr_lomar.threshold import EPS

#: With fewer updates a median and a MAD have no tail to speak of, and nobody is rejected.
FEWEST = 6


@dataclass(frozen=True)
class Preset:
    """One way to run LoMar.

    Attributes
    ----------
    k, kernel, bandwidth, relative
        Of `malicious_factor`.
    threshold : float
        Default, in the unit that ``limit`` takes.
    scores : callable
        From the values of log F to be scored, and the fitted factor, to scores.
    limit : callable
        From the threshold and the number of updates to the score above which an update is rejected.
    """

    k: float
    kernel: Kernel
    bandwidth: float
    relative: bool
    threshold: float
    scores: Callable[[Doubles, Factor], Doubles]
    limit: Callable[[float, int], float]


def paper_scores(log_factor: Doubles, fitted: Factor) -> Doubles:
    """``-log F``: Algorithm 2 rejects the small ones."""
    return 0.0 - log_factor


def robust_scores(log_factor: Doubles, fitted: Factor) -> Doubles:
    """|z| of log F by median and MAD, on both sides: few attackers look sparse, many look dense.

    Where more than half of the values coincide, the mean absolute deviation stands in for the MAD (Iglewicz and Hoaglin
    1993). Differences that may be rounding are none.
    """
    centre = np.median(fitted.log_factor)
    usual = np.abs(fitted.log_factor - centre)
    spread = 1.4826 * float(np.median(usual))
    if spread <= fitted.resolution:
        spread = 1.2533 * float(np.mean(usual))
    return np.asarray(np.abs(log_factor - centre) / max(spread, fitted.resolution))


PRESETS = {
    "paper": Preset(0.4, "printed", 1.0, False, EPS, paper_scores, lambda eps, n: 0.0 - math.log(eps)),
    "robust": Preset(0.4, "gaussian", 1.0, True, 3.0, robust_scores, lambda z, n: z if n >= FEWEST else math.inf),
}


class LoMarDetector(BaseDetector):  # type: ignore[misc]  # pyod has no types
    """Outlier detector by the malicious factor of LoMar.

    Defined for any number of updates. One update, updates that are all equal, and two updates have F = 1: score 0,
    label 0 under both presets. Under ``robust`` nobody is rejected among fewer than six (``threshold_`` is infinite),
    scores are given all the same. A label without columns, or whose columns do not differ, has no say. ``k`` beyond
    ``n - 1`` means ``n - 1``. Rows in another order give the same scores, bit for bit.

    Parameters
    ----------
    preset : {"robust", "paper"} (default: "robust")
        ``paper``: k = .4N, Eq. 6 as printed with a constant bandwidth, rejects F < eps = 1. It is here to be compared
        with: among 1,000 honest clients and 100 label flippers it rejected 28% of the honest and none of the others.
        ``robust``: k = .4N, Gaussian kernel, bandwidth relative to the distances, rejects log F more than 3 robust
        standard deviations from the median on either side. The units of the updates do not matter to it.
    label_blocks : sequence of array-like of int or None (default: None)
        Columns of each output label, disjoint (``Layout.label_blocks``). None or empty: one block of all columns.
    contamination : float (default: 0.1)
        PyOD's share of outliers. Sets the threshold only if ``threshold="contamination"``.
    k : float, int or None (default: None)
        Neighbours, a share (float) or a number (int). None, here and below: the preset's.
    kernel : {"printed", "appendix", "gaussian"} or None (default: None)
    bandwidth : float or None (default: None)
        ``paper``: h, in the units of the updates; the paper gives no value, 1 is ours. ``robust``: its multiple c.
    threshold : float, "contamination" or None (default: None)
        ``paper``: eps, of F. ``robust``: of |z|. "contamination": PyOD's quantile of the scores.

    Attributes
    ----------
    decision_scores_ : ndarray, shape (n,)
        ``paper``: -log F. ``robust``: |z| of log F.
    threshold_ : float
        Scores above it are outliers.
    labels_ : ndarray of int, shape (n,)
        1 is an outlier.
    factor_ : Factor
        What the scores come from.
    updates_ : ndarray, shape (n, d)
        What was fitted: float32 and float64 matrices in C order are not copied.
    n_features_in_ : int
    """

    def __init__(
        self,
        preset: Literal["robust", "paper"] = "robust",
        label_blocks: Sequence[npt.ArrayLike] | None = None,
        contamination: float = 0.1,
        k: float | None = None,
        kernel: Kernel | None = None,
        bandwidth: float | None = None,
        threshold: float | Literal["contamination"] | None = None,
    ) -> None:
        super().__init__(contamination=contamination)
        self.preset = preset
        self.label_blocks = label_blocks
        self.k = k
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.threshold = threshold

    def fit(self, X: npt.ArrayLike, y: object = None) -> LoMarDetector:
        """Score the rows of a matrix against each other.

        Parameters
        ----------
        X : array-like, shape (n, d)
            float32 stays float32; anything else becomes float64.
        y : ignored

        Returns
        -------
        LoMarDetector
            Itself.

        Raises
        ------
        ValueError
            If X is not a finite matrix, or a parameter is out of range.
        """
        self._set_n_classes(y)
        preset, updates = self._preset(), _matrix(X)
        self.factor_ = malicious_factor(
            updates,
            self.label_blocks,
            k=preset.k if self.k is None else self.k,
            kernel=self._kernel(),
            bandwidth=preset.bandwidth if self.bandwidth is None else self.bandwidth,
            relative=preset.relative,
        )
        self.updates_, self.n_features_in_ = updates, updates.shape[1]
        self.decision_scores_ = preset.scores(self.factor_.log_factor, self.factor_)
        self._process_decision_scores()  # PyOD: threshold_ and labels_ by contamination, and what predict_proba needs
        if self.threshold != "contamination":
            threshold = preset.threshold if self.threshold is None else self.threshold
            if isinstance(threshold, str) or not threshold > 0:
                raise ValueError(f"Expected threshold to be positive, contamination or None, got {threshold!r}")
            self.threshold_ = preset.limit(threshold, len(updates))
            self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: npt.ArrayLike) -> Doubles:
        """Score other rows, each by itself, against the fitted ones.

        A fitted row scored again is its own nearest neighbour, and gets another score than ``decision_scores_`` has.

        Parameters
        ----------
        X : array-like, shape (m, d)

        Returns
        -------
        ndarray, shape (m,)

        Raises
        ------
        ValueError
            If X is not a finite matrix with as many columns as were fitted.
        """
        check_is_fitted(self, ["decision_scores_", "threshold_", "labels_"])
        rows = _matrix(X).astype(self.updates_.dtype, copy=False)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"Expected {self.n_features_in_} features, got {rows.shape[1]}")
        log_factor, _ = factor_of_new(rows, self.updates_, self.factor_, self.label_blocks, kernel=self._kernel())
        return self._preset().scores(log_factor, self.factor_)

    def _preset(self) -> Preset:
        if self.preset not in PRESETS:
            raise ValueError(f"Expected preset {' or '.join(PRESETS)}, got {self.preset!r}")
        return PRESETS[self.preset]

    def _kernel(self) -> Kernel:
        return self._preset().kernel if self.kernel is None else self.kernel


def _matrix(X: npt.ArrayLike) -> npt.NDArray[Any]:
    """In C order, float32 or float64. NaN and infinity are left to `factor`, which sees them without another pass."""
    return np.asarray(check_array(X, dtype=[np.float64, np.float32], order="C", ensure_all_finite=False))
