"""Whole runs in process: what they leave, and that nothing but the seed decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.lab.config import load
from apps.lab.recording.record import FILES, Record
from apps.lab.running.local_run import ATTACK_FREE, UNDEFENDED, run_locally, yardsticks
from flwr_faa.report import Outcome


def run(overrides: str, folder: Path | None = None) -> Record:
    return run_locally(load(f"rounds=3 {overrides}"), folder)


def verdicts(record: Record) -> list[list[tuple[Any, ...]]]:
    """By round and partition."""
    partitions = record.census.partitions
    return [
        sorted((partitions[v.node_id], v.verdict, v.accepted, v.banned, v.score, v.error) for v in report.nodes)
        for report in record.reports
    ]


@pytest.mark.parametrize("strategy", ["fedavg", "oc", "fe", "faa"])
def test_a_run_of_each_strategy_leaves_everything(strategy: str, tmp_path: Path) -> None:
    # Execute
    record = run(f"attack=sign_flip strategy={strategy}", tmp_path)
    record.write(yardsticks(record.scenario))

    # Assert
    assert {p.name for p in tmp_path.iterdir()} == set(FILES)
    rounds = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "rounds.jsonl").open()]
    assert [r["round"] for r in rounds] == [1, 2, 3]
    for node in rounds[0]["nodes"]:
        wanted = {"node_id", "suspect", "score", "verdict", "error", "threshold", "accepted", "reason", "malicious"}
        assert wanted <= node.keys()
        assert node["malicious"] == (node["partition"] in record.scenario.malicious)
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["final_accuracy"] == summary["accuracy"][-1]
    assert len(summary["accuracy"]) == 4
    assert {"train", "aggregate", "total"} <= summary["seconds"].keys()
    assert summary["seed"] == 1
    assert (summary["strategy"], summary["attack"]) == (strategy, "sign_flip")
    assert summary["recall"] == {"fedavg": 0.0, "oc": summary["recall"], "fe": 1.0, "faa": 1.0}[strategy]
    assert summary["honest_convicted"] == 0
    assert set(summary["yardsticks"]) == ({ATTACK_FREE} if strategy == "fedavg" else {ATTACK_FREE, UNDEFENDED})
    if strategy in ("fe", "faa"):
        assert summary["attackers_accepted"] == 0
        assert summary["rounds_to_ban_all"] == 1
        assert summary["accuracy"] == summary["yardsticks"][ATTACK_FREE]
    if strategy == "fe":
        assert summary["verified_per_round"] == pytest.approx((20 + 12 + 12) / 3)


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    lines = []
    for _ in range(2):
        run("attack=alie", tmp_path)
        rounds = [json.loads(line) for line in (tmp_path / "rounds.jsonl").open()]
        lines.append([{**r, "seconds": None} for r in rounds])
    assert lines[0] == lines[1]


@pytest.mark.parametrize("attack", ["gaussian", "alie_jitter", "refuse", "other_data"])
def test_both_apis_give_the_same_verdicts_and_weights(attack: str) -> None:
    legacy, message = (run(f"attack={attack} partition=shards api={api}") for api in ("legacy", "message"))
    assert verdicts(legacy) == verdicts(message)
    assert legacy.accuracy == message.accuracy


def test_paper_and_replay_give_the_same_verdicts() -> None:
    paper, replay = (run(f"attack=sign_flip rounds=2 verification={v}") for v in ("paper", "replay"))
    # Whom an audit falls on depends on what is known of a node's data, which replay does not count.
    for one, other in zip(verdicts(paper), verdicts(replay), strict=True):
        both = {row[0]: row[1] for row in one}, {row[0]: row[1] for row in other}
        asked = [n for n in both[0] if {found[n] for found in both} <= {Outcome.CLEARED, Outcome.CONVICTED}]
        assert asked and [both[0][n] for n in asked] == [both[1][n] for n in asked]
    assert paper.summary["recall"] == replay.summary["recall"] == 1


def test_who_refuses_is_dropped_every_time_and_banned_in_the_end() -> None:
    record = run("attack=refuse")
    assert record.summary["attackers_accepted"] == 0
    assert record.summary["honest_dropped"] == 0
    assert record.summary["rounds_to_ban_all"] == 3
    assert all(not report.convicted for report in record.reports)


def test_who_shows_other_data_is_convicted() -> None:
    record = run("attack=other_data")
    assert len(record.reports[0].convicted) == 8


def test_the_attack_free_yardstick_is_the_federation_of_the_honest() -> None:
    scenario = load("attack=sign_flip attack.share=0.25 rounds=2")
    absent = run_locally(scenario.with_choices(strategy="fedavg", attack="absent"))
    assert [len(report.accepted) for report in absent.reports] == [15, 15]
    assert absent.scenario.malicious == scenario.malicious
    assert absent.summary["recall"] is None


def test_some_clients_a_round() -> None:
    record = run("attack=sign_flip fraction=0.5")
    assert len(record.reports[0].nodes) == 10
    assert verdicts(record) == verdicts(run("attack=sign_flip fraction=0.5"))


def test_the_score_leaves_out_whom_verification_must_clear() -> None:
    common = "model=logistic clients=40 partition=shards attack=label_flip attack.share=0.1"
    faa, both = (run(f"{common} strategy={s}") for s in ("faa", "faa_lomar"))
    assert faa.summary["attackers_accepted"] == 4 * 3
    assert both.summary["attackers_accepted"] == 0
    assert both.summary["honest_convicted"] == 0
    assert not any(v.banned for report in both.reports for v in report.nodes)
    assert faa.summary["scores"]["fpr"] > both.summary["scores"]["fpr_left_out"]
