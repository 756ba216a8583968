"""A mistake is no crime: ten honest clients, a wrong configuration; nobody is struck or banned, one line says it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import ClientAppException
from torch import nn

from flwr_faa import FAADL, Ledger, Policy, SpotCheck, TrainingPlan, VerifiableClient, legacy, verifiable
from flwr_faa.authority import LocalAuthority
from flwr_faa.defence import failure
from flwr_faa.detection import Everyone
from flwr_faa.verification.paper import Paper
from flwr_faa.verification.replay import Replay
from flwr_faa.verification.spotcheck.device import Device
from tests.helpers import federation
from tests.helpers.federation import RUNNERS
from tests.helpers.toy import PLANS, slice_of

PLAN = PLANS["logistic"]
VERIFIERS: dict[str, Callable[[TrainingPlan], Any]] = {
    "replay": Replay,
    "paper": lambda plan: Paper(plan, sample_shape=(1, 8, 8)),
    "spotcheck": lambda plan: SpotCheck(plan, (1, 8, 8)),
    "encrypted": lambda plan: SpotCheck(plan, (1, 8, 8), LocalAuthority("arkworks", 1.0)),
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


def test_what_a_client_raised_in_a_simulation_is_told_without_rays_traceback() -> None:
    raised = ClientAppException("expected a request that this client answers, got another")
    told = failure(f"<class 'ray.exceptions.RayTaskError'>:<'ray::ClientAppActor.run() (pid=7) {'^' * 400}\n{raised}'>")
    assert told.startswith("the client failed: expected a request that this client answers, got another")


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


#: With another model the samples' size would differ as well. Plans are compared alike whatever binds the data, and ten
#: clients take long to encrypt theirs.
QUICK, ASKED = VERIFIERS.keys() - {"encrypted"}, {"model": {"replay"}, "lr": VERIFIERS.keys()}


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize(
    ("name", "what"),
    [(name, what) for what in SERVER_PLANS for name in VERIFIERS if name in ASKED.get(what, QUICK)],
)
def test_a_server_with_another_plan(
    api: str, name: str, what: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plan, says = SERVER_PLANS[what]
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
        ((torch.from_numpy(X), torch.from_numpy(Y)), r"NumPy array, got Tensor: pass samples.numpy\(\)"),
        ((X, torch.from_numpy(Y)), r"pass labels.numpy\(\)"),
        (torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), "two NumPy arrays.*got TensorDat"),
        (torch.utils.data.DataLoader(X), "two NumPy arrays.*got DataLoader"),
        (X, "two NumPy arrays.*got ndarray"),
        ({"samples": X, "labels": Y}, "two NumPy arrays.*got dict"),
        (None, "two NumPy arrays.*got NoneType"),
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
        ({"model": nn.Linear(2, 2)}, "got the module Linear: give its class"),
        ({"model": "Net"}, "model to be a callable"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(wrong: dict[str, Any], says: str) -> None:
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


AUTHORITY = LocalAuthority("arkworks", 1.0)
SHAPE = (1, 8, 8)
CHECKED: dict[str, Callable[..., Any]] = {
    "replay": lambda plan=PLAN, **more: Replay(plan, **more),
    "paper": lambda plan=PLAN, shape=SHAPE, **more: Paper(plan, shape, **{"authority": AUTHORITY, **more}),
    "spotcheck": lambda plan=PLAN, shape=SHAPE, **more: SpotCheck(plan, shape, **{"authority": AUTHORITY, **more}),
}
PLAN_MISTAKES = [
    ({"plan": TrainingPlan}, "plan to be a TrainingPlan, got the class TrainingPlan: TrainingPlan"),
    ({"plan": nn.Linear(64, 10)}, "plan to be a TrainingPlan, got Linear"),
    ({"plan": None}, "plan to be a TrainingPlan, got None"),
]
TAU = [({"tau": wrong}, "tau to be a finite number above 0") for wrong in (0.0, -1, float("nan"), "0.1", True)]
SAMPLES_OF = [
    *[({"shape": wrong}, "sample_shape as a tuple of positive integers") for wrong in (64, (), (1, 8.0, 8), (-8, -8))],
    ({"shape": (1, 9, 9)}, r"expected samples that the .* takes?, got shape \(1, 9, 9\)"),
    *[({"authority": wrong}, "expected authority with public_key") for wrong in (LocalAuthority, "https://a")],
    *[({"max_value": wrong}, "max_value to be an integer of at least 1") for wrong in (0, -5, 16.0, "255")],
    ({"plan": replace(PLAN, model=lambda: None)}, r"model\(\) to return a new torch module, got NoneType"),
    ({"plan": replace(PLAN, model=lambda width: None)}, r"model\(\) to return a new torch module, got TypeError"),
]
ONLY_SPOTCHECK = [
    *[({"steps": wrong}, "steps to be an integer of at least 0") for wrong in (-1, 2.5, "2")],
    *[({"enrol_timeout": wrong}, "enrol_timeout to be a finite number above 0") for wrong in (0, -1, "1h")],
    ({"allow_convolution": "no"}, "allow_convolution to be True or False"),
]
VERIFIER_MISTAKES = [
    (name, wrong, says)
    for name, kinds in {
        "replay": [*PLAN_MISTAKES, *TAU],
        "paper": [*PLAN_MISTAKES, *TAU, *SAMPLES_OF],
        "spotcheck": [*PLAN_MISTAKES, *TAU, *SAMPLES_OF, *ONLY_SPOTCHECK],
    }.items()
    for wrong, says in kinds
]


@pytest.mark.parametrize(("name", "wrong", "says"), VERIFIER_MISTAKES, ids=range(len(VERIFIER_MISTAKES)))
def test_nonsense_in_a_verifier_is_refused_where_it_is_made(name: str, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        CHECKED[name](**wrong)


@pytest.mark.parametrize("make", [verifiable, VerifiableClient])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        *PLAN_MISTAKES,
        ({"device": "folder"}, r"device to be a Device, got 'folder': Device\('folder'\) makes one"),
        ({"device": Device}, "device to be a Device, got the class Device"),
        ({"plaintext": "no"}, "plaintext to be True or False, got 'no'"),
        ({"answers": "paper"}, "answers to be protocols among"),
        ({"answers": None}, "answers to be protocols among"),
        ({"answers": [["paper"]]}, "answers to be protocols among"),
    ],
)
def test_nonsense_in_a_client_is_refused_where_it_is_made(make: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make(**{"plan": PLAN, "data": (X, Y), **wrong})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"folder": None}, "folder to be a path, got None"),
        ({"folder": 3}, "folder to be a path, got 3"),
        ({"budget": 0}, "budget to be a finite number above 0 and at most 1"),
        ({"budget": 25}, "budget to be a finite number above 0 and at most 1, got 25"),
        ({"budget": "0.25"}, "budget to be"),
        ({"authority": "ab" * 32}, "key as 32 bytes or None.*fromhex"),
        ({"authority": b"ab"}, "key as 32 bytes or None"),
        ({"progress": True}, "progress to be a function"),
    ],
)
def test_nonsense_in_a_device_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        Device(**wrong)


def test_a_devices_folder_may_be_a_text(tmp_path: Path) -> None:
    assert Device(str(tmp_path)).checkpoints == Device(tmp_path).checkpoints  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FAADL, legacy.FAADL])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"verifier": SpotCheck}, r"verifier with challenge\(\), judge\(\), got the class SpotCheck"),
        ({"verifier": "spotcheck"}, "verifier with challenge"),
        ({"detector": "lomar"}, "expected a detector"),
        ({"policy": Policy}, "policy to be a Policy, got the class Policy"),
        ({"policy": {}}, "policy to be a Policy"),
        ({"ledger": Ledger}, "ledger to be a Ledger, got the class Ledger"),
        ({"ledger": "folder"}, r"Ledger\('folder'\) makes one"),
        ({"rule": "median"}, r"rule to be a function of \(batch, rows\)"),
        ({"observe": "no"}, "observe to be True or False"),
        ({"verify_timeout": 0}, "verify_timeout to be a finite number above 0"),
        ({"seed": -1}, "seed to be an integer of at least 0"),
    ],
)
def test_nonsense_in_a_strategy_is_refused(strategy: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        strategy(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"ban": "no"}, {"renormalise": 1}, {"fail_closed": None}, {"max_strikes": 0}, {"assumed_share": 1.5},
     {"drop_above": "10"}, {"weighting": "foo"}],
)  # fmt: skip
def test_nonsense_in_a_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"xpected {next(iter(wrong))} to be"):
        Policy(**wrong)


def silent_app(api: str) -> ClientApp:
    """Trains as the plan says, and has never heard of verification."""
    if api == "legacy":

        class Client(NumPyClient):
            def fit(self, parameters: Any, config: Any) -> Any:
                return VerifiableClient(PLAN, (X, Y)).fit(parameters, config)

        return ClientApp(client_fn=lambda context: Client().to_client())
    app = ClientApp()

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        return verifiable(PLAN, (X, Y)).train(msg, context)

    return app


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize("name", VERIFIERS)
def test_clients_that_answer_no_verification(
    api: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grid = federation.LocalGrid
    monkeypatch.setattr(federation, "LocalGrid", lambda app, nodes, faults: grid(silent_app(api), nodes))
    with caplog.at_level(logging.ERROR, logger="flwr"):
        run = RUNNERS[api](
            PLAN, nodes=10, rounds=4, verifier=VERIFIERS[name](PLAN), detector=Everyone(), fraction_evaluate=0.0
        )
    says = "VerifiableClient" if api == "legacy" else '@app.query("verify")'
    assert len(run.reports) == 4
    for report in run.reports:
        assert len(report.nodes) == 10 and all(says in v.reason for v in report.nodes)
        assert not any(v.banned for v in report.nodes)
    errors = [r.getMessage() for r in caplog.records if "nobody was accepted" in r.getMessage()]
    assert len(errors) == 4 and all(says in line for line in errors)


@pytest.mark.parametrize("api", RUNNERS)
def test_what_a_client_raises_reaches_the_operator(api: str) -> None:
    def broken(model: Any, honest: Any) -> Any:
        raise FileNotFoundError("no slice at /data/7.npz")

    run = RUNNERS[api](PLAN, nodes=4, rounds=1, attacks={2: broken}, verifier=Replay(PLAN))
    (lost,) = [v for v in run.reports[0].nodes if not v.accepted]
    assert lost.node_id == run.grid.node_ids[2] and "no slice at /data/7.npz" in lost.reason


@pytest.mark.parametrize("api", RUNNERS)
@pytest.mark.parametrize(("nodes", "verifier"), [(3, None), (5, None), (6, None), (3, Replay(PLAN))])
def test_few_clients_are_told_what_can_be_known(
    api: str, nodes: int, verifier: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="flwr"):
        run = RUNNERS[api](PLAN, nodes=nodes, rounds=2, verifier=verifier)
    told = [r.getMessage() for r in caplog.records if "nobody can say what is usual" in r.getMessage()]
    few = verifier is None and nodes < 6
    assert len(told) == few and all(f"{nodes} updates to compare" in line for line in told)
    assert not few or all(len(r.accepted) == nodes for r in run.reports)  # and no harm is done
