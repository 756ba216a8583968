"""The tables of final accuracy and of both verdicts: cells, figures, and that what is finished is not run again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from apps.studies import lomar_combined
from apps.studies.lomar_accuracy import study as lomar_accuracy
from apps.studies.lomar_accuracy.cells import AccuracyCell, key_of, run_accuracy
from apps.studies.lomar_accuracy.study import BEST_OF, by_cell, cells, gap, tables

CELL = AccuracyCell("digits", "logistic", 20, "two labels", "sign flip", 0.2, "faa", 100, 2)


def finished(cell: AccuracyCell, accuracy: float) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "source": None, "malicious_left_out": 1.0, "honest_left_out": 0.0}
    return {**asdict(cell), **figures, "honest_banned": 0}


def test_a_run_is_counted() -> None:
    row = run_accuracy(CELL)
    assert json.loads(json.dumps(row)) == row
    assert key_of(row) == key_of(CELL)
    assert row["malicious_left_out"] == 1.0
    assert row["honest_left_out"] == row["honest_banned"] == 0
    assert 0.3 < row["accuracy"] <= 1
    undefended = run_accuracy(replace(CELL, strategy="fedavg", attack="flip, pure"))
    assert (undefended["malicious_left_out"], undefended["honest_left_out"]) == (0, 0)
    assert undefended["source"] < row["accuracy"]
    assert run_accuracy(replace(CELL, attack="none", share=0.0))["malicious_left_out"] is None


def test_the_gap_is_to_the_best_of_the_four() -> None:
    # Prepare: in one cell lomar is 2 points below the median and far below fedavg, in all others ahead
    chosen = ("logistic", 100, "lambda .5", "sign flip", 0.4)
    rows = []
    for cell in cells(2):
        accuracy = {"lomar": 0.9, "fedavg": 0.95}.get(cell.strategy, 0.8)
        if (cell.model, cell.clients, cell.partition, cell.attack, cell.share) == chosen and cell.strategy == "median":
            accuracy = 0.92
        rows.append(finished(cell, accuracy + (0.01 if cell.seed == 100 else -0.01)))

    # Execute
    by_attack, by_setting, failing = tables(rows)

    # Assert
    assert gap(by_cell(rows)[chosen]) == pytest.approx(-0.02)
    assert [line[:6] for line in failing[2]] == [["-2.0", *map(str, chosen)]]
    assert failing[0].startswith("The 1 of 96 cells")
    lines = {line[0]: line[-3:] for line in by_attack[2]}
    assert lines["sign flip"] == ["+9.0", "-2.0", "1 of 12"]
    assert lines["ALIE z_max"] == ["+10.0", "+10.0", "0 of 12"]
    assert {line[0]: line[-1] for line in by_setting[2]}["logistic 100 lambda .5"] == "1 of 15"


def test_every_cell_has_what_it_is_compared_with() -> None:
    runs = list(cells(3))
    assert len({key_of(c) for c in runs}) == len(runs)
    for seed in (100, 101, 102):
        found: dict[tuple[Any, ...], set[str]] = {}
        for c in runs:
            if c.seed == seed:
                found.setdefault(key_of(replace(c, strategy="")), set()).add(c.strategy)
        assert len(found) == 96
        assert all(strategies >= {"lomar", "lomar_paper", "fedavg", *BEST_OF} for strategies in found.values())


def test_the_command_of_accuracies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Prepare: all is finished but one run
    missing, *others = cells(1)
    out, doc = tmp_path / "runs.jsonl", tmp_path / "doc.md"
    out.write_text("".join(json.dumps(finished(c, 0.5)) + "\n" for c in others))
    doc.write_text("<!-- table:lomar-accuracy -->\n<!-- /table -->\n")
    ran: list[AccuracyCell] = []

    def run(cell: AccuracyCell) -> dict[str, Any]:
        ran.append(cell)
        return finished(cell, 0.5)

    monkeypatch.setattr(lomar_accuracy, "run_accuracy", run)
    monkeypatch.setattr(lomar_accuracy, "DOC", doc)

    # Execute
    assert lomar_accuracy.main(["--seeds", "1", "--out", str(out), "--docs"]) == 0

    # Assert
    assert ran == [missing]
    assert len(out.read_text().splitlines()) == 1 + len(others)
    assert "**The 0 of 96 cells" in doc.read_text()
    out.write_text("".join(json.dumps(finished(c, 0.5)) + "\n" for c in others))
    assert lomar_accuracy.main(["--seeds", "1", "--out", str(out), "--docs", "--finished"]) == 0
    assert ran == [missing]
    assert "**The 0 of 95 cells" in doc.read_text()


def test_the_command_of_both_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Prepare
    def proof(seeds: int) -> list[AccuracyCell]:
        return [replace(CELL, strategy=s, attack=a) for a in ("flip, pure", "sign flip") for s in ("faa", "faa_lomar")]

    some = [
        replace(c, rounds=1) for c in lomar_combined.tuning(1) if (c.dataset, c.partition) == ("digits", "lambda 0")
    ]
    monkeypatch.setattr(lomar_combined, "tuning", lambda seeds: some)
    monkeypatch.setattr(lomar_combined, "proof", proof)
    monkeypatch.setattr(lomar_combined, "DOC", tmp_path / "doc.md")
    lomar_combined.DOC.write_text("<!-- table:lomar-combined -->\n<!-- /table -->\n")

    # Execute
    assert lomar_combined.main(["--tune", "1", "--prove", "1", "--out", str(tmp_path), "--docs"]) == 0

    # Assert
    text = lomar_combined.DOC.read_text()
    rows = {tuple(line.split(" | ")[:3]): line.split(" | ")[3:] for line in text.splitlines()}
    assert rows["| flip, pure", "two labels", "FAA-DL alone"][0] == "0.000"
    assert rows["| flip, pure", "two labels", "both"][0] == "1.000"
    assert rows["| sign flip", "two labels", "FAA-DL alone"][:2] == ["1.000", "0.000"]
    for kind in ("honest, nobody attacks", "pure flippers"):
        shares = [float(x.strip(" |")) for x in rows["| digits", "lambda 0", kind]]
        assert shares == sorted(shares, reverse=True)
