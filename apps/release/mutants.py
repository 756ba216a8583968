"""Mutants of given files, by cosmic-ray, for ``mutation.py``: run where cosmic-ray is installed, prints JSON lines.

    uv run --no-project --with cosmic-ray==8.7.0 python apps/release/mutants.py COUNT SEED FILE...

Places are drawn uniformly, each place once, and one operator for each: an addition, which cosmic-ray can replace in
eleven ways, is not drawn more often than a comparison. Annotations are not drawn: nothing evaluates them.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.ast import Visitor, get_ast  # type: ignore[import-not-found]
from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found]
from cosmic_ray.plugins import get_operator, operator_names  # type: ignore[import-not-found]

#: They need arguments of their own.
LEFT_OUT = ("core/VariableReplacer", "core/VariableInserter")
Place = tuple[int, int]


class Places(Visitor):  # type: ignore[misc]
    """The places of one operator in a file, in the order that cosmic-ray counts them."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.found: list[Place] = []

    def visit(self, node: object) -> object:
        """Note where this node can be mutated."""
        self.found.extend(start for start, _ in self.operator.mutation_positions(node))
        return node


def unread(source: str) -> Iterator[tuple[Place, Place]]:
    """Beginning and end of each annotation, as (line, column)."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            found = getattr(node, name, None)
            if found is not None:
                yield (found.lineno, found.col_offset), (found.end_lineno, found.end_col_offset)


def places(file: str) -> dict[Place, list[tuple[str, int]]]:
    """For each place of a file, the operators that fit, and which occurrence of theirs it is."""
    source = Path(file).read_text()
    tree, spans = get_ast(source), list(unread(source))
    found: dict[Place, list[tuple[str, int]]] = {}
    for name in operator_names():
        if name in LEFT_OUT:
            continue
        walk = Places(get_operator(name)())
        walk.walk(tree)
        for occurrence, place in enumerate(walk.found):
            if not any(start <= place < end for start, end in spans):
                found.setdefault(place, []).append((name, occurrence))
    return found


def main(count: int, seed: int, files: list[str]) -> None:
    """Draw mutants and print them."""
    draw = random.Random(seed)
    every = [(file, place, ways) for file in files for place, ways in sorted(places(file).items())]
    print(json.dumps({"places": len(every)}))
    for file, place, ways in draw.sample(every, min(count, len(every))):
        name, occurrence = draw.choice(ways)
        mutated = mutate_code(Path(file).read_text(), get_operator(name)(), occurrence)
        told = {"file": file, "line": place[0], "column": place[1], "operator": name.removeprefix("core/")}
        print(json.dumps({**told, "code": mutated}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
