"""What one closed step can do: measured as the docs state it, resumable, and small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apps.lab.config import load
from apps.studies import spotcheck_harm as spot_harm
from apps.studies.spotcheck_harm import ATTACKS, STEPS, harm, smoothed, traced
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import largest


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.smooth == 1], ids=lambda attack: attack.name)
def test_one_closed_step_does_no_more_than_is_stated(attack: spot_harm.Attack) -> None:
    data = load("dataset=digits clients=4").dataset.train
    for trial in range(2):
        steps, share, others = harm(attack, data, trial)
        assert attack.normed or steps <= 2.0  # the longest step, forwards and back
        assert share < 0.5 and STEPS - 5 <= others <= STEPS - 2


def test_a_kick_that_is_measured_is_closed_and_a_harder_one_is_not() -> None:
    """The search for the hardest kick finds something; a kick of the whole update is seen."""
    data, attack = load("dataset=digits clients=4").dataset.train, ATTACKS[0]
    assert harm(attack, data, 0)[1] > 0.01
    plan = spot_harm.plan_of(False)
    own, layout = (data[0][:100], data[1][:100]), StateLayout.of(plan)
    honest = spot_harm.continued(plan, own, 3, [plan.start(plan.initial_arrays(3))])
    update = [b.astype(np.float64) - a for a, b in zip(honest[0].arrays, honest[-1].arrays, strict=True)]
    kicked = spot_harm.continued(plan, own, 3, honest[:6], attack.aim(plan, layout, update, 1.0))
    trace = traced(layout, kicked, 5, 1)
    assert 5 in largest(trace.moves(), layout.lengths)
    assert 5 not in largest(smoothed(trace, 5, 12).moves(), layout.lengths)


def test_finished_trials_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "harm.jsonl"
    rows = [[a.name, trial, [float("nan") if a.normed else 0.5, 0.25, 17]] for a in ATTACKS for trial in range(2)]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(spot_harm, "harm", pytest.fail)
    assert spot_harm.main(["--trials", "2", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "| parameters | 2 | 0.50 | 0.50 | 0.25 | 0.25 | 0.12 |" in told
    assert "| a channel's running variance | 2 | - | - | 0.25 | 0.25 | 0.12 |" in told
