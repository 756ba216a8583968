"""The table from finished runs; what is finished is not run again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from apps.lab.markdown import write_region
from apps.studies.faa_table import study as table
from apps.studies.faa_table.cells import Cell, all_cells, run_cell


def finished(cell: Cell) -> str:
    figures = {
        "recall": 1.0 if cell.detector == "sequential" else 0.5,
        "honest_convicted": 0,
        "attackers_accepted": 0,
        "final_accuracy": 0.8 if cell.dataset == "digits" else 0.7,
        "verified_per_round": 3.0,
        "rounds_to_ban_all": cell.seed if cell.rounds == 40 else 1,
        "attack_free": 0.81,
        "seconds": 2.0,
        "verdicts": "a" if cell.share < 0.3 else cell.verifier,
    }
    return json.dumps({**asdict(cell), **figures}) + "\n"


def test_the_table_has_a_line_a_data_set_attack_and_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.jsonl"
    out.write_text("".join(finished(c) for c in all_cells("replay", 2)))
    assert table.main(["--seeds", "2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| digits | ALIE z=1.5 | 0.4 | 1.00 | 0 | 0 | 0.800 | +1.0 | 3.0 | 0.50 | 0 | +1.0 | 3.0 |" in lines
    assert "| sign flip of the update | 1, 2 | 0 | 0.800 | +1.0 |" in lines
    assert sum(line.startswith(("| digits", "| mnist5k")) for line in lines) == 2 * 4 * 4


def test_verdicts_of_paper_are_compared_with_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.jsonl"
    out.write_text("".join(finished(c) for v in ("paper", "replay") for c in all_cells(v, 1)))
    table.main(["--seeds", "1", "--paper-seeds", "1", "--out", str(out)])
    assert "| 34 | 16 | 2 |" in capsys.readouterr().out


def test_a_finished_cell_is_a_line_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("digits", "sign flip", 0.4, "sequential", "replay", 1, 2)
    row = run_cell(cell)
    assert row["recall"] == 1
    assert row["final_accuracy"] == row["attack_free"]
    out = tmp_path / "table.jsonl"
    out.write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(table, "run_cell", pytest.fail)
    options = table.options_of("faa_table", "", str(out)).parse_args([])
    assert table.results(options, [cell], table.run_cell, table.key_by(Cell)) == [row]


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table:faa -->\nold\n<!-- /table -->\nafter\n")
    write_region(readme, "faa", "new\n")
    assert readme.read_text() == "before\n<!-- table:faa -->\n\nnew\n\n<!-- /table -->\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected <!-- table:faa -->"):
        write_region(readme, "faa", "new\n")
