"""LoMar's table: a cell is what it says, and a killed run goes on."""

import numpy as np

from apps.lab.journal import run_missing
from apps.studies.command import attack_of
from apps.studies.lomar_detection.cells import Cell, Group, key_of, measure, rounds, run_cell
from apps.studies.lomar_detection.study import report

GROUP = Group("logistic", 20, "lambda .5", 0)


def test_a_cell_is_judged_and_reported(tmp_path):
    cells = [Cell(GROUP, *of) for of in (("none", 0.0), ("clones", 0.2), ("mixed", 0.2))]
    assert set(cells) <= set(GROUP.cells())
    rows = list(run_missing({key_of(c): c for c in cells}, tmp_path / "table.jsonl", 1, run_cell, key_of).values())
    assert [r["attack"] for r in rows] == ["none", "clones", "mixed"]
    assert rows[1]["robust"]["tpr"] == 1 and rows[1]["attackers"] == 4
    text = report(rows)
    assert "| logistic | 20 | lambda .5 | clones | - | - | 1.00, 1.00 / " in text


def test_who_sends_what_it_would_anyway_is_no_attacker():
    one, honest = next(rounds(GROUP.scenario(), 1))
    alone = measure(one, honest, attack_of("ALIE z_max"), [3])
    assert alone["attackers"] == 0 and alone["robust"]["tpr"] is None
    updates = one.attacked(honest, attack_of("pure"), [3, 5])
    assert np.flatnonzero((updates != honest).any(axis=1)).tolist() == [3, 5]
