"""Cells and their file: nothing finished is run again, whatever a kill has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.lab.journal import lines, run_missing

CELLS = {str(i): i for i in range(5)}
ran: list[int] = []


def work(cell: int) -> dict[str, Any]:
    ran.append(cell)
    if cell == 13:
        raise ValueError("unlucky")
    return {"key": str(cell), "value": cell / 3}


def run(out: Path, cells: dict[str, int] = CELLS) -> list[Any]:
    ran.clear()
    return list(run_missing(cells, out, 1, work, lambda row: row["key"]).values())


def test_a_file_cut_off_anywhere_is_completed_to_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl")
    text = (tmp_path / "whole.jsonl").read_bytes()
    for length in range(len(text) + 1):
        out = tmp_path / "cut.jsonl"
        out.write_bytes(text[:length])
        assert run(out) == whole
        assert out.read_bytes() == text
        assert len(ran) == len(CELLS) - text[:length].count(b"\n")


def test_only_the_cells_asked_for_come_back_in_their_order(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    assert [row["key"] for row in run(tmp_path / "out.jsonl", {"3": 3, "7": 7, "0": 0})] == ["3", "7", "0"]
    assert ran == [7]


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(RuntimeError, match=r"1 of 3 runs failed; the first: ValueError\('unlucky'\)"):
        run(out, {"1": 1, "13": 13, "2": 2})
    assert [row["key"] for row in lines(out)] == ["1", "2"]


def test_one_command_at_a_time_writes(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def nested(cell: int) -> dict[str, Any]:
        run(out)
        return work(cell)

    with pytest.raises(RuntimeError, match="another command does"):
        run_missing({"1": 1}, out, 1, nested, lambda row: row["key"])


def test_the_lines_are_strict_json(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1]) == {"key": "1", "value": 1 / 3}
