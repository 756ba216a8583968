"""``python -m apps.studies.architecture [--write]``: the rooms of the tree, drawn from its imports.

A part is a package, or a folder of ``apps``; a room is a module or folder directly in a part. An arrow is an import.
An import that longer paths imply has no arrow of its own.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import grimp

from apps.lab.markdown import untitled, write_region

DOC = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
PARTS = ("flwr_faa", "flwr_lomar", "apps.lab", "apps.field", "apps.release", "apps.studies")
DRAWN = ("flwr_faa", "flwr_lomar", "apps.lab")

Arrows = Mapping[str, Set[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the pictures, and with ``--write`` put them into docs/architecture.md."""
    parser = argparse.ArgumentParser(prog="python -m apps.studies.architecture", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/architecture.md")
    write = parser.parse_args(arguments).write
    for name, text in pages().items():
        print(text)
        if write:
            write_region(DOC, name, text)
    return 0


def pages() -> dict[str, str]:
    """Return the picture of the house, and of each part that has many rooms, with a table of what is in them."""
    return {"house": page(arrows(part_of)), **{part: page(rooms(part)) for part in DRAWN}}


def page(arrows: Arrows) -> str:
    """Return a picture as Mermaid text, and a table of what the rooms in it are for."""
    joined = set().union(*arrows.values(), (place for place, into in arrows.items() if into))
    lines = [f"    {place}" for place in sorted(set(arrows) - joined)]
    lines += [f"    {a} --> {b}" for a, into in sorted(direct(arrows).items()) for b in sorted(into)]
    table = untitled(("room", "what is in it"), [(f"`{room}`", purpose(room)) for room in sorted(arrows)])
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```", "", table])


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


def direct(arrows: Arrows) -> Arrows:
    """Return the arrows that no longer path implies."""
    reached: dict[str, set[str]] = {}

    def reach(place: str) -> set[str]:
        if place not in reached:
            reached[place] = set().union(*({other} | reach(other) for other in arrows.get(place, ())))
        return reached[place]

    return {place: set(into).difference(*map(reach, into)) for place, into in arrows.items()}


def purpose(module: str) -> str:
    """Return the first line of a module's docstring."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.split("\n")[0].replace("``", "`").replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main())
