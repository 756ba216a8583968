"""The remedies against false alarms: what each takes from whom."""

from functools import cache

import numpy as np
import pytest

from apps.lab.journal import Row
from apps.studies.remedies import BEFORE, REMEDIES, Cell, cells, key_of, less_weight, main, run, tables
from flwr_faa.detection import MultiView
from tests.detection.simulate import batch_of, crowd


@cache
def flipped(name: str) -> Row:
    """Return a federation whose attackers turn signs, under a remedy."""
    return run(Cell("iid", "sign flip", 0.2, name, 1, rounds=2))


def test_who_leaves_out_all_attackers_and_nobody_else_has_the_model_of_the_honest() -> None:
    for name in ("left out above 5", "FAADL()", "LoMar()"):
        assert (flipped(name)["attackers_lost"], flipped(name)["honest_lost"]) == (1.0, 0.0)
        assert flipped(name)["accuracy"] == flipped("absent")["accuracy"] > flipped("FedAvg")["accuracy"]


def test_evidence_of_two_rounds_lets_the_first_pass() -> None:
    assert flipped("second round")["attackers_lost"] == 0.5
    assert flipped("FedAvg")["attackers_lost"] == 0.0


def test_less_weight_falls_with_the_score() -> None:
    updates = crowd(20)
    updates[3] *= -20
    kept, scores = less_weight(batch_of(updates), np.empty(0))
    assert np.array_equal(scores, MultiView(BEFORE).detect(batch_of(updates), 0).scores)
    assert kept[3] == pytest.approx(5 / scores[3]) and kept[3] < 0.5
    assert (kept[scores <= BEFORE] == 1).all()
    assert 0 < flipped("less weight")["attackers_lost"] < 1


def test_the_tables_show_every_remedy_and_the_yardstick() -> None:
    quiet = [run(Cell("iid", "none", 0.0, name, 1, rounds=1)) for name in REMEDIES if name != "absent"]
    first, second = tables(quiet + [flipped(name) for name in REMEDIES])
    assert "| iid |" in first and "FAADL()" in first
    assert "attackers absent" in second and "| sign flip | 0.2 |" in second


def test_cells_are_all_different_and_the_command_needs_none(tmp_path) -> None:
    every = list(cells())
    assert len({key_of(cell) for cell in every}) == len(every)
    assert main(["--finished", "--out", str(tmp_path / "none.jsonl")]) == 0
