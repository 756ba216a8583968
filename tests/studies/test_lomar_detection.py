"""LoMar's table: a cell is what it says, and a killed run goes on."""

import numpy as np

from apps.studies.lomar_detection.cells import ATTACKS, Group, measure, rounds
from apps.studies.lomar_detection.study import report, run_group, run_missing

GROUP = Group("logistic", 20, "lambda .5", 0)


def test_a_killed_run_goes_on_and_reports(tmp_path):
    out = tmp_path / "runs" / "table.jsonl"
    out.parent.mkdir()
    run_group(GROUP, [("none", 0.0), ("clones", 0.2), ("mixed", 0.2)], out)
    whole = out.read_text()
    out.write_text(whole + whole.splitlines()[0][:40])  # killed in the middle of a line
    rows = run_missing([GROUP], out, jobs=0)
    assert out.read_text() == whole
    assert [r["attack"] for r in rows] == ["none", "clones", "mixed"]
    assert rows[1]["robust"]["tpr"] == 1 and rows[1]["attackers"] == 4
    text = report(rows)
    assert "| logistic | 20 | lambda .5 | clones | - | - | 1.00, 1.00 / " in text
    assert run_missing([Group("logistic", 20, "lambda .5", 1)], out, jobs=0) == []


def test_who_sends_what_it_would_anyway_is_no_attacker():
    one, honest = next(rounds(GROUP.scenario(), 1))
    alone = measure(one, honest, ATTACKS["ALIE z_max"], [3])
    assert alone["attackers"] == 0 and alone["robust"]["tpr"] is None
    updates = one.attacked(honest, ATTACKS["pure"], [3, 5])
    assert np.flatnonzero((updates != honest).any(axis=1)).tolist() == [3, 5]
