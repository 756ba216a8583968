"""The claims of the papers, read from ``conf/experiment/claims_*.yaml``: a figure for each seed, and its bounds.

A measure is a mapping. ``{metric: source, defence: LoMar, attack: [alie, mimic]}`` is the mean of a metric over the
runs with these values, by seed; the metric is ``final_accuracy`` if none is named, and a list means any of its values.
``{minus: [A, B]}`` and the other `OPERATIONS` work on measures. What stands beside an operation holds for each of its
parts. ``best`` and ``least`` may be given one mapping: every combination of the values in its lists is then a part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from typing import Any

import pandas as pd
import yaml

from apps.lab.papers.data import Results, select
from apps.lab.scenario import CONF

Measure = Callable[[Results], "pd.Series[float]"]

#: How the figures of some measures, one column each, are combined.
OPERATIONS: Mapping[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "mean": lambda of: of.iloc[:, 0],  # its own lists mean any of their values, also within ``best``
    "minus": lambda of: of.iloc[:, 0] - of.iloc[:, 1],
    "over": lambda of: of.iloc[:, 0] / of.iloc[:, 1] - 1,  # by how much one exceeds the other, relative to the other
    "best": lambda of: of.max(axis=1),
    "least": lambda of: of.min(axis=1),
    "average": lambda of: of.mean(axis=1, skipna=False),
    "from_half": lambda of: (of.iloc[:, 0] - 0.5).abs(),
}


@dataclass(frozen=True)
class Claim:
    """One claim.

    Parameters
    ----------
    source : str
        Where the paper makes it.
    says : str
    experiment : str
    shows : str
        What the figure is.
    measure : callable
        The figure of each seed.
    least, most : float or None
        Between what the figure must be.
    absolute : bool
        The paper's own figure: on other data it says nothing.
    defences : frozenset of str
        Whose runs the figure needs.
    """

    source: str
    says: str
    experiment: str
    shows: str
    measure: Measure
    least: float | None = None
    most: float | None = None
    absolute: bool = False
    defences: frozenset[str] = frozenset()


def all_claims() -> Iterator[Claim]:
    """Yield the claims of both papers, in the order of the files."""
    return chain.from_iterable(_expand(file["claims"], {}) for file in _files())


def not_run() -> list[Sequence[str]]:
    """Return the claims that no run here can speak to: where, what, and why."""
    return [row for file in _files() for row in file["not_run"]]


def read_measure(told: Mapping[str, Any], around: Mapping[str, Any] | None = None) -> Measure:
    """Return what a mapping describes; ``around`` are the values that hold for all of it."""
    name = next((key for key in told if key in OPERATIONS), None)
    where = {**(around or {}), **{key: value for key, value in told.items() if key != name}}
    if name is None:
        metric = where.pop("metric", "final_accuracy")
        return lambda of: select(of.runs, where).groupby("seed")[metric].mean()
    inner = told[name]
    if isinstance(inner, Mapping):
        lists = {key: v for key, v in inner.items() if isinstance(v, list) and key not in OPERATIONS and name != "mean"}
        inner = [{**inner, **dict(zip(lists, values, strict=True))} for values in product(*lists.values())]
    parts = [read_measure(part, where) for part in inner]
    return lambda of: OPERATIONS[name](pd.concat([part(of) for part in parts], axis=1))


@cache
def _files() -> list[dict[str, Any]]:
    return [yaml.safe_load((CONF / "experiment" / f"claims_{paper}.yaml").read_text()) for paper in ("faa", "lomar")]


def _expand(entries: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims of a block, once for every combination of what stands in ``each``."""
    for entry in entries:
        for choice in product(*entry.get("each", ())):
            values = {**known, **{name: value for chosen in choice for name, value in chosen.items()}}
            if "claims" in entry:
                yield from _expand(entry["claims"], values)
            else:
                told = {name: _fill(part, values) for name, part in entry.items() if name != "each"}
                measure = told["measure"]
                yield Claim(**{**told, "measure": read_measure(measure), "defences": frozenset(_defences(measure))})


def _defences(told: Any) -> Iterator[str]:
    """Yield the defences that a measure, or a part of it, names."""
    if isinstance(told, Mapping):
        named = told.get("defence", [])
        yield from [named] if isinstance(named, str) else named
        told = list(told.values())
    if isinstance(told, list):
        yield from chain.from_iterable(map(_defences, told))


def _fill(told: Any, values: Mapping[str, Any]) -> Any:
    """Put values in the place of ``{name}``; a text that is nothing else becomes the value itself."""
    if isinstance(told, Mapping):
        return {key: _fill(part, values) for key, part in told.items()}
    if isinstance(told, list):
        return [_fill(part, values) for part in told]
    if not isinstance(told, str):
        return told
    whole = re.fullmatch(r"\{(\w+)\}", told)
    return values[whole[1]] if whole else re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), told)
