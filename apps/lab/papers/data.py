"""What an experiment left in its folder, and its figures: means over seeds with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from apps.lab.papers.experiments import Size, Spec, spec

#: Metrics of label attacks, of which there is a curve.
BY_ROUND = ("source", "target", "other", "attack_success")


@dataclass(frozen=True, eq=False)
class Results:
    """One experiment.

    Parameters
    ----------
    spec : Spec
    size : "quick" or "paper"
    runs, curves : DataFrame
        ``results.csv`` and ``curves.csv``.
    """

    spec: Spec
    size: Size
    runs: pd.DataFrame
    curves: pd.DataFrame

    @property
    def axes(self) -> list[str]:
        """The axes in the order of the grid."""
        return list(dict.fromkeys(axis for block in self.spec.grid for axis in block))

    @property
    def unfinished(self) -> bool:
        """Whether runs ended with their time, before their last round."""
        return bool((self.runs["rounds"] < self.runs["planned_rounds"]).any())

    def values(self, axis: str) -> list[Any]:
        """Return an axis's values in the order of the grid, as far as there are runs."""
        if axis not in self.runs:
            return []
        there = set(self.runs[axis].dropna())
        ordered = dict.fromkeys(value for block in self.spec.grid for value in block.get(axis, ()))
        return [value for value in ordered if value in there]

    def where(self, conditions: Mapping[str, Any]) -> pd.DataFrame:
        """Return the runs with these values; a list means any of them."""
        return select(self.runs, conditions)


@dataclass(frozen=True)
class Figure:
    """A mean over seeds.

    Parameters
    ----------
    mean : float
    half : float or None
        Half the width of the 95% interval (Student's t); None for one seed.
    seeds : int
    """

    mean: float
    half: float | None
    seeds: int

    def __str__(self) -> str:
        return number(self.mean) + ("" if self.half is None else f" ± {number(self.half)}")


def read(path: Path) -> Results:
    """Read an experiment's folder.

    Raises
    ------
    ValueError
        If nothing is finished in it.
    """
    try:
        runs = pd.read_csv(path / "results.csv", keep_default_na=False, na_values=[""])
        curves = pd.read_csv(path / "curves.csv")
    except (FileNotFoundError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"expected finished runs in {path}, got none") from error
    return Results(spec(runs["experiment"].iloc[0]), runs["size"].iloc[0], runs, curves)


def at_common_round(of: Results) -> tuple[Results, str]:
    """Return the figures after the last round that every defence reached, and those rounds.

    Runs with a time limit stop where they are; the fast ones would otherwise be compared with the slow ones. Rounds are
    common to the defences of one attack and whatever else a row of the grid names, since only those are compared.
    """
    setting = [axis for axis in of.axes if axis != "defence" and axis in of.runs]
    by_setting = of.runs.groupby(setting, sort=False, dropna=False)["rounds"]
    common, told = by_setting.transform("min"), by_setting.min()
    varied = [level for level in told.index.names if told.index.unique(level).size > 1]
    names = [" ".join(map(str, at)) for at in told.reset_index()[varied].itertuples(index=False)]
    rounds = ", ".join(f"{n} ({name})" if name else f"{n}" for n, name in zip(told, names, strict=True))
    if (of.runs["rounds"] == common).all():
        return of, rounds
    runs, y = of.runs.copy(), of.curves.set_index(["curve", "cell", "seed", "x"])["y"].to_dict()
    for metric, curve in (("final_accuracy", "accuracy"), ("final_loss", "loss"), *((c, c) for c in BY_ROUND)):
        if (of.curves["curve"] == curve).any():
            runs[metric] = [y.get((curve, *at)) for at in zip(runs["cell"], runs["seed"], common, strict=True)]
    return replace(of, runs=runs), rounds


def select(frame: pd.DataFrame, conditions: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows with these values; a list means any of them."""
    for axis, value in conditions.items():
        if axis not in frame:
            return frame.iloc[:0]
        frame = frame[frame[axis].isin(value if isinstance(value, list) else [value])]
    return frame


def figure(frame: pd.DataFrame, metric: str) -> Figure | None:
    """Return the mean over seeds of a metric, after the mean over each seed's rows; None if there are none."""
    if metric not in frame:
        return None
    return interval(frame.groupby("seed")[metric].mean().dropna())


def interval(by_seed: pd.Series) -> Figure | None:
    """Return the mean and the 95% interval of one figure per seed."""
    from scipy.stats import t

    n = len(by_seed)
    if not n:
        return None
    half = float(t.ppf(0.975, n - 1) * by_seed.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Figure(float(by_seed.mean()), half, n)


def number(value: float) -> str:
    """Write a number with three decimals, or fewer if it is large."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
