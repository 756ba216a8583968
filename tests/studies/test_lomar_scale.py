"""Runs that go on where they were, and the command for the paper's size, in small."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from apps.lab.config import load
from apps.lab.datasets import DataMissingError, mnist5k
from apps.lab.recording.record import FILES
from apps.lab.running.continued import CHECKPOINT, run_continued
from apps.lab.running.fleet import Fleet
from apps.lab.running.local_run import run_locally
from apps.studies import lomar_scale as scale

SETTING = "model=logistic clients=10 partition=shards attack=label_flip attack.share=0.3 strategy=multikrum api=message"


def fleet(rounds: int) -> Fleet:
    return Fleet.of(load(f"{SETTING} rounds={rounds}"))


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": None} for line in (folder / "rounds.jsonl").open()]


def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    # Prepare
    def stop(number: int, accuracy: float) -> None:
        if number == 2:
            raise KeyboardInterrupt  # its round is in the ledger, its checkpoint is not

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    straight = run_continued(fleet(4), whole)

    # Execute
    with pytest.raises(KeyboardInterrupt):
        run_continued(fleet(3), stopped, stop)
    assert len(rounds_of(stopped)) == 2
    with (stopped / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "no')
    first = run_continued(fleet(3), stopped)
    record = run_continued(fleet(4), stopped)
    record.write({})

    # Assert
    assert first.done == 3
    assert rounds_of(stopped) == rounds_of(whole)
    assert record.accuracy == straight.accuracy == run_locally(fleet(4)).accuracy
    assert record.labels == straight.labels
    assert {p.name for p in stopped.iterdir()} == {*FILES, CHECKPOINT}
    ours, theirs = ({**r.summary, "seconds": None, "name": None} for r in (record, straight))
    timed = ("wall_by_round", "cpu_by_round")
    assert all(len(ours.pop(k)) == len(theirs.pop(k)) == 4 for k in timed)
    assert ours == theirs
    with sqlite3.connect(stopped / "ledger.sqlite") as ledger:
        assert ledger.execute(
            "SELECT round, count(*) FROM rounds JOIN verdicts ON id = round_id GROUP BY id"
        ).fetchall() == [(number, 10) for number in (1, 2, 3, 4)]
    ledger.close()


def test_another_setting_starts_anew(tmp_path: Path) -> None:
    run_continued(fleet(2), tmp_path)
    other = run_continued(Fleet.of(load(f"{SETTING} rounds=1 seed=2")), tmp_path)
    assert other.done == 1
    assert len(rounds_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [("api=legacy", "api=message"), ("fraction=0.5", "fraction=1.0"), ("strategy=faa", "without verifier")],
)
def test_what_a_checkpoint_does_not_hold_is_refused(overrides: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected .*{problem}"):
        run_continued(load(f"{SETTING} rounds=1 {overrides}"), tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Prepare: nothing to be had but what a library brings
    def missing() -> None:
        raise DataMissingError("no MNIST here")

    monkeypatch.setattr("apps.lab.datasets.mnist", missing)
    monkeypatch.setattr(scale, "DOC", tmp_path / "doc.md")
    scale.DOC.write_text("<!-- table:lomar-scale -->\nold\n<!-- /table -->\n")
    words = ["--rounds", "1", "--out", str(tmp_path), "--docs", "clients=11", "model.epochs=1"]

    # Execute
    assert scale.main([*words, "--strategies", "fedavg", "lomar"]) == 0

    # Assert
    scenario = scale.setting("lomar", 1, ["clients=11"])
    assert scenario.dataset is mnist5k()
    assert {len(rows) for rows in scenario.partitions} == {600}
    assert len(scenario.malicious) == 1
    assert len(scale.setting("lomar", 1).malicious) == 100
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| fedavg")).split(" | ")
    assert row[2] == "1" and row[1] == row[3] and row[1].startswith("0.")  # after 20 rounds or all there are
    table = printed[printed.index("**1,000") :].strip()
    assert table in scale.DOC.read_text()
    assert scale.main([*words, "--finished"]) == 0
    assert capsys.readouterr().out.strip() == table
