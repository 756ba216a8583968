"""The picture of a run: accuracy by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture(curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw accuracy by round, one curve per run: the first is bold; the one without attack is dotted, on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, accuracy) in enumerate(curves.items()):
        dotted = {"linestyle": ":", "color": "black", "zorder": 10} if "no attack" in name else {"zorder": 9 - i}
        axes.plot(range(len(accuracy)), accuracy, label=name, linewidth=1.5 if i else 3.0, **dotted)
    axes.set(xlabel="round", ylabel="accuracy on test samples", ylim=(0, 1), title=title)
    tick_whole_rounds(axes)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def tick_whole_rounds(axes: Axes) -> None:
    """Put the ticks of the horizontal axis where Matplotlib would, but never between two rounds."""
    from matplotlib.ticker import MaxNLocator

    # The steps are AutoLocator's: with MaxNLocator's own, 20 rounds are ticked by threes.
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def draw(curves: Mapping[str, Sequence[float]], path: Path, title: str) -> None:
    """Draw the picture into a file."""
    picture(curves, title).savefig(path, dpi=120)
