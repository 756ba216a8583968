"""What becomes of a run: it works, is refused with a reason, fails as it would undefended, or trains nothing."""

from __future__ import annotations

import hashlib
import itertools
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from flwr.app import Message

import flwr_faa
from apps.lab.running.local_grid import LocalGrid
from flwr_faa.report import RoundReport

_OURS = str(Path(flwr_faa.__file__).parent.parent / "flwr_")


class Kind(StrEnum):
    """How a run ends."""

    WORKS = "works"
    REFUSED = "refused"
    FAILS = "fails"
    TRAINS_NOTHING = "trains nothing"


@dataclass(frozen=True)
class Outcome:
    """The end of one run.

    Attributes
    ----------
    kind : Kind
    why : str
        What the error said, if there was one.
    kept_out, seen : tuple of int
        For each round, how many replies were removed or rejected, and how many there were; empty without a defence.
    poisoned : int
        Rounds in which the poisoner, if there is one, was kept out.
    """

    kind: Kind
    why: str = ""
    kept_out: tuple[int, ...] = ()
    seen: tuple[int, ...] = ()
    poisoned: int = 0


class Watched(LocalGrid):
    """A grid that remembers which model each round of training begins with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.models: dict[str, bytes] = {}
        self._calls = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self._calls += 1  # the Message API sends a round at once, the legacy one names it
        for message in messages:
            if message.metadata.message_type.startswith("train") and message.content.array_records:
                record = next(iter(message.content.array_records.values()))
                digest = hashlib.sha256(b"".join(array.data for array in record.values())).digest()
                self.models.setdefault(message.metadata.group_id or f"call {self._calls}", digest)
        sent: list[str] = super().push_messages(messages)
        return sent

    def stood_still(self) -> bool:
        """Return whether two rounds in a row began with the same model."""
        models = list(self.models.values())
        return len(models) < 2 or any(a == b for a, b in itertools.pairwise(models))


def outcome(run: Callable[[], list[Sequence[RoundReport]]], grid: Watched, poisoner: int | None = None) -> Outcome:
    """Run, and say what became of it.

    Parameters
    ----------
    run : callable
        Returns the reports of each defended strategy that took part.
    grid : Watched
    poisoner : int, optional
        A node whose removals are counted.
    """
    try:
        reports = [report for found in run() for report in found]
    except Exception as error:  # noqa: BLE001 - whatever ends a run is what the table tells
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        kind = Kind.REFUSED if last.startswith(_OURS) else Kind.FAILS
        return Outcome(kind, f"{type(error).__name__}: {error}")
    accepted = [{v.node_id for v in report.accepted} for report in reports]
    kept_out = tuple(len(r.nodes) - len(a) for r, a in zip(reports, accepted, strict=True))
    poisoned = 0 if poisoner is None else sum(poisoner not in a for a in accepted)
    kind = Kind.TRAINS_NOTHING if grid.stood_still() or not all(accepted) else Kind.WORKS
    return Outcome(kind, "", kept_out, tuple(len(r.nodes) for r in reports), poisoned)


class Notes:
    """The cells of a table, whose errors are told once, below it."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def cell(self, name: str, found: Outcome, alone: Outcome | None = None, rounds: int = 0) -> str:
        """Say how a run ended.

        Parameters
        ----------
        name : str
            Of what ran; "it" in the notes.
        found : Outcome
        alone : Outcome, optional
            Of the same run undefended.
        rounds : int
            In how many rounds a poisoner took part.
        """
        if found.kind in (Kind.WORKS, Kind.TRAINS_NOTHING):
            missed = found.kind is Kind.WORKS and found.poisoned < rounds
            return found.kind + (f"; poisoner kept out in {found.poisoned} of {rounds} rounds" if missed else "")
        number = self._told.setdefault(found.why.replace(name, "it"), len(self._told) + 1)
        same = alone is not None and alone.why == found.why
        return f"{'fails as it does undefended' if same else found.kind} ({number})"

    def text(self) -> str:
        """Return the errors, numbered."""
        return "\n".join(f"{number}. {why}" for why, number in self._told.items())
