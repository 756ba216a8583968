"""LoMar as a PyOD detector: any matrix in, scores, threshold and labels out; Flower is not needed.

    labels = LoMarDetector().fit(updates).labels_

Higher = more anomalous, as in PyOD, for both presets. The paper rejects a *small* F, so its score is -log F. The robust
score is the largest |z| over the views of ``views``, and its threshold `largest_z` of their number and the updates'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pyod.models.base import BaseDetector
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from flwr_lomar.factor import Kernel, factor_of_new, malicious_factor
from flwr_lomar.neighbourhood import Doubles
from flwr_lomar.threshold import EPS, largest_z
from flwr_lomar.views import Sight, kinder, looks, z_of

#: With fewer updates a median and a MAD have no tail to speak of, and nobody is rejected.
FEWEST = 6


@dataclass(frozen=True)
class Preset:
    """One way to run LoMar: `k`, `kernel`, `bandwidth` and `relative` are those of `malicious_factor`."""

    k: float
    kernel: Kernel
    bandwidth: float
    relative: bool


PRESETS = {"paper": Preset(0.4, "printed", 1.0, False), "robust": Preset(0.4, "gaussian", 1.0, True)}


class LoMarDetector(BaseDetector):  # type: ignore[misc]  # pyod has no types
    """Outlier detector by the malicious factor of LoMar.

    Defined for any number of updates. One update, and updates that are all equal, have score 0 and label 0 under both
    presets; two updates have F = 1. Under ``robust`` nobody is rejected among fewer than six (``threshold_`` is
    infinite), scores are given all the same. A label without columns, or whose columns do not differ, has no say. ``k``
    beyond ``n - 1`` means ``n - 1``. Rows in another order give the same scores, bit for bit.

    Parameters
    ----------
    preset : {"robust", "paper"} (default: "robust")
        ``paper``: k = .4N, Eq. 6 as printed with a constant bandwidth, rejects F < eps = 1. It is here to be compared
        with: among 1,000 honest clients and 100 label flippers it rejected 28% of the honest and none of the others.
        ``robust``: rejects an update that is odd in any of its views (``flwr_lomar/views.py``, ``docs/lomar.md``), on
        either side; one of them is log F with k = .4N, a Gaussian kernel and a bandwidth relative to the distances.
        The units of the updates do not matter to it.
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
        ``paper``: eps, of F. ``robust``: of |z|; None is `largest_z`, 4.4 for 100 updates of a logistic regression,
        6.3 for 20 of a deeper model. "contamination": PyOD's quantile of the scores.

    Attributes
    ----------
    decision_scores_ : ndarray, shape (n,)
        ``paper``: -log F. ``robust``: the largest |z| over the views, in the kindest look (``views``).
    threshold_ : float
        Scores above it are outliers.
    labels_ : ndarray of int, shape (n,)
        1 is an outlier.
    factor_ : Factor
        log F and what it comes from.
    views_ : list of View
        ``robust`` only: what the scores come from; empty for a single update.
    evidence_ : list of str, length n
        Why each update has its score: the view of its largest |z|.
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
        preset, updates, robust = self._preset(), _matrix(X), self.preset == "robust"
        n = len(updates)
        self._sight = Sight()
        self.factor_ = malicious_factor(
            updates,
            self.label_blocks,
            k=preset.k if self.k is None else self.k,
            kernel=self._kernel(),
            bandwidth=preset.bandwidth if self.bandwidth is None else self.bandwidth,
            relative=preset.relative,
            watch=self._sight if robust else None,
        )
        self.updates_, self.n_features_in_ = updates, updates.shape[1]
        log_factor = self.factor_.log_factor
        views = self._sight.views(log_factor, self.factor_.place) if robust and n > 1 else []
        limit = self._limit(n, len(views))
        if robust:
            self.views_, z = views, np.zeros((0, n))
            if views:
                z, self._calm = looks(views, limit)
            self.decision_scores_ = np.abs(z).max(axis=0, initial=0.0)
            top = np.abs(z).argmax(axis=0) if len(z) else ()
            self.evidence_ = [views[v].explain(i, z[v, i]) for i, v in enumerate(top)] or [""] * n
        else:
            self.decision_scores_ = 0.0 - log_factor
            self.evidence_ = [f"log F = {f:.4g}" for f in log_factor]
        self._process_decision_scores()  # PyOD: threshold_ and labels_ by contamination, and what predict_proba needs
        if self.threshold != "contamination":
            self.threshold_ = limit
            self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: npt.ArrayLike) -> Doubles:
        """Score other rows, each by itself, against the fitted ones, by their medians and MADs.

        A fitted row scored again is its own nearest neighbour, and gets another score than ``decision_scores_`` has:
        to ``robust`` it is a copy.

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
        robust = self.preset == "robust"
        if robust and not self.views_:
            return np.zeros(len(rows))
        sight = Sight(self._sight, self.factor_.place)
        watch = sight if robust else None
        log_factor, _ = factor_of_new(
            rows, self.updates_, self.factor_, self.label_blocks, kernel=self._kernel(), watch=watch
        )
        if watch is None:
            return np.asarray(0.0 - log_factor)
        views = sight.views(log_factor)
        limit = self._limit(len(self.updates_), len(views))
        z = kinder(z_of(views, self.views_), z_of(views, self.views_, self._calm), limit)
        return np.asarray(np.abs(z).max(axis=0))

    def _limit(self, n: int, views: int) -> float:
        """The threshold of n scores from so many views; infinite where PyOD sets it, by the scores."""
        given = self.threshold
        if given == "contamination":
            return math.inf
        if given is not None and (isinstance(given, str) or not given > 0):
            raise ValueError(f"Expected threshold to be positive, contamination or None, got {given!r}")
        if self.preset == "paper":
            return 0.0 - math.log(EPS if given is None else given)
        if n < FEWEST:
            return math.inf
        return largest_z(n, views) if given is None else float(given)

    def _preset(self) -> Preset:
        if self.preset not in PRESETS:
            raise ValueError(f"Expected preset {' or '.join(PRESETS)}, got {self.preset!r}")
        return PRESETS[self.preset]

    def _kernel(self) -> Kernel:
        return self._preset().kernel if self.kernel is None else self.kernel


def _matrix(X: npt.ArrayLike) -> npt.NDArray[Any]:
    """In C order, float32 or float64. NaN and infinity are left to `factor`, which sees them without another pass."""
    return np.asarray(check_array(X, dtype=[np.float64, np.float32], order="C", ensure_all_finite=False))
