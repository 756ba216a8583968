"""Accuracy by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(curves: Mapping[str, Sequence[float]], path: Path, title: str) -> None:
    """Draw accuracy by round, one curve a run, the first on top and bold; dotted where nobody attacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, accuracy) in enumerate(curves.items()):
        style = {"linestyle": ":", "color": "black"} if "no attack" in name else {}
        axes.plot(range(len(accuracy)), accuracy, label=name, linewidth=1.5 if i else 2.5, zorder=9 - i, **style)
    axes.set(xlabel="round", ylabel="accuracy on test samples", ylim=(0, 1), title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
