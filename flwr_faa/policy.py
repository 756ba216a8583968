"""The policy: what follows from verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from flwr_faa import expected
from flwr_faa.errors import ArgumentValueError
from flwr_faa.replies.updates import Weighting


@dataclass(frozen=True)
class Policy:
    """What follows from verdicts.

    Parameters
    ----------
    weighting : {"capped", "uniform", "reported"}
        See ``flwr_faa.replies.updates.read_replies``.
    ban : bool
        A convicted node takes no further part. Where more than ``assumed_share`` of a round's updates are convicted,
        nobody is banned and the global model stays: that is what a configuration mistake looks like.
    max_strikes : int
        A node that leaves so many challenges unanswered is banned too (if ``ban``), unless more than ``assumed_share``
        would be out with it in the same round.
    fail_closed : bool
        Keep the global model in a round in which more than ``assumed_share`` of the updates were convicted, missing
        or removed.
    assumed_share : float
        Share of attackers that the operator assumes at most.
    renormalise : bool
        Let the weights of the kept updates sum to one. False is LoMar's Eq. 3 as printed: every removal shortens the
        step.
    drop_above : float or None
        Leave a cleared node out of the round all the same if the detector's score is above this, which should be well
        above the detector's own threshold. Verification shows that a node trained on the data it holds; it cannot show
        that the data's labels are right. So the evidence clears the moderately suspicious, honest clients with odd
        data among them, and the score alone decides about the extreme. A score is no proof: nobody is banned for it.

    Examples
    --------
    >>> Policy(ban=False, drop_above=12.0).weighting
    'capped'
    >>> Policy(max_strikes=0)
    Traceback (most recent call last):
    flwr_faa.errors.ArgumentValueError: expected max_strikes to be an integer of at least 1, got 0
    """

    weighting: Weighting = "capped"
    ban: bool = True
    max_strikes: int = 3
    fail_closed: bool = False
    assumed_share: float = 0.5
    renormalise: bool = True
    drop_above: float | None = None

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise ArgumentValueError(f"expected weighting to be one of {get_args(Weighting)}, got {self.weighting!r}")
        for name in ("ban", "fail_closed", "renormalise"):
            expected.flag(name, getattr(self, name))
        expected.integer("max_strikes", self.max_strikes, least=1)
        expected.number("assumed_share", self.assumed_share, least=0, most=1)
        if self.drop_above is not None:
            expected.number("drop_above", self.drop_above, least=0)
