"""What the studies' commands share: options, finished runs, and names that all mean one thing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from apps.lab.attacks import Alie, BackboneNoise, Clones, LabelFlip
from apps.lab.papers.experiments import meaning
from apps.studies import false_alarms
from apps.studies.command import attack_of, key_by, options_of, publish, results
from apps.studies.faa_table import cells as faa_cells
from apps.studies.lomar_accuracy import cells as accuracy_cells
from apps.studies.lomar_detection import cells as detection_cells


@dataclass(frozen=True)
class Cell:
    """A run that has a name and a seed."""

    name: str
    seed: int


CELLS = [Cell("a", 1), Cell("a", 2), Cell("b", 1)]


def run(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell), "figure": cell.seed / 10}


def test_missing_cells_are_run_once_and_finished_ones_are_read(tmp_path: Path) -> None:
    out, key = tmp_path / "runs.jsonl", key_by(Cell)
    out.write_text(json.dumps({"name": "a", "seed": 2, "figure": 7.0}) + "\n")
    asked = ["--out", str(out)]
    read = results(options_of("x", "Says.", "y", jobs=1).parse_args([*asked, "--finished"]), CELLS, pytest.fail, key)
    assert [row["figure"] for row in read] == [7.0]
    for work in (run, pytest.fail):  # the second time everything is there
        rows = results(options_of("x", "Says.", "y").parse_args(asked), CELLS, work, key)
        assert [row["figure"] for row in rows] == [0.1, 7.0, 0.1]
    assert [key(row) for row in rows] == [key(cell) for cell in CELLS] == [("a", 1), ("a", 2), ("b", 1)]


@pytest.mark.parametrize("word", ["--write", "--docs", None])
def test_tables_go_to_the_page_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str | None
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table:t -->\nold\n<!-- /table -->\n")
    publish("new", page, "t", options_of("x", None, "y").parse_args([word] if word else []).write)
    assert capsys.readouterr().out == "new\n"
    assert ("new" in page.read_text()) == (word is not None)


def test_every_name_that_a_study_uses_has_a_meaning() -> None:
    attacks = {*faa_cells.ATTACKS, *faa_cells.HARD, *accuracy_cells.ATTACKS, *detection_cells.ATTACKS}
    assert all(meaning("attack", name) for name in attacks | {*false_alarms.ATTACKS})
    assert all(meaning("partition", name) for name in {*detection_cells.PARTITIONS, *false_alarms.PARTITIONS})


@pytest.mark.parametrize(
    ("names", "attack"),
    [
        (("pure", "flip, pure", "label flip, pure", "label flip"), LabelFlip()),
        (("mixed", "flip, mixed", "mixed label flip"), LabelFlip(tau=None)),
        (("jittered ALIE", "ALIE z_max, jitter"), Alie(jitter=True)),
        (("ALIE z_max", "ALIE"), Alie()),
        (("jittered clones",), Clones(jitter=1.0)),
        (("backbone noise",), BackboneNoise()),
    ],
)
def test_names_for_one_attack_give_that_attack(names: tuple[str, ...], attack: Any) -> None:
    assert [replace(attack_of(name), share=attack.share) for name in names] == [attack] * len(names)
