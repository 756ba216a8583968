"""Sequential detection: let each verdict say whom to verify next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from flwr_faa import expected
from flwr_faa.detection.base import Detection, Detector
from flwr_faa.detection.geometry import Cloud, Vector, ranked
from flwr_faa.detection.multiview import MultiView
from flwr_faa.replies.updates import Batch

#: After a conviction, whoever scores this share of the least convicted score is asked too, but nobody below the floor,
#: which honest clients pass in every round.
AS_ODD, FLOOR = 0.8, 3.0


@dataclass(frozen=True)
class Sequential:
    """A first detector's suspects, a few random audits, and then the look-alikes of whoever is convicted.

    A detector that must name everybody at once has to name half of the clients (the paper's nu = .5) and still misses
    attackers that look like the crowd, or are it. A conviction is knowledge: accomplices resemble the convicted. The
    audits give that first conviction where the first detector sees nothing.

    With attackers of nearly half of the clients the medians give way, and nobody may stand out by as much as the
    threshold asks; then at least the oddest of all is verified. A conviction also lowers the first detector's
    threshold, to just below the scores of the convicted: attackers that move in random directions are as odd as each
    other and look like nobody.

    Look-alikes are named in rank of likeness, a few at a time because a verification is a network round trip of
    seconds: first ``patience`` of them, and after that as many as look-alikes have been convicted so far, which doubles
    while every guess is right. The search ends when the last ``patience`` of them, in that rank, were cleared. A
    round in which nobody is convicted ends after the first suspects.

    Parameters
    ----------
    first : Detector (default: MultiView(threshold=5))
    audits : int (default: 2)
        Clients drawn at random among the unsuspected, by ``Batch.tickets``, whose draw an attacker can neither foresee
        nor avoid. With 0 nobody is verified without suspicion, not even the oddest.
    patience : int (default: 2)
        Cleared look-alikes in a row that end the search.
    """

    first: Detector = field(default_factory=lambda: MultiView(threshold=5.0))
    audits: int = 2
    patience: int = 2

    def __post_init__(self) -> None:
        expected.having("first", self.first, ("detect",), "as_detector(...) makes one of a PyOD detector")
        expected.integer("audits", self.audits, least=0)
        expected.integer("patience", self.patience, least=1)

    def detect(self, batch: Batch, seed: int) -> Detection:
        """Name the first detector's suspects and the audits; where there is no suspect, audit the oddest too."""
        found = self.first.detect(batch, seed)
        tickets = batch.tickets(seed)
        drawable = batch.drawable(ranked(batch, found.scores))
        oddest = drawable[:1] if self.audits and not found.suspects else []
        free = [row for row in drawable if row not in found.suspects and row not in oddest]
        drawn = sorted(free, key=lambda row: float(tickets[row]))[: self.audits]
        return replace(found, audits=(*oddest, *drawn))

    def grave(self, batch: Batch, detection: Detection) -> tuple[int, ...]:
        """Return those that ``MultiView()`` suspects, whose false alarms are rare enough to go without evidence.

        A threshold for a verifier suspects an honest client of four in most rounds; its budget would be spent by that,
        and it would be out for good.
        """
        return MultiView().detect(batch).suspects if isinstance(self.first, MultiView) else detection.suspects

    def more(self, batch: Batch, detection: Detection, judged: Mapping[int, bool]) -> tuple[int, ...]:
        """Return the unverified clients as odd as the convicted, then those more like a convicted than a cleared one.

        ``judged`` must list its rows in the order in which they were named. A client that does not answer is best
        passed as convicted: its silence then shields nobody like it.
        """
        first = {*detection.suspects, *detection.audits}
        convicted = [row for row, guilty in judged.items() if guilty]
        cleared = [row for row, guilty in judged.items() if not guilty]
        alike = [guilty for row, guilty in judged.items() if row not in first]
        tired = len(alike) >= self.patience and not any(alike[-self.patience :])
        if not convicted or tired:
            return ()
        asked = first | judged.keys()
        as_odd = max(FLOOR, AS_ODD * min(detection.scores[row] for row in convicted))
        odd = [row for row in ranked(batch, detection.scores) if detection.scores[row] >= as_odd and row not in asked]
        order = ranked(batch, look_alike(batch, convicted, cleared))
        unverified = [row for row in order if row not in asked and row not in odd]
        return (*odd, *unverified[: max(self.patience, sum(alike))])


def look_alike(batch: Batch, convicted: list[int], cleared: list[int]) -> Vector:
    """Log of the distance to the nearest cleared client over that to the nearest convicted one, shape (n,).

    Positive: nearer to a convicted one. With nobody cleared yet, the distance to the convicted alone.
    """
    cloud = Cloud.of(batch)
    distance = np.sqrt(cloud.whole.squared[cloud.place[:, None], cloud.place])
    tiny = 1e-12 * max(float(distance.max()), np.finfo(np.float64).tiny)
    near = np.log(np.maximum(distance[:, convicted].min(axis=1), tiny))
    far = np.log(np.maximum(distance[:, cleared].min(axis=1), tiny)) if cleared else np.zeros(len(batch))
    return np.asarray(far - near)
