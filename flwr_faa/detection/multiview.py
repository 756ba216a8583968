"""Multi-view detection: suspect whoever is far from the median client in any view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flwr_faa import expected
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.detection.threshold import FEWEST, largest_z
from flwr_faa.detection.views import View, harm_views, number_of_chances, update_views
from flwr_faa.replies.updates import Batch

#: False alarms an honest client and round that detection without verification is made for.
RATE = 0.02


@dataclass(frozen=True)
class MultiView(Detector):
    """Suspects every client whose largest robust z over all views exceeds a threshold.

    Without a threshold it is made for detection without verification, where a false alarm costs an honest client its
    round. A client is suspected if it is odder than 98 of a hundred honest ones, given the number of clients and of
    views (``threshold.largest_z``), *and* if it differs by what matters for the mean (``views.harm_views``). With fewer
    than six clients nobody can say what is usual. Then only a client that is grossly far from the others is suspected
    (``views.GROSS``). Who has turned the mean (``views.PULL``) is suspected however many do it. Measured rates are in
    ``docs/results/false-alarms.md``.

    With a threshold, 5 say, it is made for verification, which clears the honest: the maximum of twenty z-scores of
    twenty clients is heavy-tailed, and one to six honest clients of twenty exceed 5 in a quiet round.

    Parameters
    ----------
    threshold : float, optional
        Of ``|z|``.
    views : callable, optional
        From a ``Cloud`` to its views, rows in canonical order. Default: ``update_views``, or without a threshold
        ``harm_views``.
    """

    threshold: float | None = None
    views: Callable[[Cloud], Sequence[View]] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            expected.number("threshold", self.threshold, above=0)
        if self.views is not None:
            expected.function("views", self.views, "a Cloud")

    def __repr__(self) -> str:
        return "MultiView()" if self.threshold is None else f"MultiView(threshold={self.threshold:g})"

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Score = largest ``|z|``; evidence = the view it comes from. The seed is not used."""
        cloud = Cloud.of(batch)
        if self.threshold is None:
            views = (self.views or harm_views)(cloud)
            limit = largest_z(max(len(batch), FEWEST), number_of_chances(views), RATE)
            z = np.array([view.among(limit) for view in views])
        else:
            views, limit = (self.views or update_views)(cloud), self.threshold
            z = np.array([view.z for view in views])
        top = np.abs(z).argmax(axis=0)
        lines = [views[v].explain(i, z[v, i]) for i, v in enumerate(top)]
        scores = cloud.by_row(np.abs(z).max(axis=0))
        suspects = tuple(row for row in ranked(batch, scores) if scores[row] > limit)
        return Detection(scores, limit, suspects, tuple(lines[k] for k in cloud.place))
