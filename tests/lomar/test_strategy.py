"""LoMar as a strategy: the same verdicts through both of Flower's APIs."""

import numpy as np
import pytest

from flwr_faa.verdict import Outcome
from flwr_lomar import LoMar
from flwr_lomar import legacy as lomar_legacy
from tests.federation import run_legacy, run_message, sign_flip
from tests.toy import PLANS

PLAN = PLANS["logistic"]


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_both_apis_give_the_same_verdicts_and_weights(preset: str) -> None:
    attacks = {3: sign_flip}
    runs = [
        run_message(PLAN, nodes=12, attacks=attacks, strategy_class=LoMar, preset=preset, seed=1),
        run_legacy(PLAN, nodes=12, attacks=attacks, strategy_class=lomar_legacy.LoMar, preset=preset, seed=1),
    ]
    for a, b in zip(runs[0].reports, runs[1].reports, strict=True):
        assert a.nodes == b.nodes
    assert all(x.tobytes() == y.tobytes() for x, y in zip(runs[0].arrays, runs[1].arrays, strict=True))
    assert all(np.isfinite(a).all() for a in runs[0].arrays)


def test_an_outlier_is_left_out_and_nobody_banned() -> None:
    run = run_message(PLAN, nodes=12, attacks={3: sign_flip}, strategy_class=LoMar, seed=1)
    removed = {v.node_id for v in run.reports[0].having(Outcome.REMOVED)}
    assert run.grid.node_ids[3] in removed
    assert len(removed) <= 3
    assert not any(v.banned for r in run.reports for v in r.nodes)
