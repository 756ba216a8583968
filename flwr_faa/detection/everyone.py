"""No detection: verify everybody, the paper's FE baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flwr_faa.detection.base import Detection, Detector
from flwr_faa.replies.updates import Batch


@dataclass(frozen=True)
class Everyone(Detector):
    """Suspects every client. Only for use with a verifier."""

    def detect(self, batch: Batch, seed: int = 0) -> Detection:
        """Return all rows, in an order that depends on their contents."""
        n = len(batch)
        return Detection(np.ones(n), 0.0, batch.canonical, ("everybody is verified",) * n)
