"""A paper's claim, and how it is measured here: one figure a seed, and what it must be for the claim to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from apps.lab.papers.data import Results, select

Measure = Callable[[Results], "pd.Series[float]"]


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
    """

    source: str
    says: str
    experiment: str
    shows: str
    measure: Measure
    least: float | None = None
    most: float | None = None
    absolute: bool = False


def mean(metric: str = "final_accuracy", **conditions: Any) -> Measure:
    """Measure the mean of the runs with these values, by seed."""
    return lambda of: select(of.runs, conditions).groupby("seed")[metric].mean()


def best(of_each: list[Measure]) -> Measure:
    """Measure the largest of some measures, by seed."""
    return lambda of: pd.concat([m(of) for m in of_each], axis=1).max(axis=1)


def least(of_each: list[Measure]) -> Measure:
    """Measure the smallest of some measures, by seed."""
    return lambda of: pd.concat([m(of) for m in of_each], axis=1).min(axis=1)


def minus(one: Measure, other: Measure) -> Measure:
    """Measure a difference, by seed."""
    return lambda of: one(of) - other(of)


def over(one: Measure, other: Measure) -> Measure:
    """Measure by how much one exceeds the other, relative to the other, by seed; 0 is equal."""
    return lambda of: one(of) / other(of) - 1
