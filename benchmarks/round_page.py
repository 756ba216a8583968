"""The page of ``benchmarks.round``, docs/performance.md: a section for each shape, them all in short, and a plot.

What is in short and what is drawn is read from the sections, so they never say different things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from apps.lab.markdown import untitled, write_region

DOC = Path(__file__).parents[1] / "docs" / "performance.md"
PLOT = DOC.with_suffix(".png")
PICTURE = f"![CPU time by shape, in bare operations: ours, and others from the fastest to the slowest]({PLOT.name})"
#: The two halves of the plot: what bounds its rules, ours, and what the others' rules of that kind are called.
HALVES = (
    ("Gram", "bare Gram", ("MultiView", "Sequential's first look", "OCSVM", "LoMar", "Krum"), ("Krum", "MultiKrum")),
    ("sort of each column", "bare sort", ("median", "trimmed mean"), ("median", "trimmed mean")),
)


def milliseconds(page: str) -> dict[str, dict[str, float]]:
    """Return what the page's tables of rules say: by shape and by rule, CPU milliseconds of one thread."""
    found: dict[str, dict[str, float]] = {}
    for part in page.split("\n### ")[1:]:
        shape = re.match(r"([\d,]+) clients, ([\d,]+) parameters", part)
        assert shape is not None
        table = part.split("| rule |")[1].split("\n\n")[0]
        lines = re.findall(r"^\| (\w[^|]*) \| ([\d.]+) \|", table, re.MULTILINE)
        found[f"{shape[1]} x {shape[2]}"] = {name: float(cpu) for name, cpu in lines}
    return found


def in_short(page: str) -> str:
    """Return the tables of a page in short: ours beside the fastest Krum of all others, in bare products."""
    lines = []
    for shape, costs in milliseconds(page).items():
        krum = min(cpu for name, cpu in costs.items() if name.endswith("Krum") and not name.startswith("ours"))
        each = [costs[f"ours {rule}"] for rule in ("MultiView", "Sequential's first look", "OCSVM", "LoMar")]
        lines.append((shape, *(f"{cpu / costs['bare Gram']:.1f}" for cpu in (*each, krum))))
    head = "clients x parameters", "`MultiView`", "`Sequential`", "`OCSVM`", "`LoMar`", "fastest Krum of others"
    return untitled(head, lines)


def draw(page: str) -> None:
    """Draw the tables of a page: ours as lines, all others of a kind as a band from the fastest to the slowest."""
    from matplotlib.figure import Figure

    found, figure = milliseconds(page), Figure(figsize=(11, 6), layout="constrained")
    shapes, at = list(found), list(range(len(found)))
    for axes, (bound, bare, ours, kinds) in zip(figure.subplots(1, 2), HALVES, strict=True):
        for marker, rule in zip("os^dv", ours, strict=False):
            heights = [found[shape][f"ours {rule}"] / found[shape][bare] for shape in shapes]
            axes.plot(at, heights, marker=marker, label=f"ours: {rule}", lw=1.5)
        others = [
            [cpu / costs[bare] for name, cpu in costs.items() if name.endswith(kinds) and not name.startswith("ours")]
            for costs in found.values()
        ]
        band = [min(each) for each in others], [max(each) for each in others]
        axes.fill_between(at, *band, color="0.85", label=f"others' {' and '.join(kinds)}")
        axes.plot(at, band[0], color="0.4", lw=1)
        axes.axhline(1, color="black", lw=1, ls="--")
        axes.set(yscale="log", ylabel=f"CPU time of one thread, in bare {bare.removeprefix('bare ')}s")
        axes.set_title(f"Bounded by a {bound}")
        axes.set_xticks(at, [shape.replace(" x ", "\nx ") for shape in shapes], fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(PLOT, dpi=110)


def sections(page: str) -> dict[str, str]:
    """Return the sections of the page by their title."""
    region = page.split("<!-- table:bench -->")[1].split("<!-- /table -->", maxsplit=1)[0]
    parts = (section.partition("\n") for section in region.split("\n### ")[1:])
    return {title: text.strip() for title, _, text in parts}


def put(title: str, tables: str, missing: Mapping[str, str]) -> None:
    """Write the section of a shape, and why some peers are in none; the other shapes keep theirs."""
    found = sections(DOC.read_text()) | {title: tables}
    lost = [f"{who} is not in the tables: {why}." for who, why in missing.items()]
    write_region(DOC, "bench", "\n\n".join([PICTURE, *lost, *(f"### {t}\n\n{text}" for t, text in found.items())]))
    show()


def show() -> None:
    """Write the page's tables in short, and draw them."""
    page = DOC.read_text()
    write_region(DOC, "bench-short", in_short(page))
    draw(page)
