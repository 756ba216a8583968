"""A mistake is no crime: ten honest clients, a wrong configuration; nobody is struck or banned, one line says it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from flwr_faa import SpotCheck, TrainingPlan, VerifiableClient, verifiable
from flwr_faa.authority import LocalAuthority
from flwr_faa.detection import Everyone
from flwr_faa.verification.enrolment import Device
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from tests import federation
from tests.federation import RUNNERS
from tests.toy import PLANS, slice_of

PLAN = PLANS["logistic"]
VERIFIERS: dict[str, Callable[[TrainingPlan], Any]] = {
    "replay": Replay,
    "paper": lambda plan: Paper(plan, sample_shape=(1, 8, 8)),
    "spotcheck": lambda plan: SpotCheck(plan, (1, 8, 8), LocalAuthority("arkworks", 1.0)),
}
SERVER_PLANS = {
    "lr": (replace(PLAN, lr=0.02), "lr: server 0.02, client 0.1"),
    "batch size": (replace(PLAN, batch_size=10), "batch_size: server 10, client 20"),
    "epochs": (replace(PLAN, epochs=2), "epochs: server 2, client 1"),
    "model": (PLANS["mlp"], "arrays: server"),
}
SAMPLES = {
    "floats in [0, 1]": (lambda x: x / np.float32(16), "expected samples as integers"),
    "normalised to [-1, 1]": (lambda x: x / np.float32(8) - 1, "expected samples as integers"),
    "shifted": (lambda x: x.astype(np.int16) - 8, "expected samples of at least 0"),
}


def run(api: str, name: str, plan: TrainingPlan, tmp_path: Any, **more: Any) -> Any:
    return RUNNERS[api](
        PLAN, nodes=10, rounds=3, verifier=VERIFIERS[name](plan), detector=Everyone(), seed=5,
        device=Device(tmp_path / "device", budget=1.0), **more,
    )  # fmt: skip


def nobody_is_to_blame(run: Any, records: list[logging.LogRecord], says: str) -> None:
    for report in run.reports:
        assert not report.convicted and not any(v.banned or v.verdict == "missing" for v in report.nodes)
        assert all(says in v.reason for v in report.nodes)
    errors = [r.getMessage() for r in records if r.levelno == logging.ERROR and "nobody was accepted" in r.getMessage()]
    assert len(errors) == len(run.reports) and all(says in line for line in errors)


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("what", SERVER_PLANS)
def test_a_server_with_another_plan(
    api: str, name: str, what: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plan, says = SERVER_PLANS[what]
    if what == "model" and name != "replay":
        pytest.skip("the samples' size would differ as well")
    with caplog.at_level(logging.ERROR, logger="flwr"):
        nobody_is_to_blame(run(api, name, plan, tmp_path), caplog.records, says)


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("what", SAMPLES)
def test_samples_that_cannot_be_verified(
    api: str, name: str, what: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change, says = SAMPLES[what]
    monkeypatch.setattr(federation, "slice_of", lambda i: (change(slice_of(i)[0]), slice_of(i)[1]))
    with caplog.at_level(logging.ERROR, logger="flwr"):
        nobody_is_to_blame(run(api, name, PLAN, tmp_path), caplog.records, says)


X, Y = slice_of(0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((X / 255, Y), "integers"),
        ((X, Y.astype(np.float32)), "labels as integers"),
        ((X, Y[:, None]), "labels as integers of shape"),
        ((X, Y[:-1]), "one label for each sample"),
        ((X[:0], Y[:0]), "one label for each sample"),
        ((X.tolist(), Y), "NumPy array, got list"),
        ((nn.Parameter(requires_grad=False).new_tensor(X.tolist()), Y), "NumPy array, got Tensor"),
        ((X.astype(np.int64) - 1, Y), "at least 0"),
    ],
)
def test_data_are_refused_where_the_client_is_made(data: Any, says: str) -> None:
    for make in (verifiable, VerifiableClient):
        with pytest.raises(ValueError, match=says):
            make(PLAN, data)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lr": -1}, "lr to be a finite number above 0"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": "0.1"}, "lr"),
        ({"batch_size": 0}, "batch_size to be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"epochs": True}, "epochs"),
        ({"momentum": 1.0}, "momentum to be a finite number at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"scale": 0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"loss": "mse"}, "loss to be a callable"),
        ({"model": nn.Linear(2, 2)}, None),
        ({"model": "Net"}, "model to be a callable"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(wrong: dict[str, Any], says: str | None) -> None:
    if says is None:  # a module is callable; what it returns is no module
        return
    with pytest.raises(ValueError, match=says):
        TrainingPlan(**{"model": PLAN.model, "lr": 0.1, **wrong})


def audited(attackers: int) -> Any:
    attacks = dict.fromkeys(range(attackers), federation.sign_flip)
    return RUNNERS["message"](PLAN, nodes=10, rounds=1, attacks=attacks, verifier=Replay(PLAN), detector=Everyone())


def test_more_convictions_than_attackers_may_be_ban_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="flwr"):
        (report,) = audited(6).reports
    assert len(report.convicted) == 6 and report.failed_closed and not report.accepted
    assert not any(v.banned for v in report.nodes)
    assert any("nobody is banned" in r.getMessage() for r in caplog.records)
    assert sum(v.banned for v in audited(5).reports[0].nodes) == 5
