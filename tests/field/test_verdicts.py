"""What ``make field`` makes of reports: its exit code stands and falls with it."""

import dataclasses
import json
from pathlib import Path

import pytest

from apps.field.__main__ import EXPECTED, NODES, fresh, wrongs
from apps.field.verdicts import Follower, Node, nodes_of
from flwr_faa.ledger.store import Ledger
from flwr_faa.report import Outcome, RoundReport, Verdict

GOOD = {name: Node(("trusted", "cleared"), 2, False, "fine") for name in NODES} | {
    name: Node(("convicted",), 0, True, f"{why} ...") for name, why in EXPECTED.items()
}


def test_reports_by_node(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    bad = Verdict(2**63, Outcome.CONVICTED, False, reason="a lie", banned=True)
    ledger.record(RoundReport(1, (Verdict(7, Outcome.TRUSTED, True, reason="first"), bad)))
    ledger.record(RoundReport(2, (Verdict(7, Outcome.REJECTED, False, reason="last"),)))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3})[:-3])  # being written
    assert nodes_of(tmp_path / "rounds.jsonl") == {
        7: Node(("trusted", "rejected"), 1, False, "last"),
        2**63: Node(("convicted",), 0, True, "a lie"),
    }
    assert nodes_of(tmp_path / "none.jsonl") == {}


def test_each_round_is_said_once_it_is_over(tmp_path: Path) -> None:
    lines: list[str] = []
    ledger = Ledger(tmp_path)
    ledger.record(RoundReport(9, ()))  # of an earlier run
    path = tmp_path / "rounds.jsonl"
    follow = Follower(path, lines.append)
    follow()
    bad = Verdict(2**63, Outcome.CONVICTED, False, reason="a lie", banned=True)
    good, gone = Verdict(7, Outcome.CLEARED, True), Verdict(8, Outcome.REJECTED, False)
    ledger.record(RoundReport(1, (good, gone, bad)))
    follow()
    follow()
    assert lines == [f"round 1: 1 of 3 accepted; convicted: {2**63}; rejected: 8"]
    whole = json.dumps(RoundReport(2, (bad,), failed_closed=True).to_json())
    for part in (whole[:20], whole[20:] + "\n"):  # a line that is being written
        with path.open("a") as file:
            file.write(part)
        follow()
    path.write_text(json.dumps(RoundReport(1, (good,)).to_json()) + "\n")
    follow()
    assert lines[1:] == [
        f"round 2: 0 of 1 accepted; convicted: {2**63}; failed closed, the model stays",
        "round 1: 1 of 1 accepted",
    ]
    Follower(tmp_path / "none.jsonl", lines.append)()
    assert len(lines) == 3


def test_the_right_nodes_for_the_right_reasons() -> None:
    assert wrongs(GOOD) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("honest-a", {"outcomes": ("cleared", "convicted")}),
        ("honest-b", {"banned": True}),
        ("honest-c", {"rounds": 0}),
        ("poisoner", {"reason": EXPECTED["liar"]}),
        ("poisoner", {"banned": False}),
        ("liar", {"outcomes": ("missing",)}),
    ],
)
def test_what_is_wrong_is_said(name: str, change: dict[str, object]) -> None:
    (wrong,) = wrongs({**GOOD, name: dataclasses.replace(GOOD[name], **change)})
    assert wrong.startswith(f"{name}: expected")
    (wrong,) = wrongs({other: node for other, node in GOOD.items() if other != name})
    assert wrong == f"{name}: expected to take part, did not"


def test_nothing_but_an_earlier_state_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(Exception, match="expected a new folder"):
        fresh(tmp_path)
    fresh(tmp_path / "state")
    (tmp_path / "state" / "old").touch()
    fresh(tmp_path / "state")
    assert not (tmp_path / "state" / "old").exists() and (tmp_path / "mine").exists()
