"""Figures of label attacks and of scores, by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from apps.lab.config import load
from apps.lab.recording.metrics import GRID, by_label, scores_of
from apps.lab.running.local_run import run_locally


def test_accuracies_by_label() -> None:
    labels = np.array([7, 7, 7, 7, 1, 1, 3, 3, 3, 3])
    predicted = np.array([7, 1, 1, 3, 1, 7, 3, 3, 3, 1])
    assert by_label(predicted, labels, [(7, 1)]) == {
        "source": 0.25,
        "target": 0.5,
        "other": 0.75,
        "attack_success": 0.5,
    }
    several = by_label(predicted, labels, [(7, 1), (3, 8)])
    assert several == {"source": 0.5, "target": 0.5, "other": None, "attack_success": 0.25}


def node(score: float | None, malicious: bool | None, accepted: bool) -> dict[str, Any]:
    return {"score": score, "malicious": malicious, "accepted": accepted}


def test_scores_of_a_run() -> None:
    first = [
        node(3, True, False),
        node(2, False, False),
        node(1, True, True),
        node(0, False, True),
        node(0, False, True),
    ]
    second = [node(9, True, False), node(1, False, True), node(None, False, False), node(5, None, True)]
    third = [node(1, False, True)]
    found = scores_of(
        [
            {"nodes": first, "score_threshold": 1.5},
            {"nodes": second, "score_threshold": 8.0},
            {"nodes": third, "score_threshold": None},
        ]
    )
    assert found["auc"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["auc_worst"] == pytest.approx(5 / 6)
    assert (found["tpr"], found["fpr"]) == (2 / 3, 1 / 5)
    assert (found["tpr_left_out"], found["fpr_left_out"]) == (2 / 3, 1 / 5)
    assert [p[0] for p in found["roc"]] == list(GRID)
    assert dict(map(tuple, found["roc"]))[0.3] == 0.75
    assert dict(map(tuple, found["roc"]))[0.5] == 1.0


def test_nobody_attacked() -> None:
    found = scores_of([{"nodes": [node(1, False, True)], "score_threshold": 2.0}])
    assert (found["auc"], found["tpr"], found["fpr"]) == (None, None, 0.0)


def test_a_run_has_them() -> None:
    summary = run_locally(load("model=logistic attack=label_flip strategy=lomar rounds=2")).summary
    json.dumps(summary, allow_nan=False)
    assert {len(v) for v in summary["labels"].values()} == {3}
    assert 0 <= summary["scores"]["auc_worst"] <= summary["scores"]["auc"] <= 1
    assert "labels" not in run_locally(load("model=logistic attack=gaussian strategy=lomar rounds=1")).summary
