"""The spot check through both strategies: enrolment before training, commitments with updates, verdicts as promised."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message

from flwr_faa import Ledger, Policy
from flwr_faa.authority import LocalAuthority
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.helpers.federation import RUNNERS, sign_flip
from tests.helpers.federation import Outcome as Run
from tests.helpers.toy import EVERY, FINE, NARROW, OPENED

PLAN = NARROW
#: Dimensions that a check of both of a node's steps tells of each sample.
ONCE = OPENED + 2 * EVERY
BOTH = pytest.mark.parametrize("api", RUNNERS)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalAuthority]:
    """The folders of devices and one authority for all these runs: nodes enrol once and find themselves enrolled."""
    return tmp_path_factory.mktemp("device"), LocalAuthority("arkworks", 1.0)


def run(api: str, house: tuple[Path, LocalAuthority], rounds: int = 2, **more: Any) -> Run:
    folder, authority = house
    device = Device(folder, authority.budget, progress=lambda done, total: None)
    verifier = SpotCheck(PLAN, authority=authority, steps=1, max_value=FINE)
    return RUNNERS[api](
        PLAN, nodes=4, rounds=rounds, verifier=verifier, detector=Everyone(), device=device, seed=3, **more
    )


@BOTH
def test_honest_clients_are_cleared_and_attackers_convicted(api: str, house: Any) -> None:
    seen: list[Any] = []
    more: dict[str, Any] = {"fit_metrics_aggregation_fn": lambda m: seen.extend(m) or {}} if api == "legacy" else {}
    done = run(api, house, attacks={1: sign_flip}, **more)
    attacker = done.grid.node_ids[1]
    assert [v.node_id for v in done.reports[0].convicted] == [attacker]
    assert "does not end at the update" in done.reports[0].convicted[0].reason
    assert [len(r.having(Outcome.CLEARED)) for r in done.reports] == [3, 3]
    assert all("dimensions known" in v.reason for r in done.reports for v in r.having(Outcome.CLEARED))
    assert attacker not in {v.node_id for v in done.reports[1].nodes}
    assert not any("faa.commitment" in metrics for _, metrics in seen)
    assert len(list(house[0].glob("*/enrolments/*"))) == 4


def test_both_apis_give_the_same_verdicts_and_weights(house: Any) -> None:
    runs = [run(api, house, attacks={2: sign_flip}) for api in RUNNERS]
    assert all(x.tobytes() == y.tobytes() for x, y in zip(runs[0].arrays, runs[1].arrays, strict=True))
    for a, b in zip(runs[0].reports, runs[1].reports, strict=True):
        assert [(v.node_id, v.verdict, v.accepted) for v in a.nodes] == [
            (v.node_id, v.verdict, v.accepted) for v in b.nodes
        ]


def only(kind: bytes, change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    """A fault in answers of one kind."""

    def fault(message: Message) -> Message | None:
        records = [*message.content.array_records.values()]
        raw = b"".join(bytes(a.data) for r in records for a in r.values())
        for config in message.content.config_records.values():
            raw += b"".join(v for v in config.values() if isinstance(v, bytes))
        asked = message.metadata.message_type in ("query.verify", "get_properties")
        return change(message) if asked and kind in raw else message

    return fault


def garbage(message: Message) -> Message:
    for record in message.content.array_records.values():
        for key in record:
            record[key] = Array(np.frombuffer(record[key].numpy().tobytes()[:-1] + b"?", np.uint8).copy())
    for config in message.content.config_records.values():
        for key, value in config.items():
            if isinstance(value, bytes):
                config[key] = value[:-1] + b"?"
    return message


@BOTH
@pytest.mark.parametrize("change", [lambda m: None, garbage], ids=["silent", "forged"])
def test_a_node_that_does_not_enrol_takes_no_part_and_is_not_convicted(api: str, change: Any, house: Any) -> None:
    done = run(api, house, faults={2: only(b"spotcheck/enrolled", change)}, verify_timeout=0.5)
    for report in done.reports:
        (rejected,) = report.having(Outcome.REJECTED)
        assert rejected.node_id == done.grid.node_ids[2]
        assert "not enrolled" in rejected.reason and not rejected.banned
        assert len(report.having(Outcome.CLEARED)) == 3


@BOTH
def test_silence_when_challenged_is_a_strike_and_then_a_ban(api: str, house: Any) -> None:
    fault = only(b"spotcheck/answer", lambda m: None)
    done = run(api, house, rounds=3, faults={2: fault}, policy=Policy(max_strikes=2), verify_timeout=0.5)
    bad = done.grid.node_ids[2]
    assert [[v.node_id for v in r.having(Outcome.MISSING)] for r in done.reports] == [[bad], [bad], []]
    assert [v.banned for r in done.reports for v in r.having(Outcome.MISSING)] == [False, True]
    assert not any(r.convicted for r in done.reports)


@BOTH
def test_an_update_without_a_commitment_is_a_strike(api: str, house: Any) -> None:
    def fault(message: Message) -> Message:
        for name, config in list(message.content.config_records.items()):
            config.pop("faa.commitment", None)
            if name == "faa.commitment":
                del message.content[name]
        return message

    done = run(api, house, rounds=1, faults={0: fault})
    (missing,) = done.reports[0].having(Outcome.MISSING)
    assert missing.node_id == done.grid.node_ids[0] and "expected a commitment" in missing.reason


@BOTH
def test_a_spent_budget_drops_for_the_round_without_a_strike(api: str, tmp_path: Path) -> None:
    done = run(api, (tmp_path, LocalAuthority("arkworks", 0.7)), rounds=3)
    first, *later = done.reports
    assert len(first.having(Outcome.CLEARED)) == 4
    for report in later:
        assert len(report.having(Outcome.EXHAUSTED)) == 4
        assert "disclosure budget spent" in report.nodes[0].reason
        assert not any(v.accepted or v.banned for v in report.nodes)
        assert not report.verified


@BOTH
def test_what_is_disclosed_is_in_the_report_and_in_the_ledger(api: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    done = run(api, (tmp_path / "device", LocalAuthority("arkworks", 0.95)), rounds=3, ledger=ledger)
    ledger.close()
    assert [[d.node_id for d in r.disclosures] for r in done.reports] == [sorted(done.grid.node_ids)] * 3
    first, second, third = (r.disclosures for r in done.reports)
    for before, after, last in zip(first, second, third, strict=True):
        assert (before.samples, before.samples_opened, before.dimension, before.budget) == (40, 40, 64, 60)
        assert (before.max_rank, after.max_rank) == (ONCE, 2 * ONCE)
        assert (before.remaining, after.remaining) == (60 - ONCE, 60 - 2 * ONCE)
        assert (before.enrolments, before.keys_issued, len(before.data)) == (1, 2, 64)
        assert last == after  # the budget does not cover a third check
    assert [len(r.having(Outcome.EXHAUSTED)) for r in done.reports] == [0, 0, 4]
    lines = [json.loads(line) for line in (tmp_path / "ledger" / "rounds.jsonl").read_text().splitlines()]
    assert [line["disclosures"] for line in lines] == [[asdict(d) for d in r.disclosures] for r in done.reports]
    rows = sqlite3.connect(tmp_path / "ledger" / "ledger.sqlite").execute("SELECT max_rank FROM disclosures").fetchall()
    assert rows == [(ONCE,)] * 4 + [(2 * ONCE,)] * 8


def test_both_bindings_give_the_same_verdicts(tmp_path: Path) -> None:
    """One attacker, everybody verified, two rounds: commitments and encryption judge alike."""
    told = []
    for binding in ("commitments", "encryption"):
        authority = LocalAuthority("arkworks", 1.0) if binding == "encryption" else None
        device = Device(tmp_path / binding, 1.0, progress=lambda done, total: None)
        verifier = SpotCheck(PLAN, authority=authority, steps=1, max_value=FINE)
        done = RUNNERS["message"](
            PLAN, nodes=4, rounds=2, verifier=verifier, detector=Everyone(), device=device, seed=3,
            attacks={1: sign_flip},
        )  # fmt: skip
        told.append([[(v.node_id, v.verdict, v.accepted, v.banned) for v in r.nodes] for r in done.reports])
        told[-1].append([a.tobytes() for a in done.arrays])
    assert told[0] == told[1]
