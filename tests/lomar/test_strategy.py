"""LoMar as a strategy: the same verdicts through both of Flower's APIs."""

import numpy as np
import pytest

from flwr_faa import FAADL, Policy
from flwr_faa.report import Outcome
from flwr_lomar import LoMar, LoMarDetector
from flwr_lomar import legacy as lomar_legacy
from tests.helpers.federation import run_legacy, run_message, sign_flip
from tests.helpers.toy import PLANS

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
    if preset == "robust":
        reasons = [v.reason for r in runs[0].reports for v in r.having(Outcome.REMOVED)]
        assert reasons and all("usual" in reason and "(z = " in reason for reason in reasons)


def test_faa_dl_with_lomar_as_its_detector_says_why_too() -> None:
    run = run_message(PLAN, nodes=12, attacks={3: sign_flip}, strategy_class=FAADL, detector=LoMarDetector(), seed=1)
    found = {v.node_id: v.reason for r in run.reports for v in r.nodes}
    assert "LoMarDetector: " in found[run.grid.node_ids[3]] and "usual" in found[run.grid.node_ids[3]]


def test_an_outlier_is_left_out_and_nobody_banned() -> None:
    run = run_message(PLAN, nodes=12, attacks={3: sign_flip}, strategy_class=LoMar, seed=1)
    removed = {v.node_id for v in run.reports[0].having(Outcome.REMOVED)}
    assert run.grid.node_ids[3] in removed
    assert len(removed) <= 3
    assert not any(v.banned for r in run.reports for v in r.nodes)


@pytest.mark.parametrize("strategy_class", [LoMar, lomar_legacy.LoMar])
def test_a_preset_stands_for_a_detector_and_a_policy_unless_these_are_given(strategy_class: type) -> None:
    """``paper`` averages as Eq. 3 is printed: by the weights that clients report, which need not sum to one."""
    for settings, preset, weighting, renormalise in (
        ({}, "robust", Policy().weighting, True),
        ({"preset": "robust"}, "robust", Policy().weighting, True),
        ({"preset": "paper"}, "paper", "reported", False),
        ({"preset": "paper", "detector": LoMarDetector("robust", k=3)}, "robust", "reported", False),
        ({"preset": "paper", "policy": Policy(max_strikes=5)}, "paper", Policy().weighting, True),
    ):
        defence = strategy_class(**settings).defence
        assert defence.detector.detector.preset == preset
        assert (defence.policy.weighting, defence.policy.renormalise) == (weighting, renormalise)
        assert defence.detector.detector.k == (3 if "detector" in settings else None)
        assert defence.policy.max_strikes == (5 if "policy" in settings else Policy().max_strikes)
