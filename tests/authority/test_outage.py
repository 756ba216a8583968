"""A deployment in small: both strategies, devices that pin the authority, and a process that dies in their rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from flwr.app import Message

from flwr_faa import Device, Ledger, SpotCheck
from flwr_faa.authority import connect
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from tests.authority.parties import Process, run
from tests.helpers.federation import RUNNERS
from tests.helpers.toy import EVERY, FINE, NARROW, OPENED

NODES = 3


@dataclass
class Drill:
    """What happens to the authority, by round, as told by the first node's replies."""

    directory: Path
    after_training: dict[int, Callable[[], None]] = field(default_factory=dict)
    before_judging: dict[int, Callable[[], None]] = field(default_factory=dict)
    round: int = 0

    def __post_init__(self) -> None:
        self.process = Process(self.directory)
        self.port = str(httpx.URL(self.process.url).port)

    def kill(self) -> None:
        self.process.kill()

    def start(self) -> None:
        self.process = Process(self.directory, "--port", self.port)

    def restart(self) -> None:
        self.kill()
        self.start()

    def __call__(self, message: Message) -> Message:
        if "train" in message.metadata.message_type:
            self.round += 1
            self.after_training.get(self.round, lambda: None)()
        elif self.round:  # not yet while enrolling
            self.before_judging.get(self.round, lambda: None)()
        return message


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    assert run("init", tmp_path / "authority", "--budget", "1").exit_code == 0
    drill = Drill(tmp_path / "authority")
    yield drill
    drill.kill()


@pytest.mark.slow
@pytest.mark.parametrize("api", RUNNERS)
def test_an_authority_that_dies_costs_suspects_their_round_and_nothing_else(
    api: str, drill: Drill, tmp_path: Path
) -> None:
    # Prepare: what a user writes, here with the digits' plan.
    authority = connect(drill.process.url, tmp_path / "authority" / "server.json")

    def device(partition: int) -> Device:  # each client a folder of its own: the budget belongs to the key in it
        return Device(tmp_path / f"device-{partition}", budget=1.0, authority=authority.verify_key)

    verifier = SpotCheck(NARROW, authority=authority, steps=1, max_value=FINE)
    drill.before_judging = {2: drill.kill, 5: drill.restart}  # between challenge and judgement
    drill.after_training = {4: drill.start}
    ledger = Ledger()

    # Execute
    done = RUNNERS[api](
        NARROW, nodes=NODES, rounds=5, verifier=verifier, detector=Everyone(), device=device, seed=3,
        ledger=ledger, faults={0: drill},
    )  # fmt: skip

    # Assert
    cleared, left_out = [len(r.having(Outcome.CLEARED)) for r in done.reports], done.reports[1:3]
    assert cleared == [NODES, 0, 0, NODES, NODES]
    for report in left_out:
        assert len(report.having(Outcome.EXHAUSTED)) == NODES
        assert all("no authority to ask: no answer from the authority" in v.reason for v in report.nodes)
        assert not any(v.accepted or v.banned for v in report.nodes)
    assert (ledger.strikes, ledger.bans) == ({}, {})
    # Claims of round 2 were stated with nobody there to count them: they are counted afterwards. Two keys a
    # round; round 2: without the keys, round 3: nothing.
    ranks = [{d.max_rank for d in r.disclosures} for r in done.reports]
    one = OPENED + 2 * EVERY
    assert ranks == [{one}, {one}, {one}, {min(64, 2 * one + OPENED)}, {64}]
    for disclosed in done.reports[-1].disclosures:
        assert authority.disclosure(disclosed.node_id).max_rank == disclosed.max_rank
    assert {d.enrolments for d in done.reports[-1].disclosures} == {1}
