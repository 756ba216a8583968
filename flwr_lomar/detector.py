"""LoMar as a PyOD detector: any matrix in, scores, threshold and labels out; Flower is not needed.

    labels = LoMarDetector().fit(updates).labels_

A higher score is more anomalous, as everywhere in PyOD. The paper rejects a *small* F (Algorithm 2), so its score is
-log F. The robust score is the largest |z| over the views of ``robust.views``. Its threshold, `largest_z`, depends on
the numbers of updates and of views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flwr_faa import expected
from flwr_faa.detection.geometry import Cloud
from flwr_faa.detection.threshold import FEWEST, largest_z
from flwr_faa.detection.units import measurable
from flwr_faa.detection.views import SAME, View, number_of_chances, statistics_view
from flwr_faa.errors import ArgumentValueError, MissingExtraError
from flwr_faa.replies.threads import single_threaded
from flwr_lomar.index import require_faiss
from flwr_lomar.neighbourhood import Doubles, Indices, Seen, cloud_of, split_columns
from flwr_lomar.paper.factor import KERNELS, Factor, Kernel, checked_bandwidth, factor_in, neighbourhood_size
from flwr_lomar.robust.threshold import EPS
from flwr_lomar.robust.views import Sight, look_again, sight_of
from flwr_lomar.tiles import LARGE, SAMPLE, Sample, tiled_factor

try:
    from pyod.models.base import BaseDetector
    from sklearn.utils import check_array
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtraError("pyod", "server", "LoMar") from error


@dataclass(frozen=True)
class Preset:
    """One way to run LoMar: `k`, `kernel`, `bandwidth` and `relative` are those of `malicious_factor`."""

    k: float
    kernel: Kernel
    bandwidth: float
    relative: bool


PRESETS = {"paper": Preset(0.4, "printed", 1.0, False), "robust": Preset(0.4, "gaussian", 1.0, True)}


@dataclass(frozen=True, eq=False)
class Judged:
    """The result of LoMar for a matrix with one row per update."""

    factor: Factor
    views: list[View]
    limit: float
    scores: Doubles
    evidence: list[str]


class LoMarDetector(BaseDetector):  # type: ignore[misc]  # pyod has no types
    """Outlier detector by the malicious factor of LoMar.

    It takes any number of updates. A single update has score 0 and label 0 under both presets, and so have updates that
    are all equal; two updates have F = 1. Among fewer than six, ``robust`` rejects only what is grossly far from the
    others (``flwr_faa.detection.views.GROSS``), because nobody can say what else is usual. A label has no say if it has
    no columns, or if they do not differ. ``k`` beyond ``n - 1`` means ``n - 1``. Rows in another order get the same
    scores, bit for bit.

    Where each client holds two labels, label flippers look like honest clients. No threshold tells them apart; held-out
    data do (``docs/how-to/holdout.md``).

    Parameters
    ----------
    preset : {"robust", "paper"} (default: "robust")
        ``paper`` takes k = .4N and Eq. 6 as printed, with a constant bandwidth, and rejects F < eps = 1. It is here to
        be compared with (``docs/results/lomar-accuracy.md``).
        ``robust`` rejects an update that is odd in any of its views, on either side (``docs/explanation/lomar.md``).
        One of the views is log F with k = .4N, a Gaussian kernel and a bandwidth relative to the distances. The units
        of the updates do not matter to it.
    label_blocks : sequence of array-like of int or None (default: None)
        Columns of each output label, disjoint (``Layout.label_blocks``). None or empty: one block of all columns.
    contamination : float (default: 0.1)
        PyOD's share of outliers. Sets the threshold only if ``threshold="contamination"``.
    k : float, int or None (default: None)
        Neighbours, a share (float) or a number (int). None, here and below: the preset's.
    kernel : {"printed", "appendix", "gaussian"} or None (default: None)
    bandwidth : float or None (default: None)
        ``paper``: h, in the units of the updates. The paper gives no value; 1 is ours. ``robust``: its multiple c.
    threshold : float, "contamination" or None (default: None)
        ``paper``: eps, of F. ``robust``: of ``|z|``; None is `largest_z`, 4.2 for 100 updates of a logistic regression,
        6.4 for 20 of a deeper model, and rejects only what is large enough to matter in a mean. "contamination": PyOD's
        quantile of the scores, for data that are no updates.
    statistics : int (default: 0)
        So many of the last columns are running statistics (of batch norm). They are in no distance, norm or F;
        ``robust`` has one view of them.
    approximate : bool (default: False)
        For updates by the hundred thousand; needs the extra ``large``. Beyond ``tiles.SAMPLE`` (4,096) updates, so many
        of them, drawn at random, stand for all where a share of the updates is asked for (k, .6n), and an index finds
        the nearest (``index``). ``docs/scale.md`` says what share of the verdicts stays the same.
    random_state : int or None (default: None)
        Seed of what is drawn. None is 0, and in a strategy the round's seed.

    Attributes
    ----------
    decision_scores_ : ndarray, shape (n,)
        ``paper``: -log F. ``robust``: the largest ``|z|`` over the views, in the kindest look (``views``).
    threshold_ : float
        Scores above it are outliers.
    labels_ : ndarray of int, shape (n,)
        1 is an outlier.
    factor_ : Factor
        log F and what it comes from.
    views_ : list of View
        What the scores of ``robust`` come from; empty for a single update, and under ``paper``.
    evidence_ : list of str, length n
        Why each update has its score: the view of its largest ``|z|``, or log F.
    updates_ : ndarray, shape (n, d)
        What was fitted. A float32 or float64 matrix in C order is not copied.
    n_features_in_ : int

    See Also
    --------
    pyod.models.base.BaseDetector : Whose methods and attributes it has.

    Examples
    --------
    >>> import numpy as np
    >>> updates = np.random.default_rng(0).normal(size=(50, 200))
    >>> updates[:3] *= -20
    >>> detector = LoMarDetector().fit(updates)
    >>> np.flatnonzero(detector.labels_)
    array([0, 1, 2])
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
        statistics: int = 0,
        approximate: bool = False,
        random_state: int | None = None,
    ) -> None:
        expected.number("contamination", contamination, above=0, most=0.5)  # PyOD's own check has other words
        super().__init__(contamination=contamination)
        self.preset = preset
        self.label_blocks = label_blocks
        self.k = k
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.threshold = threshold
        self.statistics = statistics
        self.approximate = approximate
        self.random_state = random_state
        self._check()

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
        self._check()
        self._set_n_classes(y)
        updates = _matrix(X)
        self.updates_, self.n_features_in_ = updates, updates.shape[1]
        return self._keep(self._judge_matrix(updates, self.label_blocks, self.statistics))

    def fit_cloud(self, cloud: Cloud, rows: Indices) -> LoMarDetector:
        """Score updates that are read piece by piece, without a matrix of them; afterwards nothing can be predicted.

        Parameters
        ----------
        cloud : Cloud
            Its blocks are used where ``label_blocks`` is None.
        rows : ndarray of int, shape (m,)
            Which updates to score, as places of the cloud's order, ascending. Scores come in this order.

        Returns
        -------
        LoMarDetector
            Itself.
        """
        self._check()
        self._set_n_classes(None)
        if self.label_blocks is not None:
            blocks, _ = split_columns(self.label_blocks, cloud.width)
            cloud = replace(cloud, label_blocks=tuple(blocks) if len(self.label_blocks) else ())
        if len(rows) >= LARGE:
            matrix = cloud.matrix([cloud.order[k] for k in rows])
            return self._keep(self._judge_matrix(matrix, cloud.label_blocks, matrix.shape[1] - cloud.width))
        return self._keep(self._judge(Seen.of_some(cloud, rows)))

    def _keep(self, found: Judged) -> LoMarDetector:
        self.factor_, self.decision_scores_, self.evidence_ = found.factor, found.scores, found.evidence
        self.views_ = found.views
        self._process_decision_scores()  # PyOD: threshold_ and labels_ by contamination, and what predict_proba needs
        if self.threshold != "contamination":
            self.threshold_ = found.limit
            self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: npt.ArrayLike) -> Doubles:
        """Score other rows, each as if it had come together with the fitted ones.

        A row gets the score that it has among n + 1 rows: the fitted ones and itself. So a new row that comes from the
        same source as the fitted ones is above the threshold as often as they are. A fitted row that comes again is a
        copy, and odd as one. Each row costs as much as ``fit``.

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
        check_is_fitted(self, ["updates_", "decision_scores_", "threshold_", "labels_"])
        rows = _matrix(X).astype(self.updates_.dtype, copy=False)
        if rows.shape[1] != self.n_features_in_:
            raise ArgumentValueError(f"expected {self.n_features_in_} features, got {rows.shape[1]}")
        return np.array(
            [
                self._judge_matrix(np.vstack([self.updates_, row]), self.label_blocks, self.statistics).scores[-1]
                for row in rows
            ],
            np.float64,
        )

    def _judge_matrix(
        self, matrix: npt.NDArray[Any], label_blocks: Sequence[npt.ArrayLike] | None, statistics: int
    ) -> Judged:
        """Judge all rows at once, or tile by tile if they are too many."""
        (n, d), robust, sight = matrix.shape, self.preset == "robust", Sight()
        if d <= statistics:
            raise ArgumentValueError(f"expected columns beside {statistics} of statistics, got {d} in all")
        if n < LARGE:
            # The paper's bandwidth has the units of the updates.
            return self._judge(Seen.of_all(cloud_of(matrix, label_blocks, statistics, free=robust)))
        updates = np.ascontiguousarray(matrix[:, : d - statistics])
        factor = tiled_factor(
            measurable(updates) if robust else updates,
            label_blocks,
            **self._settings(),
            watch=sight if robust else None,
            sample=Sample.drawn(n, self.random_state or 0) if self.approximate and n > SAMPLE else None,
        )
        return self._verdict(factor, sight, matrix[:, d - statistics :])

    def _judge(self, seen: Seen) -> Judged:
        with single_threaded():
            factor = factor_in(seen, **self._settings())
            sight = sight_of(seen) if self.preset == "robust" and len(factor.place) > 1 else Sight()
        return self._verdict(factor, sight, seen.statistics)

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `factor_in` and `tiled_factor`."""
        preset = PRESETS[self.preset]
        return {
            "k": preset.k if self.k is None else self.k,
            "kernel": preset.kernel if self.kernel is None else self.kernel,
            "bandwidth": preset.bandwidth if self.bandwidth is None else float(self.bandwidth),
            "relative": preset.relative,
            "least": SAME if self.preset == "robust" else 0.0,
        }

    def _verdict(self, factor: Factor, sight: Sight, statistics: npt.NDArray[Any]) -> Judged:
        n, robust = len(factor.place), self.preset == "robust"
        views = sight.views(factor.log_factor, factor.place) if robust and n > 1 else []
        if robust and n >= FEWEST and statistics.size:
            views.append(statistics_view(statistics))
        chances = number_of_chances(views)
        limit = self._limit(n, chances)
        if not robust:
            lines = [f"log F = {f:.4g}" for f in factor.log_factor]
            return Judged(factor, views, limit, 0.0 - factor.log_factor, lines)
        unit = largest_z(max(n, FEWEST), chances) if self.threshold == "contamination" else limit
        z = look_again(views, limit, unit) if views else np.zeros((0, n))
        top = np.abs(z).argmax(axis=0) if len(z) else ()
        evidence = [views[v].explain(i, z[v, i]) for i, v in enumerate(top)] or [""] * n
        return Judged(factor, views, limit, np.abs(z).max(axis=0, initial=0.0), evidence)

    def _limit(self, n: int, chances: int) -> float:
        """Return the threshold of n scores from views with so many chances; infinity where PyOD sets it."""
        given = self.threshold
        if given == "contamination":
            return math.inf
        if self.preset == "paper":
            return 0.0 - math.log(EPS if given is None else given)
        return largest_z(max(n, FEWEST), chances) if given is None else float(given)

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise ArgumentValueError(f"expected preset {' or '.join(PRESETS)}, got {self.preset!r}")
        if self.kernel is not None and self.kernel not in KERNELS:
            raise ArgumentValueError(f"expected kernel {', '.join(KERNELS)} or None, got {self.kernel!r}")
        if self.k is not None:
            neighbourhood_size(self.k, 2)
        if self.bandwidth is not None:
            checked_bandwidth(self.bandwidth)
        given = self.threshold
        if not (given is None or given == "contamination" or (_is_number(given) and given > 0)):
            raise ArgumentValueError(f"expected threshold to be positive, contamination or None, got {given!r}")
        if not (isinstance(self.statistics, Integral) and self.statistics >= 0):
            raise ArgumentValueError(f"expected statistics to be a number of columns, got {self.statistics!r}")
        expected.number("contamination", self.contamination, above=0, most=0.5)
        split_columns(self.label_blocks, None)
        expected.flag("approximate", self.approximate)
        if self.random_state is not None:
            expected.integer("random_state", self.random_state, least=0)
        if self.approximate:
            require_faiss()
            if isinstance(self.k, Integral):
                raise ArgumentValueError(f"expected k to be a share with approximate=True, got {self.k!r} neighbours")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _matrix(X: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return X in C order, as float32 or float64. NaN and infinity are refused later, where they cost no other pass."""
    return np.asarray(check_array(X, dtype=[np.float64, np.float32], order="C", ensure_all_finite=False))
