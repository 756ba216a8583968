"""``observe=True``: everything is found, verified and reported, and nothing is done about it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flwr_faa import Ledger, Policy
from flwr_faa.report import Outcome
from flwr_faa.verification.replay import Replay
from flwr_lomar import LoMar
from flwr_lomar.legacy import LoMar as LegacyLoMar
from tests.helpers.federation import RUNNERS, closeness, sign_flip
from tests.helpers.toy import PLANS

PLAN = PLANS["mlp"]
BOTH = pytest.mark.parametrize("api", RUNNERS)
LOMAR: dict[str, Any] = {"message": LoMar, "legacy": LegacyLoMar}


@BOTH
def test_the_guilty_are_named_and_the_model_is_fedavgs(api: str, tmp_path: Path) -> None:
    attacks = {1: sign_flip, 4: sign_flip}
    watching = RUNNERS[api](
        PLAN, attacks=attacks, verifier=Replay(PLAN), seed=5, rounds=2, observe=True, ledger=Ledger(tmp_path)
    )
    acting = RUNNERS[api](PLAN, attacks=attacks, verifier=Replay(PLAN), seed=5, rounds=1)
    undefended = RUNNERS[api](PLAN, attacks=attacks, defended=False, seed=5)
    assert closeness(watching.arrays, undefended.arrays) < 1e-6

    assert {v.node_id for v in watching.reports[0].convicted} == {v.node_id for v in acting.reports[0].convicted}
    for report in watching.reports:
        assert len(report.nodes) == len(report.accepted) == 6
        assert {v.node_id for v in report.convicted} == {watching.grid.node_ids[i] for i in attacks}
        assert all(v.withheld == "removed and banned" and not v.banned for v in report.convicted)
        assert not any(v.withheld for v in report.nodes if v not in report.convicted)
        assert "observed, would have been removed and banned" in str(report.convicted[0])
    assert not any(v.withheld for v in acting.reports[0].nodes)
    assert (Ledger(tmp_path).bans, Ledger(tmp_path).strikes) == ({}, {})


@BOTH
def test_lomar_and_detection_only(api: str) -> None:
    run = RUNNERS[api](PLAN, nodes=10, attacks={3: sign_flip}, strategy_class=LOMAR[api], seed=2, observe=True)
    flagged = {v.node_id: v for v in run.reports[0].having(Outcome.REMOVED)}
    assert flagged[run.grid.node_ids[3]].withheld == "removed"
    assert len(run.reports[0].accepted) == 10


@BOTH
def test_silence_costs_nothing_either_and_a_reply_that_cannot_be_averaged_still_does(api: str, tmp_path: Path) -> None:
    def silent(message: Any) -> Any:
        return None if message.metadata.message_type in ("query.verify", "get_properties") else message

    from flwr_faa.detection import Everyone

    run = RUNNERS[api](
        PLAN, attacks={5: lambda model, honest: [np.full_like(a, np.nan) for a in honest]}, faults={2: silent},
        verifier=Replay(PLAN), detector=Everyone(), seed=3, observe=True, ledger=Ledger(tmp_path),
        policy=Policy(max_strikes=1, fail_closed=True, assumed_share=0.0), verify_timeout=0.5,
    )  # fmt: skip
    for report in run.reports:
        (missing,), (rejected,) = report.having(Outcome.MISSING), report.having(Outcome.REJECTED)
        assert missing.node_id == run.grid.node_ids[2] and missing.accepted
        assert missing.withheld == "removed"  # nobody is banned for being one of more silent ones than assumed
        assert rejected.node_id == run.grid.node_ids[5] and not rejected.accepted
        assert report.failed_closed and len(report.accepted) == 5
    assert (Ledger(tmp_path).bans, Ledger(tmp_path).strikes) == ({}, {})
