"""Figures of a run, from reports made by hand."""

from __future__ import annotations

from typing import Any

from apps.lab.recording.summary import summarise


def node(partition: int, malicious: bool, verdict: str, accepted: bool, banned: bool = False) -> dict[str, Any]:
    return {"partition": partition, "malicious": malicious, "verdict": verdict, "accepted": accepted, "banned": banned}


def test_figures() -> None:
    # Prepare
    first = [
        node(0, False, "trusted", True),
        node(1, False, "convicted", False, banned=True),
        node(2, True, "trusted", True),
        node(3, True, "convicted", False, banned=True),
        node(4, True, "rejected", False),
    ]
    second = [
        node(0, False, "missing", False),
        node(2, True, "cleared", True),
        node(4, True, "convicted", False, banned=True),
    ]
    rounds = [
        {"round": 1, "nodes": first, "seconds": {"train": 1.0}},
        {"round": 2, "nodes": second, "seconds": {"train": 0.5, "judge": 0.25}},
    ]

    # Execute
    figures = summarise(rounds, attackers=3)

    # Assert
    assert figures == {
        "recall": 2 / 3,
        "honest_convicted": 1,
        "honest_dropped": 2,
        "attackers_accepted": 2,
        "verified_per_round": 2.5,
        "rounds_to_ban_all": None,
        "seconds": {"train": 1.5, "judge": 0.25},
        "disclosure": None,
    }


def test_the_last_that_is_known_of_every_node() -> None:
    def known(node_id: int, rank: int, enrolments: int = 1) -> dict[str, Any]:
        counts = {"samples": 9, "samples_opened": 5, "max_rank": rank, "dimension": 64, "budget": 16}
        rest = {"remaining": 16 - rank, "enrolments": enrolments, "keys_issued": 4}
        return {"node_id": node_id, "partition": node_id - 10, "data": "ab", **counts, **rest}

    rounds = [
        {"round": 1, "nodes": [], "seconds": {}, "disclosures": [known(10, 7), known(11, 14)]},
        {"round": 2, "nodes": [], "seconds": {}, "disclosures": [known(10, 9, enrolments=2)]},
    ]
    found = summarise(rounds, attackers=0)["disclosure"]
    assert found["nodes"] == [known(10, 9, enrolments=2), known(11, 14)]
    assert found["line"] == (
        "10 of 18 samples of 2 nodes opened; at most 14 of a sample's 64 dimensions known (node 11), "
        "the budget allows 16, 2 are left; 1 changed data sets"
    )


def test_the_round_of_the_last_ban() -> None:
    rounds = [{"round": r, "nodes": [node(r, True, "convicted", False, True)], "seconds": {}} for r in (1, 2)]
    assert summarise(rounds, attackers=2)["rounds_to_ban_all"] == 2


def test_nobody_attacked() -> None:
    figures = summarise([{"round": 1, "nodes": [node(0, False, "trusted", True)], "seconds": {}}], attackers=0)
    assert figures["recall"] is None
    assert figures["rounds_to_ban_all"] is None
