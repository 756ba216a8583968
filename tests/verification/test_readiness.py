"""``TrainingPlan.check`` and ``faa-device check --plan``: everything that a project must change, before a round."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from flwr_faa import TrainingPlan
from flwr_faa import device_check as device
from flwr_faa.authority import LocalAuthority
from flwr_faa.detection import Everyone
from flwr_faa.verification.readiness import problems, try_plan
from flwr_faa.verification.spotcheck.enrolment import Device
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.helpers.federation import run_message
from tests.helpers.toy import FINE, NARROW, PLANS, seen_by, slice_of

X, Y = slice_of(0, 200)
#: Samples as large as MNIST's, of which a check of 50 tells less than half, and one of a single sample everything.
LARGE = np.tile(X.reshape(200, 8, 8), (1, 4, 4))[:, :28, :28]


USUAL = {"budget": 1.0, "allow_convolution": False, "max_value": 255, "authority": False}


def of(*layers: nn.Module) -> Any:
    return lambda: deepcopy(nn.Sequential(nn.Flatten(), *layers))


PLAN = TrainingPlan(model=of(nn.Linear(64, 2), nn.Linear(2, 10)), lr=0.1, batch_size=20)
SHARED = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
WIDE = TrainingPlan(model=of(nn.Linear(784, 2), nn.Linear(2, 10)), lr=0.1, batch_size=50)
NORMED = replace(WIDE, model=of(nn.Linear(784, 2), nn.BatchNorm1d(2), nn.Linear(2, 10)))


@pytest.mark.parametrize(
    ("plan", "data", "more", "says"),
    [
        (PLAN, (X, Y), {}, []),
        (PLAN, (X / 16, Y + 3), {}, ["expected samples as integers", "labels from 0 to 9, got 3 to 12"]),
        (PLAN, (X, Y.astype(float)), {}, ["expected labels as integers"]),
        (PLAN, (torch.from_numpy(X), torch.from_numpy(Y)), {}, [r"samples.numpy\(\)", r"labels.numpy\(\)"]),
        (PLAN, torch.utils.data.TensorDataset(torch.from_numpy(X)), {}, ["two NumPy arrays"]),
        (PLAN, (X, Y[:-1]), {}, ["one label for each sample"]),
        (PLAN, (X[:0], Y[:0]), {}, ["one label for each sample"]),
        (PLAN, (X[:, 0, 0, 0], Y), {}, ["one label for each sample"]),
        (PLAN, (np.array(3), Y), {}, ["one label for each sample"]),
        (PLAN, (X, Y, Y), {}, ["two NumPy arrays"]),
        (PLAN, (X, Y + 3), {}, ["labels from 0 to 9, got 3 to 12"]),
        (PLAN, (X * 300.0, Y), {}, ["expected samples as integers"]),
        (PLAN, (X.reshape(200, 64), Y), {}, []),
        (PLAN, (X.reshape(200, 64)[:, 1:], Y), {}, [r"samples that the first layer takes, got shape \(63,\)"]),
        (PLAN, (X * 0, Y), {"max_value": 1}, []),
        (PLAN, ((X > 8).astype(int), Y), {"max_value": 1}, []),
        (replace(PLAN, model=lambda: {}["net"]), (X, Y), {}, ["^KeyError: 'net'$"]),
        (PLAN, (X.astype(int) - 8, Y - 1), {}, ["samples of at least 0, got -8", "labels from 0 to 9, got -1 to 8"]),
        (WIDE, (LARGE, Y), {"budget": 0.5}, []),
        (WIDE, (LARGE, Y), {"budget": 0.4}, []),
        (WIDE, (LARGE, Y), {"budget": 0.4, "authority": True}, ["345 of 784 dimensions of a sample, got 313"]),
        (WIDE, (LARGE[:151], Y[:151]), {"budget": 0.5}, ["samples that a check can be afforded of, got 151"]),
        (PLAN, (X.astype(int) * 300, Y), {}, [r"got 4800: scale them, or SpotCheck\(max_value=4800\)"]),
        (PLAN, (X, Y), {"max_value": 15}, ["samples from 0 to 15, got 16"]),
        (replace(PLAN, batch_size=2), (X, Y), {"budget": 0.5}, ["larger batches than 2"]),
        (replace(PLAN, batch_size=2), (X, Y), {"budget": 0.5, "authority": True}, ["larger batches than 2"]),
        (replace(PLAN, model=lambda: SHARED), (X, Y), {}, [r"a new torch module every time, got the same"]),
        (replace(PLAN, model=lambda: None), (X, Y + 3), {}, ["got NoneType"]),
        (replace(PLAN, model=lambda width: None), (X, Y), {}, ["got TypeError"]),
        (replace(PLAN, model=of(nn.LayerNorm(64), nn.Linear(64, 10))), (X, Y), {}, ["Linear or Conv2d as the first"]),
        (replace(PLAN, model=of(nn.ReLU(), nn.Linear(64, 9).double())), (X, Y), {}, ["of float32, got torch.float64"]),
        (replace(PLAN, model=of(nn.Linear(63, 10))), (X, Y), {}, [r"samples that the first layer takes, got shape"]),
        (replace(PLAN, model=of(nn.Tanh(), nn.Linear(64, 2))), (X, Y), {}, ["nothing but reshaping before"]),
        (replace(PLAN, loss=lambda z, y: z), (X, Y), {}, ["expected a plan that can train"]),
        (NORMED, (LARGE[:151], Y[:151]), {"budget": 0.5}, ["more than 1 value per channel", "can be afforded"]),
        (PLANS["cnn"], (X, Y), {"budget": 0.5}, ["a budget that allows a check", "got a convolution"]),
        (PLANS["cnn"], (X, Y), {"allow_convolution": True}, []),
    ],
)  # fmt: skip
def test_everything_that_must_change_is_named_at_once(plan: Any, data: Any, more: Any, says: list[str]) -> None:
    found = problems(plan, data, **{**USUAL, **more})
    assert len(found) == len(says), found
    assert all(re.search("|".join(says), problem) for problem in found), found
    assert not any(re.match(r"(\w*Value\w*|Misconfigured):", problem) for problem in found)  # they say it themselves


def test_check_raises_with_a_list_or_says_nothing() -> None:
    PLAN.check((X, Y), budget=1.0)
    WIDE.check((LARGE, Y), budget=0.4)  # no authority, unless it is told of one
    with pytest.raises(ValueError, match=r"to change:\n  1\. .*345 of 784 dimensions"):
        WIDE.check((LARGE, Y), budget=0.4, authority=True)
    with pytest.raises(ValueError, match=r"to change:\n  1\. expected samples as integers.*\n  2\. expected integer"):
        PLAN.check((X / 16, Y + 3), budget=1.0)
    with pytest.raises(ValueError, match="larger batches"):
        replace(PLAN, batch_size=2).check((X, Y))


def test_what_it_finds_nothing_in_is_cleared_by_the_verifier(tmp_path: Path) -> None:
    data = slice_of(0)
    assert problems(NARROW, seen_by(NARROW, data), **{**USUAL, "max_value": FINE}) == []
    verifier, own = SpotCheck(NARROW, authority=LocalAuthority(budget=1.0), max_value=FINE), Device(tmp_path, 1.0)
    run = run_message(NARROW, nodes=3, rounds=1, verifier=verifier, detector=Everyone(), device=own)
    assert [v.verdict for v in run.reports[0].nodes] == ["cleared"] * 3


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A slice on disk, and the repository's root as the folder to import from."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    np.savez(tmp_path / "0.npz", samples=X[:200], labels=Y[:200], partition=0)
    return tmp_path / "0.npz"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tests.helpers.toy:NARROW", None),
        ("tests.helpers.toy:WIDE", "has no attribute 'WIDE'"),
        ("tests.helpers.toy", "expected a plan as MODULE:ATTRIBUTE"),
        ("nowhere:plan", "No module named 'nowhere'"),
        (":plan", "got ':plan': Empty module name"),
        ("tests.helpers.toy:Narrow", "expected plan to be a TrainingPlan, got the class Narrow"),
    ],
)
def test_a_plan_is_named_by_module_and_attribute(file: Path, name: str, says: str | None) -> None:
    found, kept = try_plan(name, str(file), str(file.parent / "device"), 1.0, False, 16, False)
    assert (found == [] and "checkpoints of a round" in kept) if says is None else (says in found[0] and not kept)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", "images", "objects", None])
def test_a_file_that_holds_no_samples(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "0.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        objects = {"samples": np.array([{}, {}]), "labels": Y[:2]}  # they would be unpickled
        np.savez(path, **({"images": X} if content == "images" else objects))
    (found,), _ = try_plan("tests.helpers.toy:NARROW", str(path), str(tmp_path), 1.0, False, 16, False)
    assert found.startswith("expected an .npz file with 'samples' and 'labels', got ")


def test_the_devices_check_says_it_and_exits_with_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "check_torch", lambda: (device.Check("torch", "ok", ""), 1))  # seconds, tried elsewhere
    monkeypatch.setattr(device, "check_crypto", lambda: device.Check("crypto", "ok", ""))
    np.savez(file, samples=X[:190], labels=Y[:190] + 1)
    given = f"--plan tests.helpers.toy:NARROW --data {file} --budget 1 --max-value 16 --folder {tmp_path / 'new'}"
    done = CliRunner().invoke(device.app, ["check", *given.split()])
    assert done.exit_code == 1, done.stdout
    assert "expected integer labels from 0 to 9, got 1 to 10" in " ".join(done.stdout.replace("│", " ").split())
    monkeypatch.setattr(device, "_probe", lambda code, *told: (([], "checkpoints kept on disk"), ""))
    done = CliRunner().invoke(device.app, ["check", *given.split()])
    assert done.exit_code == 0 and "can be verified on" in done.stdout and "kept on disk" in done.stdout
    monkeypatch.setattr(device, "_probe", lambda code, *told: (([], "NOT the same way twice: kept on disk"), ""))
    done = CliRunner().invoke(device.app, ["check", *given.split()])
    assert done.exit_code == 0 and "warn" in done.stdout  # such a device takes part all the same


def test_a_plan_and_data_go_together() -> None:
    done = CliRunner().invoke(device.app, ["check", "--plan", "tests.helpers.toy:NARROW"])
    assert done.exit_code == 2 and "expected --plan and --data, got one of them" in done.stderr
