"""Plots of an experiment. Each panel is a picture of its own, so that it stays legible on a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.lab.papers.data import Results, figure, select
from apps.lab.papers.tables import Table
from apps.lab.recording.picture import tick_whole_rounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart by nearly everybody, with a dash pattern each; black is the yardstick.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#7F3C8D", "#8C8C8C", "#A6761D", "#1B6E53")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
NAMES = {"final_accuracy": "accuracy", "source": "accuracy on the source label", "final_loss": "loss"}


def panels(of: Results, view: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Yield title and picture of each panel of a plot."""
    for value in of.values(view["panels"]):
        chosen = {**view.get("where", {}), view["panels"]: value}
        if not len(of.where(chosen)):
            continue
        title = f"{view['title']}: {value}" if len(of.values(view["panels"])) > 1 else view["title"]
        picture, axes = _axes(title)
        for i, line in enumerate(of.values(view["lines"])):
            here = of.where({**chosen, view["lines"]: line})
            draw = _curve if "curve" in view else _along
            draw(axes, of, here, view, {"label": str(line), **_style(str(line), i)})
        if not axes.lines:
            continue
        _finish(axes, view)
        yield title, picture


def heat(table: Table) -> Figure:
    """Return a worst-case table as a picture, for papers and slides; the page itself has it as a table."""
    from matplotlib.figure import Figure

    values = np.array([[p.ours.mean if p.ours else np.nan for p in row] for row in table.rows.values()])
    picture = Figure(figsize=(1.4 + 0.95 * len(table.columns), 1.2 + 0.42 * len(table.rows)), layout="constrained")
    axes = picture.subplots()
    axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(table.columns)), table.columns, rotation=35, ha="right")
    axes.set_yticks(range(len(table.rows)), list(table.rows))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="black" if value > 0.5 else "white")
    axes.set_title(table.title)
    return picture


def svg(picture: Figure) -> str:
    """Return a picture for a page: text stays text, nothing is fetched."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flwr-anomaly", "font.family": "sans-serif"}):
        file = io.StringIO()
        picture.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _curve(axes: Axes, of: Results, here: Any, view: Mapping[str, Any], style: Mapping[str, Any]) -> None:
    points = select(of.curves, {"curve": view["curve"], "cell": list(here["cell"])})
    if len(points):
        by_x = points.groupby("x")["y"]
        mean = by_x.mean()
        axes.plot(mean.index, mean, **style)
        if points["seed"].nunique() > 1:
            axes.fill_between(mean.index, by_x.min(), by_x.max(), color=style["color"], alpha=0.12, linewidth=0)


def _along(axes: Axes, of: Results, here: Any, view: Mapping[str, Any], style: Mapping[str, Any]) -> None:
    found = [(x, f) for x in of.values(view["x"]) if (f := figure(here[here[view["x"]] == x], view["value"]))]
    if found:
        xs, figures = zip(*found, strict=True)
        spread = [f.half or 0.0 for f in figures]
        axes.errorbar(xs, [f.mean for f in figures], yerr=spread, marker="o", markersize=4, capsize=3, **style)


def _axes(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = picture.subplots()
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    return picture, axes


def _finish(axes: Axes, view: Mapping[str, Any]) -> None:
    curve = view.get("curve")
    if curve == "roc":
        axes.plot([0, 1], [0, 1], color="#666666", linewidth=0.8)
        axes.set(xlabel="honest updates above the limit", ylabel="malicious updates above the limit")
    else:
        what = curve or NAMES.get(view["value"], view["value"])
        axes.set(xlabel="round" if curve else view["x"], ylabel=NAMES.get(what, what))
    if curve and curve != "roc":
        tick_whole_rounds(axes)
    if curve == "loss":
        axes.set_yscale("log")
    else:
        axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def _style(line: str, i: int) -> dict[str, Any]:
    if line in ("ideal", "no attack"):
        return {"color": "black", "linestyle": ":", "linewidth": 2.2, "zorder": 10}
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // 2 % len(DASHES)], "linewidth": 1.8}


def shade(value: float) -> tuple[str, str]:
    """Return background and text colour of a share between 0 and 1, as in the picture."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["cividis"](min(max(value, 0.0), 1.0))), "#000" if value > 0.5 else "#fff"


def shown(names: Sequence[str]) -> str:
    """Return a file's name from words."""
    return "-".join("".join(c if c.isalnum() else "-" for c in name.lower()).strip("-") for name in names)
