"""``python -m apps.studies.protocol``: draws docs/explanation/verification.svg, a round with verification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apps.lab.papers.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "verification.svg"
DEVICE, SERVER = "Device", "Server"
#: Sender, receiver and what is sent; one who sends to itself does something; no sender is a heading.
STEPS = (
    ("", "", "once, before the first round"),
    (DEVICE, SERVER, "commitments to all samples, signed"),
    ("", "", "every round"),
    (SERVER, DEVICE, "model, and a nonce that orders the batches"),
    (DEVICE, DEVICE, "trains, hashes every\ncheckpoint"),
    (DEVICE, SERVER, "update, and the root over its checkpoints"),
    (SERVER, SERVER, "detects suspects"),
    ("", "", "suspects only"),
    (SERVER, DEVICE, "the steps to open, drawn just now"),
    (DEVICE, DEVICE, "refuses what is above\nits budget"),
    (DEVICE, SERVER, "checkpoints, first-layer values, proofs"),
    (SERVER, SERVER, "tests the proofs, trains\nthese steps again"),
    (SERVER, SERVER, "removes what does not\nmatch, averages the rest"),
)


def picture() -> Figure:
    """Return the picture: time goes down, device left, server right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.46 * len(STEPS) + 0.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(len(STEPS), -1)
    place = {DEVICE: 1.0, SERVER: 9.0}
    for name, x in place.items():
        axes.plot([x, x], [-0.3, len(STEPS) - 0.3], color="#999999", linewidth=1, zorder=0)
        axes.text(x, -0.6, name, ha="center", va="center", weight="bold", fontsize=11)
    for line, (sender, receiver, what) in enumerate(STEPS):
        if not sender:
            axes.text(5, line, what, ha="center", va="center", fontsize=9, style="italic", color="#555555")
            axes.plot([0.2, 9.8], [line + 0.35] * 2, color="#cccccc", linewidth=0.8)
        elif sender == receiver:
            box = {"boxstyle": "round,pad=0.3", "facecolor": "#eef3f7", "edgecolor": "#2f6f9f", "linewidth": 0.8}
            side = "left" if sender == DEVICE else "right"
            x = place[sender] + (-0.75 if sender == DEVICE else 0.75)
            axes.text(x, line, what, ha=side, va="center", fontsize=8.5, bbox=box)
        else:
            arrow = {"arrowstyle": "->", "color": "#2f6f9f", "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (place[receiver], line + 0.2), (place[sender], line + 0.2), arrowprops=arrow)
            axes.text(5, line - 0.05, what, ha="center", va="center", fontsize=9)
    return figure


if __name__ == "__main__":
    FILE.write_text(svg(picture()))
