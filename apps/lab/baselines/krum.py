"""Krum and MultiKrum (Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, ranked
from flwr_faa.replies.updates import Batch


@dataclass(frozen=True)
class Krum(Detector):
    """Keeps the updates with the lowest score, and suspects the others.

        score(i) = sum of ||g_i - g_j||^2 over the n - f - 2 nearest j != i          (at least one)

    ``f = round(share * n)``: like every comparison, this one gives Krum the true share of attackers, which it does not
    know in the field. n - f - 2 neighbours as in the paper and in Flower (ByzFL and byzpy take n - f - 1, the authors
    of ALIE n - f). O(n^2 d). The kept are averaged by the pipeline; the paper's average is ``weighting: uniform``.

    Parameters
    ----------
    share : float
        Of attackers.
    keep : int or None (default: 1)
        1 is Krum, None is MultiKrum with n - f, which removes as many as there are attackers. That is LoMar's setting
        in words; its formula N - .5 M - 2 is another one.
    """

    share: float
    keep: int | None = 1

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Suspect all but the kept; ties go by content, then by node id. The threshold is the highest kept score."""
        n = len(batch)
        scores = krum_scores(batch, self.share)
        order = ranked(batch, scores)
        kept = min(n, max(1, self.keep if self.keep is not None else n - round(self.share * n)))
        reasons = tuple(f"Krum's score {s:.4g}" for s in scores)
        return Detection(scores, float(scores[order[-kept]]), tuple(order[: n - kept]), reasons)


def krum_scores(batch: Batch, share: float) -> npt.NDArray[np.float64]:
    """Return Krum's score of each row; 0 for a single one."""
    cloud, n = Cloud.of(batch), len(batch)
    nearest = cloud.whole.nearest[:, : max(1, n - round(share * n) - 2)]
    return np.asarray(cloud.by_row(np.sum(nearest**2, axis=1)))
