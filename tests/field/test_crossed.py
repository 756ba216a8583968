"""Two nodes that answer each other's challenge: both are left out, neither is convicted, and nobody else is touched."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from apps.lab.running.local_grid import LocalGrid
from flwr_faa.authority import LocalAuthority
from flwr_faa.detection import Everyone
from flwr_faa.report import Outcome
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.helpers.federation import RUNNERS
from tests.helpers.toy import PLANS


@pytest.mark.parametrize("api", RUNNERS)
def test_two_nodes_answer_each_others_challenge(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver, crossed = LocalGrid._deliver, []

    def cross(grid: LocalGrid, message: Message) -> Message | None:
        """In round 1, a challenge to node 0 or 1 reaches the other one's client, which answers under that name."""
        raw = message.content.array_records, message.content.config_records
        asked = b"spotcheck/challenge" in b"".join(
            [bytes(a.data) for r in raw[0].values() for a in r.values()]
            + [v for c in raw[1].values() for v in c.values() if isinstance(v, bytes)]
        )
        node = message.metadata.dst_node_id
        if not asked or node not in grid.node_ids[:2] or message.metadata.group_id != "1":
            return deliver(grid, message)
        contexts: dict[int, Context] = grid._contexts
        own, other = contexts[node], contexts[grid.node_ids[1 - grid.node_ids.index(node)]]
        crossed.append(node)
        grid._contexts = contexts | {node: other}
        try:
            return deliver(grid, message)
        finally:
            grid._contexts = contexts
            assert contexts[node] is own

    monkeypatch.setattr(LocalGrid, "_deliver", cross)
    authority = LocalAuthority("arkworks", 1.0)
    device = Device(tmp_path, authority.budget, progress=lambda done, total: None)
    verifier = SpotCheck(PLANS["logistic"], authority=authority, steps=1, max_value=16)
    strategy: dict[str, Any] = {"verifier": verifier, "detector": Everyone(), "seed": 3}
    done = RUNNERS[api](PLANS["logistic"], nodes=4, rounds=2, device=device, **strategy)
    one, two = done.reports
    pair = set(done.grid.node_ids[:2])
    assert set(crossed) == pair
    assert {v.node_id for v in one.having(Outcome.MISSING)} == pair
    assert len(one.having(Outcome.CLEARED)) == 2
    assert not one.convicted and not any(v.banned for v in one.nodes)
    assert len(two.having(Outcome.CLEARED)) == 4  # they have enrolled again, and answer for themselves
    assert all(d.enrolments >= 1 for d in two.disclosures) and len(two.disclosures) == 4
