"""Any PyOD detector as a detector of FAA-DL ("one can also choose other suitable ones", Sec. IV-B)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, Vector, embed, ranked
from flwr_faa.detection.multiview import MultiView
from flwr_faa.detection.views import lonely
from flwr_faa.errors import ArgumentTypeError
from flwr_faa.replies.updates import Batch

Places = npt.NDArray[np.intp]
#: From so many updates on LoMar works without n x n distances, and is trusted to see who is far from all others: they
#: would be needed for that check alone.
MANY = 3000
#: What the numerics of a detector may raise over the updates that it gets.
FAILURES = (ValueError, ArithmeticError, LookupError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Fit:
    """What a detector makes of the updates that it was fitted on, rows in their order."""

    scores: Vector
    threshold: float
    odd: npt.NDArray[np.bool_]
    evidence: list[str]


@dataclass(frozen=True)
class PyODDetector(Detector):
    """Suspects what a PyOD detector labels 1, the highest score first; how many, its ``contamination`` says.

    A fresh copy is fitted each round, on the principal coordinates of the updates (``geometry.embed``): n rows and at
    most n - 1 columns with the same distances as the updates, so a detector that takes milliseconds a column stays
    fast. A ``random_state`` left at None is set from the round's seed.

    A detector with an attribute ``label_blocks`` works on the parameters themselves: it gets the updates, one row a
    client, and where ``label_blocks`` is None the columns that feed each label. With an attribute ``statistics`` it
    gets the columns of running statistics too, behind the others, and there their number. One with a method
    ``fit_cloud``, as LoMar's, is fitted by that, on distances: no matrix of the updates is made. One that leaves
    ``evidence_``, one line per row, has it in the reports.

    Nobody can hide by breaking the detector, nor have the others held back by that. A detector that raises, or leaves a
    score or a threshold that is not a number, finds everybody odd, or finds nothing odd in one update far from nine
    equal ones (``views.lonely``; so does LOF), is fitted again without whom ``MultiView`` suspects, then without the
    one, two, four, ... oddest to ``MultiView``, at most half of all. Whoever had to be left out is suspected. Where
    nothing helps, ``MultiView`` decides. A warning says which.

    Parameters
    ----------
    detector : object
        Unfitted or fitted; ``fit(X)`` has to leave ``decision_scores_``, ``threshold_`` and ``labels_``.
    components : int or None (default: None)
        Keep only the first principal coordinates. Detectors of distances (KNN, LOF, OCSVM) want all of them; those
        that look at one axis at a time (ECOD, COPOD, HBOS, IForest) drown in the last ones and want 2 to 5.

    See Also
    --------
    pyod.models.base.BaseDetector : What a detector has to offer.
    """

    detector: Any
    components: int | None = None

    def __repr__(self) -> str:
        inner = " ".join(repr(self.detector).split())
        return f"PyODDetector({inner})" if self.components is None else f"PyODDetector({inner}, {self.components})"

    def detect(self, batch: Batch, seed: int) -> Detection:
        """Fit a copy and read scores, threshold and labels. A single client is never suspected."""
        name, n, cloud = self._name, len(batch), Cloud.of(batch)
        if n < 2:
            return Detection(np.zeros(n), 0.0, (), (f"{name}: nobody to compare with",) * n)
        everybody = np.arange(n)
        found = self._fit(cloud, everybody, seed)
        if isinstance(found, str):
            return self._survive(batch, cloud, seed, found)
        return self._detection(batch, cloud, found, everybody, "")

    def _survive(self, batch: Batch, cloud: Cloud, seed: int, problem: str) -> Detection:
        """Find the updates that break the detector, or do without it."""
        name, n, simple = self._name, len(batch), MultiView().detect(batch, seed)
        problem = f"{name} failed on {n} updates ({problem})"
        for out in _oddest(ranked(batch, simple.scores), len(simple.suspects)):
            left = set(cloud.place[out])  # and their clones, which have the same place
            places = np.array([k for k, row in enumerate(cloud.order) if cloud.place[row] not in left], np.intp)
            found = self._fit(cloud, places, seed) if len(places) > 1 else problem
            if not isinstance(found, str):
                named = ", ".join(str(batch.node_ids[row]) for row in out)
                problem = f"{problem} and works without node {named}"
                warnings.warn(problem, RuntimeWarning, stacklevel=3)
                return self._detection(batch, cloud, found, places, problem)
        warnings.warn(f"{problem}, so MultiView decides", RuntimeWarning, stacklevel=3)
        return replace(simple, evidence=tuple(f"{name} failed; {line}" for line in simple.evidence))

    def _detection(self, batch: Batch, cloud: Cloud, found: Fit, places: Places, problem: str) -> Detection:
        """The detection of a fit of the updates at some places of the canonical order; whoever is elsewhere is odd."""
        n, highest = len(batch), float(found.scores.max())
        above = max(highest, found.threshold)
        beyond = min(above + abs(above) + 1, np.finfo(np.float64).max)
        scores, odd, lines = np.full(n, beyond), np.ones(n, bool), [problem] * n
        scores[places], odd[places] = found.scores, found.odd
        for k, score, line in zip(places, found.scores, found.evidence, strict=True):
            lines[k] = f"{self._name}: {score:.4g} against {found.threshold:.4g}{line and f'; {line}'}"
        scores, odd = cloud.by_row(scores), cloud.by_row(odd)
        suspects = tuple(row for row in ranked(batch, scores) if odd[row])
        return Detection(scores, found.threshold, suspects, tuple(lines[k] for k in cloud.place))

    def _fit(self, cloud: Cloud, places: Places, seed: int) -> Fit | str:
        """What a copy makes of the updates at some places of the canonical order, or why nothing."""
        fitted = copy.deepcopy(self.detector)
        if getattr(fitted, "random_state", 0) is None:
            fitted.random_state = seed % 2**32
        if hasattr(fitted, "fit_cloud"):
            fit = partial(fitted.fit_cloud, cloud, places)
        else:
            fit = partial(fitted.fit, self._points(fitted, cloud, places))
        try:
            with np.errstate(all="ignore"):
                fit()
        except FAILURES as error:
            return f"{type(error).__name__}: {error}"
        try:
            scores, threshold, labels = fitted.decision_scores_, float(fitted.threshold_), fitted.labels_
        except AttributeError as error:
            raise ArgumentTypeError(
                f"expected fit() to leave PyOD's attributes, {self._name} has none: {error}"
            ) from error
        # Equal updates are judged alike, whatever rounding makes of them.
        first = np.searchsorted(places, cloud.place[np.array(cloud.order)[places]])
        scores, labels = np.asarray(scores, np.float64)[first], np.asarray(labels)[first]
        infinite = scores == np.inf
        if not np.isfinite(scores[~infinite]).all() or np.isnan(threshold):
            return "a score or the threshold is not a number"
        odd = infinite | (labels == 1)
        if odd.all():
            return "it finds all of them odd"
        judges_distances = len(places) < MANY or not hasattr(fitted, "fit_cloud")
        if judges_distances and (lonely(cloud)[places] & ~odd).any():
            return "it finds nothing odd in an update far from equal ones"
        lines = getattr(fitted, "evidence_", [""] * len(places))
        return Fit(np.where(infinite, np.finfo(np.float64).max, scores), threshold, odd, list(lines))

    def _points(self, fitted: Any, cloud: Cloud, places: Places) -> npt.NDArray[Any]:
        """The matrix that a copy is fitted on; one that wants labels and statistics is told where they are."""
        if not hasattr(fitted, "label_blocks"):
            return embed(cloud.whole.squared[np.ix_(places, places)])[:, : self.components]
        if fitted.label_blocks is None:
            fitted.label_blocks = cloud.label_blocks
        points = cloud.matrix([cloud.order[k] for k in places])
        if not hasattr(fitted, "statistics"):
            return points[:, : cloud.width]
        fitted.statistics = points.shape[1] - cloud.width
        return points

    @property
    def _name(self) -> str:
        return type(self.detector).__name__


def _oddest(order: list[int], suspects: int) -> Iterator[list[int]]:
    """Whom to leave out: the suspects, then the first, the first two, four, ..., up to half of all."""
    half = len(order) // 2
    for size in dict.fromkeys([suspects, *(2**k for k in range(half.bit_length()))]):
        if 0 < size <= half:
            yield order[:size]


def as_detector(obj: Any) -> Detector:
    """A detector of ours as it is, a PyOD one wrapped; ``TypeError`` for anything else."""
    if not isinstance(obj, type):
        if callable(getattr(obj, "detect", None)) and callable(getattr(obj, "more", None)):
            return obj  # type: ignore[no-any-return]
        pyod = any(base.__name__ == "BaseDetector" for base in type(obj).__mro__)
        if callable(getattr(obj, "fit", None)) and (pyod or hasattr(obj, "label_blocks")):
            return PyODDetector(obj)
    raise ArgumentTypeError(
        f"expected a detector with detect() and more(), or an instance of a PyOD detector, got {obj!r}."
    )
