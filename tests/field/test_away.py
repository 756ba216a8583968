"""A node that went away: the SuperLink answers for it, with an error under its own id, and is not taken for a node."""

from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from apps.lab.running.local_grid import Fault
from flwr_faa.authority import LocalAuthority
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.helpers.federation import run_message
from tests.helpers.toy import PLANS


def away_from(number: int) -> Fault:
    """What a node's replies become from its n-th on."""
    replies = 0

    def fault(reply: Message) -> Message:
        nonlocal replies
        replies += 1
        if replies < number:
            return reply
        error = Message(Error(ErrorCode.NODE_UNAVAILABLE), metadata=reply.metadata)
        error.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        return error

    return fault


def test_the_superlink_is_not_a_node(tmp_path: Path) -> None:
    """Three nodes go away: before they enrol, before they train, and before they are challenged."""
    authority = LocalAuthority("arkworks", 1.0)
    device = Device(tmp_path, authority.budget, progress=lambda done, total: None)
    verifier = SpotCheck(PLANS["logistic"], authority=authority, steps=1, max_value=16)
    faults = {i: away_from(i + 1) for i in range(3)}
    done = run_message(
        PLANS["logistic"],
        nodes=5,
        rounds=1,
        faults=faults,
        device=device,
        verifier=verifier,
        detector=Everyone(),
        seed=3,
    )
    (report,) = done.reports
    found = {v.node_id: v for v in report.nodes}
    assert found.keys() == set(done.grid.node_ids)
    one, two, three, *others = (found[i] for i in done.grid.node_ids)
    assert one.verdict == Outcome.REJECTED and "not enrolled: no answer in time" in one.reason
    assert two.verdict == Outcome.REJECTED and "no reply in time" in two.reason
    assert three.verdict == Outcome.MISSING and "no answer in time" in three.reason
    assert all(v.verdict == Outcome.CLEARED for v in others)
