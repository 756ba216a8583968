"""``python -m apps.studies.architecture [--write]``: the rooms of the tree, drawn from its imports.

A part is a package, or a folder of ``apps``; a room is a module or folder directly in a part. A picture has a line for
each room, those that import nothing of the others first. A square in a line is an import of the room of that number. So
every square is left of its line's own number, unless there is a circle.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grimp

from apps.lab.markdown import untitled, write_region
from apps.lab.papers.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOC = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
PICTURES = DOC.with_suffix("")
PARTS = ("flwr_faa", "flwr_lomar", "apps.lab", "apps.field", "apps.release", "apps.studies")
DRAWN = ("flwr_faa", "flwr_lomar", "apps.lab")

Arrows = Mapping[str, Set[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is in the rooms, and with ``--write`` put it and the pictures into docs."""
    parser = argparse.ArgumentParser(prog="python -m apps.studies.architecture", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/architecture.md and docs/architecture")
    write = parser.parse_args(arguments).write
    PICTURES.mkdir(exist_ok=True)
    for name, imports in graphs().items():
        print(page(name, imports))
        if write:
            write_region(DOC, name, page(name, imports))
            (PICTURES / f"{name}.svg").write_text(svg(picture(imports)))
    return 0


def graphs() -> dict[str, Arrows]:
    """Return the imports in the house, and in each part that has many rooms."""
    return {"house": arrows(part_of), **{part: rooms(part) for part in DRAWN}}


def page(name: str, arrows: Arrows) -> str:
    """Return the place of a picture, and a table of what the rooms in it are for."""
    table = untitled(("room", "what is in it"), [(f"`{room}`", purpose(room)) for room in sorted(arrows)])
    return f"![which room imports which](architecture/{name}.svg)\n\n{table}"


def picture(arrows: Arrows) -> Figure:
    """Return a picture of imports: a line for each room, a square for each import."""
    from matplotlib.figure import Figure

    order = sorted(arrows, key=lambda place: (height(arrows, place), place))
    n, names = len(order), 2.0  # inches for the names
    figure = Figure(figsize=(names + 0.24 * n + 0.1, 0.24 * n + 0.4))
    axes = figure.add_axes((names / (names + 0.24 * n + 0.1), 0.02, 0.24 * n / (names + 0.24 * n + 0.1), 0.9))
    for line, place in enumerate(order):
        axes.axhline(line, color="#dddddd", linewidth=0.5, zorder=0)
        axes.scatter(line, line, s=12, marker="x", color="#999999", linewidth=0.8)
        imported = sorted(order.index(other) for other in arrows[place])
        axes.scatter(imported, [line] * len(imported), s=45, marker="s", color="#2f6f9f")
    axes.set_xlim(-0.6, n - 0.4)
    axes.set_ylim(n - 0.4, -0.6)
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)], fontsize=8)
    axes.set_yticks(range(n), [f"{shown(place, order)}  {i + 1}" for i, place in enumerate(order)], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def height(arrows: Arrows, place: str) -> int:
    """Return how many rooms the longest path of imports from a room passes."""
    return max((1 + height(arrows, other) for other in arrows.get(place, ())), default=0)


def shown(place: str, among: Sequence[str]) -> str:
    """Return the short name of a room, and the whole name of a part."""
    return (
        place if {part_of(other) for other in among} != {part_of(place)} else place.removeprefix(part_of(place) + ".")
    )


@cache
def modules() -> Arrows:
    """Return what every module imports, also where only a type checker or only one function does."""
    graph = grimp.build_graph("flwr_faa", "flwr_lomar", "apps", exclude_type_checking_imports=False)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def part_of(module: str) -> str:
    """Return the part that a module is in."""
    return ".".join(module.split(".")[: 2 if module.startswith("apps") else 1])


def room_of(module: str) -> str:
    """Return the room that a module is in."""
    return ".".join(module.split(".")[: 3 if module.startswith("apps") else 2])


def arrows(place: Callable[[str], str]) -> Arrows:
    """Return which places import which others."""
    found: dict[str, set[str]] = {}
    for module, imported in modules().items():
        if part_of(module) in PARTS:
            found.setdefault(place(module), set()).update({place(name) for name in imported} - {place(module)})
    return found


def rooms(part: str) -> Arrows:
    """Return which rooms of a part import which others of it."""
    return {
        room: {other for other in into if part_of(other) == part}
        for room, into in arrows(room_of).items()
        if part_of(room) == part and room != part
    }


def purpose(module: str) -> str:
    """Return the first line of a module's docstring."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.split("\n")[0].replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main())
