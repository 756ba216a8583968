"""What a round decided, node by node, and why. Frozen; the same objects go to the ledger, the metrics and the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What happened to a node's update."""

    TRUSTED = "trusted"  # not asked
    CLEARED = "cleared"  # asked, and its evidence agrees
    DROPPED = "dropped"  # asked, and its evidence agrees, but its score is above `Policy.drop_above`
    CONVICTED = "convicted"  # asked, and its evidence contradicts its update
    MISSING = "missing"  # asked, and gave no valid evidence: dropped and a strike, never a conviction
    EXHAUSTED = "exhausted"  # its data may not be asked about (any more): dropped for the round, no strike
    REMOVED = "removed"  # suspected, and there is no verifier to ask
    LEFT_OUT = "left-out"  # not guilty: in this round the held-out loss would have risen with it
    REJECTED = "rejected"  # the reply itself was not valid


@dataclass(frozen=True)
class Verdict:
    """The verdict on one node in one round.

    Attributes
    ----------
    node_id : int
    verdict : Outcome
    accepted : bool
        Whether its update is part of the new global model.
    suspect : bool
        Whether the detector named it (audits and look-alikes included).
    score : float or None
        The detector's, higher is more anomalous; None where the reply was rejected.
    error, threshold : float or None
        The verifier's: relative error of the update against its replay, and the tolerance.
    reason : str
    banned : bool
        Whether it may not take part from now on.
    withheld : str
        What would have been done to it, if the round was only observed; otherwise empty.
    """

    node_id: int
    verdict: Outcome
    accepted: bool
    suspect: bool = False
    score: float | None = None
    error: float | None = None
    threshold: float | None = None
    reason: str = ""
    banned: bool = False
    withheld: str = ""

    def __str__(self) -> str:
        numbers = {"score": self.score, "error": self.error}
        shown = " ".join(f"{k}={v:.4g}" for k, v in numbers.items() if v is not None)
        told = f"node={self.node_id} verdict={self.verdict} accepted={self.accepted} {shown} reason={self.reason!r}"
        return f"{told} observed, would have been {self.withheld}" if self.withheld else told


@dataclass(frozen=True)
class DataDisclosure:
    """How much of one node's data set is known, at most, by the end of a round.

    Attributes
    ----------
    node_id : int
    data : str
        The data set: the root it is enrolled under, in hex; empty where nothing is enrolled.
    samples, samples_opened : int
    max_rank, dimension : int
        Dimensions known of the sample of which most is known, at most, and how many it has.
    budget, remaining : int
        What ``max_rank`` may not exceed, and what is left of it for that sample.
    enrolments : int
        Data sets that this client has enrolled so far.
    keys_issued : int
        Repeated ones included.
    """

    node_id: int
    data: str
    samples: int
    samples_opened: int
    max_rank: int
    dimension: int
    budget: int
    remaining: int
    enrolments: int
    keys_issued: int


def describe(disclosures: Sequence[DataDisclosure]) -> str:
    """Return one line on all of these; empty if there are none."""
    if not disclosures:
        return ""
    worst = max(disclosures, key=lambda d: d.max_rank / d.dimension)
    opened, samples = sum(d.samples_opened for d in disclosures), sum(d.samples for d in disclosures)
    again = sum(max(0, d.enrolments - 1) for d in disclosures)
    limited = f"the budget allows {worst.budget}, {worst.remaining} are left"
    return (
        f"{opened} of {samples} samples of {len(disclosures)} nodes opened; at most {worst.max_rank} of a sample's "
        f"{worst.dimension} dimensions known (node {worst.node_id}), "
        f"{limited if worst.budget < worst.dimension else 'no budget limits it'}; {again} changed data sets"
    )


@dataclass(frozen=True)
class RoundReport:
    """The report of one round.

    Attributes
    ----------
    round : int
    nodes : tuple of Verdict
        In the order of node ids.
    verifier : str
        Name of the verifier; empty for detection only.
    score_threshold : float
        The detector's.
    failed_closed : bool
        More than the assumed share was convicted or missing, so the global model stayed (would have, if observed).
    seconds : mapping of str to float
        By phase: ``detect``, ``ask`` (waiting for evidence), ``judge``, ``hold out``, ``aggregate``, and from the
        strategy ``train``.
    disclosures : tuple of DataDisclosure
        Of these nodes, as far as the verifier counts, in the order of node ids.
    """

    round: int
    nodes: tuple[Verdict, ...]
    verifier: str = ""
    score_threshold: float = math.nan
    failed_closed: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    disclosures: tuple[DataDisclosure, ...] = ()

    def having(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """Return the nodes with this outcome."""
        return tuple(v for v in self.nodes if v.verdict is outcome)

    @property
    def convicted(self) -> tuple[Verdict, ...]:
        return self.having(Outcome.CONVICTED)

    @property
    def accepted(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.nodes if v.accepted)

    @property
    def verified(self) -> tuple[Verdict, ...]:
        """The nodes that were asked for evidence."""
        asked = (Outcome.CLEARED, Outcome.DROPPED, Outcome.CONVICTED, Outcome.MISSING)
        return tuple(v for v in self.nodes if v.verdict in asked)

    def counts(self) -> dict[str, int]:
        """Return the number of nodes by outcome, and of the accepted ones."""
        by_outcome = {str(outcome): len(self.having(outcome)) for outcome in Outcome}
        return by_outcome | {"accepted": len(self.accepted)}

    def metrics(self) -> dict[str, int]:
        """Return these counts under the names that they have among a strategy's metrics."""
        return {f"faa-{name}": count for name, count in self.counts().items()}

    def to_json(self) -> dict[str, Any]:
        """Return plain types; numbers that JSON does not have (NaN, infinity) become None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
