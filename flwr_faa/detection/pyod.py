"""Any PyOD detector as a detector of FAA-DL ("one can also choose other suitable ones", Sec. IV-B)."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.updates import Batch


@dataclass(frozen=True)
class PyODDetector(Detector):
    """Suspects what a PyOD detector labels 1, the highest score first; how many, its ``contamination`` says.

    A fresh copy is fitted each round, on the principal coordinates of the updates (``geometry.embed``): n rows and at
    most n - 1 columns with the same distances as the updates, so a detector that takes milliseconds a column stays
    fast. A ``random_state`` left at None is set from the round's seed.

    A detector with an attribute ``label_blocks``, as LoMar's, works on the parameters themselves: it gets the updates,
    one row a client, and where ``label_blocks`` is None the columns that feed each label. One that leaves
    ``evidence_``, a line a row, has it in the reports.

    A detector that fails on a batch (too few clients for its k, a singular matrix) suspects everybody and says why: an
    attacker must not be able to pass by breaking it, nor to stop the server.

    Parameters
    ----------
    detector : object
        Unfitted or fitted; ``fit(X)`` has to leave ``decision_scores_``, ``threshold_`` and ``labels_``.
    components : int or None (default: None)
        Keep only the first principal coordinates. Detectors of distances (KNN, LOF, OCSVM) want all of them; those
        that look at one axis at a time (ECOD, COPOD, HBOS, IForest) drown in the last ones and want 2 to 5.
    """

    detector: Any
    components: int | None = None

    def __repr__(self) -> str:
        inner = " ".join(repr(self.detector).split())
        return f"PyODDetector({inner})" if self.components is None else f"PyODDetector({inner}, {self.components})"

    def detect(self, batch: Batch, seed: int) -> Detection:
        """Fit a copy and read scores, threshold and labels. A single client is never suspected."""
        name, n, cloud = type(self.detector).__name__, len(batch), Cloud.of(batch)
        if n < 2:
            return Detection(np.zeros(n), 0.0, (), (f"{name}: nobody to compare with",) * n)
        fitted = copy.deepcopy(self.detector)
        if getattr(fitted, "random_state", 0) is None:
            fitted.random_state = seed % 2**32
        if hasattr(fitted, "label_blocks"):
            if fitted.label_blocks is None:
                fitted.label_blocks = cloud.label_blocks
            points = cloud.updates[list(cloud.order)]
        else:
            points = cloud.embedding[:, : self.components]
        try:
            fitted.fit(points)
        except (ValueError, ArithmeticError) as error:
            problem = f"{name} failed on {n} updates, so all are suspected: {error}"
            warnings.warn(problem, RuntimeWarning, stacklevel=2)
            return Detection(np.ones(n), 0.0, batch.canonical, (problem,) * n)
        try:
            raw, threshold, labels = fitted.decision_scores_, float(fitted.threshold_), fitted.labels_
        except AttributeError as error:
            raise TypeError(f"Expected fit() to leave PyOD's attributes, {name} has none: {error}") from error
        labels = cloud.by_row(np.asarray(labels))
        top = np.finfo(np.float64).max  # some detectors score duplicates NaN or inf
        scores = np.nan_to_num(cloud.by_row(np.asarray(raw, np.float64)), nan=-top, posinf=top, neginf=-top)
        suspects = tuple(row for row in ranked(batch, scores) if labels[row] == 1)
        lines = [f"{name}: {s:.4g} against {threshold:.4g}" for s in scores]
        if hasattr(fitted, "evidence_"):
            lines = [f"{line}; {fitted.evidence_[k]}" for line, k in zip(lines, cloud.place, strict=True)]
        return Detection(scores, threshold, suspects, tuple(lines))


def as_detector(obj: Any) -> Detector:
    """A detector of ours as it is, a PyOD one wrapped; ``TypeError`` for anything else."""
    if not isinstance(obj, type):
        if callable(getattr(obj, "detect", None)) and callable(getattr(obj, "more", None)):
            return obj  # type: ignore[no-any-return]
        pyod = any(base.__name__ == "BaseDetector" for base in type(obj).__mro__)
        if callable(getattr(obj, "fit", None)) and (pyod or hasattr(obj, "label_blocks")):
            return PyODDetector(obj)
    raise TypeError(f"Expected a detector with detect() and more(), or an instance of a PyOD detector, got {obj!r}.")
