"""The tree: no circle of imports, no room that is too full, and a picture of today."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from apps.lab.papers.plots import svg
from apps.studies import architecture
from apps.studies.architecture import (
    DOC,
    PARTS,
    PICTURES,
    arrows,
    graphs,
    modules,
    page,
    part_of,
    picture,
    room_of,
    rooms,
)

MODULES_IN_A_FOLDER = 15


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor where only one function imports, or only a type checker."""
    TopologicalSorter(modules()).prepare()


@pytest.mark.parametrize("part", PARTS)
def test_no_room_imports_itself_by_way_of_others(part: str) -> None:
    TopologicalSorter(rooms(part)).prepare()


def test_no_part_imports_itself_by_way_of_others() -> None:
    TopologicalSorter(arrows(part_of)).prepare()


def test_a_circle_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab that imports a study, and a room that imports the one above it."""
    more = {**modules(), "apps.lab.check": {"apps.studies.demo"}, "apps.lab.clients.roles": {"apps.lab.scenario"}}
    monkeypatch.setattr(architecture, "modules", lambda: more)
    for graph in (more, arrows(part_of), arrows(room_of), rooms("apps.lab")):
        with pytest.raises(CycleError):
            TopologicalSorter(graph).prepare()


def test_the_page_and_its_pictures_are_of_today() -> None:
    text, told = DOC.read_text(), "python -m apps.studies.architecture --write"
    for name, imports in graphs().items():
        region = text.split(f"<!-- table:{name} -->")[1].split("<!-- /table -->")[0].strip()
        assert region == page(name, imports), f"expected {DOC.name} to show today's imports: {told}"
        drawn, today = (PICTURES / f"{name}.svg").read_text(), svg(picture(imports))
        assert seen(drawn) == seen(today), f"expected {name}.svg to show today's imports: {told}"


def seen(drawn: str) -> tuple[list[str], list[str]]:
    """The words of a picture and the places of its marks: the same whichever Matplotlib has drawn it."""
    return re.findall(r">([^<>]+)</text>", drawn), re.findall(r'<use[^>]+ (x="[\d.]+" y="[\d.]+")', drawn)


def test_a_picture_has_a_square_for_each_import_left_of_the_diagonal() -> None:
    imports = {"a.one": set(), "a.two": {"a.one"}, "a.three": {"a.one", "a.two"}}
    (axes,) = picture(imports).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one  1", "two  2", "three  3"]
    squares = [tuple(map(float, at)) for dots in axes.collections[1::2] for at in dots.get_offsets()]
    assert squares == [(0, 1), (0, 2), (1, 2)]


def test_no_folder_is_crowded() -> None:
    root = DOC.parents[1]
    folders = {path.parent for top in ("flwr_faa", "flwr_lomar", "apps") for path in Path(root, top).rglob("*.py")}
    crowded = {str(folder): n for folder in folders if (n := len(list(folder.glob("[a-z]*.py")))) > MODULES_IN_A_FOLDER}
    assert not crowded


def test_nothing_is_imported_from_a_test_module() -> None:
    tests = DOC.parents[1] / "tests"
    found = [
        str(path) for path in tests.rglob("*.py") if re.search(r"^\s*from tests\S*\.test_", path.read_text(), re.M)
    ]
    assert not found
