"""The ledger: what was decided, and bans and strikes that outlive the process."""

import json
import math
import sqlite3
from pathlib import Path

from flwr_faa.ledger.store import Ledger
from flwr_faa.report import DataDisclosure, Outcome, RoundReport, Verdict

BIG = 2**64 - 3
REPORT = RoundReport(
    4,
    (
        Verdict(1, Outcome.TRUSTED, True, score=1.0),
        Verdict(2, Outcome.MISSING, False, True, score=2.0, reason="no valid evidence: no answer in time"),
        Verdict(BIG, Outcome.CONVICTED, False, True, 3.0, math.nan, 0.05, "differs", banned=True),
    ),
    "replay",
    2.0,
    seconds={"detect": 0.5},
    disclosures=(DataDisclosure(BIG, "ab" * 32, 40, 30, 14, 64, 16, 2, 1, 2),),
)


def test_a_restart_keeps_bans_and_strikes(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    first.record(REPORT)
    first.close()
    second = Ledger(tmp_path)
    second.record(REPORT)
    assert second.bans == {BIG: "differs"}
    assert second.strikes == {2: 2}
    second.lift(BIG)
    second.lift(2)
    assert (second.bans, second.strikes) == ({}, {})


def test_lines_are_strict_json_with_everything_a_reader_needs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, annotate=lambda node_id: {"malicious": node_id == BIG})
    ledger.record(REPORT)
    line = (tmp_path / "rounds.jsonl").read_text().strip()
    report = json.loads(line, parse_constant=lambda name: 1 / 0)
    assert report["round"] == 4
    node = report["nodes"][2]
    assert node == {
        "node_id": BIG, "verdict": "convicted", "accepted": False, "suspect": True, "score": 3.0, "error": None,
        "threshold": 0.05, "reason": "differs", "banned": True, "withheld": "", "malicious": True,
    }  # fmt: skip
    assert report["disclosures"] == [
        {
            "node_id": BIG, "data": "ab" * 32, "samples": 40, "samples_opened": 30, "max_rank": 14, "dimension": 64,
            "budget": 16, "remaining": 2, "enrolments": 1, "keys_issued": 2, "malicious": True,
        }
    ]  # fmt: skip
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    kept = "SELECT node_id, data, samples_opened, max_rank, dimension, budget, remaining, enrolments FROM disclosures"
    assert db.execute(kept).fetchall() == [(str(BIG), "ab" * 32, 30, 14, 64, 16, 2, 1)]
    assert db.execute("SELECT node_id, notes FROM verdicts WHERE verdict = 'convicted'").fetchall() == [
        (str(BIG), '{"malicious": true}')
    ]


def test_in_memory() -> None:
    ledger = Ledger()
    ledger.record(REPORT)
    assert ledger.bans == {BIG: "differs"}
