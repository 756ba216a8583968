"""Multi-view detection: suspect whoever is far from the median client in any view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.detection.views import View, update_views
from flwr_faa.updates import Batch


@dataclass(frozen=True)
class MultiView(Detector):
    """Suspects every client whose largest robust z over all views exceeds a threshold.

    Parameters
    ----------
    threshold : float (default: 5.0)
        Of |z|. The maximum of twenty z-scores of twenty clients is heavy-tailed: at 5 one to six honest clients of
        twenty are suspected in a quiet round, and a verification clears them.
    views : callable (default: update_views)
        From a ``Cloud`` to its views, rows in canonical order.
    """

    threshold: float = 5.0
    views: Callable[[Cloud], Sequence[View]] = update_views

    def __repr__(self) -> str:
        return f"MultiView(threshold={self.threshold:g})"

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Score = largest |z|; evidence = the view it comes from. The seed is not used."""
        cloud = Cloud.of(batch)
        views = self.views(cloud)
        z = np.abs([view.z for view in views])
        top = z.argmax(axis=0)
        lines = [views[v].explain(i) for i, v in enumerate(top)]
        scores = cloud.by_row(z.max(axis=0))
        suspects = tuple(row for row in ranked(batch, scores) if scores[row] > self.threshold)
        return Detection(scores, self.threshold, suspects, tuple(lines[k] for k in cloud.place))
