"""The tree: no circle of imports, no room that is too full, and a picture of today."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from apps.studies import architecture
from apps.studies.architecture import DOC, PARTS, arrows, modules, pages, part_of, room_of, rooms

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


def test_the_picture_is_of_today() -> None:
    text = DOC.read_text()
    for name, page in pages().items():
        shown = text.split(f"<!-- table:{name} -->")[1].split("<!-- /table -->")[0].strip()
        assert shown == page, (
            f"expected {DOC.name} to show today's imports: python -m apps.studies.architecture --write"
        )


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
