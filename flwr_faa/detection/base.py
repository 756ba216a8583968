"""What a detector is: a batch of updates in, suspects in order out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flwr_faa.replies.updates import Batch


@dataclass(frozen=True, eq=False)
class Detection:
    """Scores of one round and who is suspected.

    Attributes
    ----------
    scores : ndarray, shape (n,)
        Higher is more anomalous.
    threshold : float
        Score above which a node is suspected by the score alone. An audit or a look-alike may be below, and a
        detector that names a share (OCSVM) fills it up with nodes at the threshold.
    suspects : tuple of int
        Rows, the most suspicious first.
    evidence : tuple of str
        One line a row: why it got its score. May be empty strings.
    audits : tuple of int
        Rows to verify although nothing speaks against them; without a verifier they are left alone.
    """

    scores: npt.NDArray[np.float64]
    threshold: float
    suspects: tuple[int, ...]
    evidence: tuple[str, ...]
    audits: tuple[int, ...] = ()


class Detector(Protocol):
    """Names suspects. The answer must not depend on the order of the rows."""

    def detect(self, batch: Batch, seed: int) -> Detection:
        """Score a batch of at least one update; ``seed`` is the round's, for ``Batch.tickets``."""
        ...

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        """Return further suspects, after some were judged (row -> convicted?); empty ends the round's verification.

        Only called where there is a verifier. Nobody, unless a detector has a second thought. The rows stand in
        the order in which they were named, never in that of arrival, and a node that gave no valid evidence counts as
        convicted: silence must not shield accomplices. A node that could not be asked for no fault of its own has no
        verdict: it is in ``detection.audits`` but not in ``judged``.
        """
        return ()

    def grave(self, batch: Batch, detection: Detection) -> tuple[int, ...]:
        """Return suspects that are left out even if they cannot be asked, for no fault of their own.

        All of them, unless a detector suspects more than it would without a verifier.
        """
        return detection.suspects
