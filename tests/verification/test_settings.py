"""What server and clients must agree on, and what data must be: every difference and every mistake is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.settings import check_agreement, check_authority, check_data, check_given, settings_of
from tests.helpers.toy import PLANS

PLAN = TrainingPlan(
    model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)), lr=0.5, momentum=0.25, weight_decay=1e-3,
    batch_size=7, epochs=3, scale=0.125, bits=9,
)  # fmt: skip
X, Y = np.arange(12).reshape(3, 4), np.array([0, 1, 1])


class Squares:
    """A loss that is an object, without a name of its own."""

    def __call__(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return output.square().mean()


def test_the_settings_are_all_of_the_plan() -> None:
    assert json.loads(settings_of(PLAN)) == {
        "version": 1,
        "lr": 0.5,
        "momentum": 0.25,
        "weight_decay": 1e-3,
        "batch_size": 7,
        "epochs": 3,
        "scale": 0.125,
        "bits": 9,
        "loss": "cross_entropy",
        "layers": ["Sequential", "Flatten", "Linear"],
        "arrays": [["1.weight", [2, 4], "float32"]],
    }
    assert json.loads(settings_of(replace(PLAN, loss=mse_loss)))["loss"] == "mse_loss"
    assert json.loads(settings_of(replace(PLAN, loss=Squares())))["loss"] == "Squares"


def test_a_plan_is_described_once() -> None:
    """It goes with every request of every round, and a description makes a model."""
    made = []

    def model() -> nn.Module:
        made.append(1)
        return nn.Linear(4, 2)

    plan = replace(PLAN, model=model)
    before = len(made)
    assert settings_of(plan) == settings_of(plan) and len(made) == before + 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lr": 0.25}, "lr: server 0.5, client 0.25"),
        ({"epochs": 4, "bits": 8}, "epochs: server 3, client 4; bits: server 9, client 8"),
        ({"loss": mse_loss}, 'loss: server "cross_entropy", client "mse_loss"'),
        ({"model": lambda: nn.Linear(4, 2)}, 'layers: server ["Sequential", "Flatten", "Linear"], client ["Linear"]; '),
    ],
)
def test_every_setting_that_differs_is_named_with_both_values(changed: dict[str, Any], says: str) -> None:
    check_agreement(PLAN, settings_of(PLAN))
    with pytest.raises(ValueError) as found:
        check_agreement(replace(PLAN, **changed), settings_of(PLAN))
    assert str(found.value).startswith(f"expected the training plan of the server, got another one: {says}")
    assert str(found.value).endswith(". Give both the same plan")


def test_a_setting_that_one_side_does_not_know_differs() -> None:
    told = json.loads(settings_of(PLAN))
    with pytest.raises(ValueError, match=r"got another one: nesterov: server true, client null. Give"):
        check_agreement(PLAN, json.dumps({**told, "nesterov": True}))
    del told["bits"]
    with pytest.raises(ValueError, match=r"got another one: bits: server null, client 9. Give"):
        check_agreement(PLAN, json.dumps(told))
    with pytest.raises(ValueError, match="expected the settings of a plan, got list"):
        check_agreement(PLAN, "[1]")


@pytest.mark.parametrize(("length", "shown"), [(118, '"' + "x" * 118 + '"'), (119, '"' + "x" * 119 + "...")])
def test_a_long_value_is_cut(length: int, shown: str) -> None:
    """After 120 characters, the quotation marks included."""
    told = json.dumps({**json.loads(settings_of(PLAN)), "loss": "x" * length})
    with pytest.raises(ValueError) as found:
        check_agreement(PLAN, told)
    assert f"loss: server {shown}, client" in str(found.value)


ARRAYS = "expected data as two NumPy arrays, (samples, labels), got "
LABELS = "expected labels as integers of shape (m,), got "
EACH = "expected one label for each sample, got "


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((X, Y), None),
        ([X, Y], None),
        ((np.zeros((300, 2), int), np.zeros(300, int)), None),
        ((X.reshape(3, 1, 2, 2), Y), None),
        ((X.astype(np.uint8), Y.astype(np.uint8)), None),
        ((X * 0, Y - 1), None),  # labels have a check of their own, against the model's classes
        ((X, Y, Y), ARRAYS + "tuple: collect"),
        ((X,), ARRAYS + "tuple: collect"),
        (X[:2], ARRAYS + "ndarray: collect"),
        ((torch.from_numpy(X), Y), "expected samples as a NumPy array, got Tensor: pass samples.numpy()"),
        ((X, [0, 1, 1]), "expected labels as a NumPy array, got list: numpy.asarray makes one"),
        ((X / 2, Y), "expected samples as integers, e.g. pixels from 0 to 255, got float64: leave them"),
        ((X > 1, Y), "expected samples as integers, e.g. pixels from 0 to 255, got bool: leave them"),
        ((X - 1, Y), "expected samples of at least 0, got -1: shift them"),
        ((X, Y / 2), LABELS + "float64 of shape (3,)"),
        ((X, Y[:, None]), LABELS + "int64 of shape (3, 1)"),
        ((X, np.array(1)), LABELS + "int64 of shape ()"),
        ((X, Y[:2]), EACH + "(2,) for (3, 4)"),
        ((X[:2], Y), EACH + "(3,) for (2, 4)"),
        ((X[:, 0], Y), EACH + "(3,) for (3,)"),
        ((X[:0], Y[:0]), EACH + "(0,) for (0, 4)"),
    ],
)
def test_data_are_arrays_of_integers_with_a_label_for_each_sample(data: Any, says: str | None) -> None:
    if says is None:
        check_data(data)
        return
    with pytest.raises(ValueError) as found:
        check_data(data)
    assert str(found.value).startswith(says)


def test_a_plan_is_a_plan_and_an_authority_can_be_asked() -> None:
    check_given(PLANS["mlp"])
    with pytest.raises(TypeError, match=r"expected plan to be a TrainingPlan, got the class TrainingPlan: Train"):
        check_given(TrainingPlan)
    with pytest.raises(TypeError, match=r"expected authority with public_key\(\), functional_keys\(\), got 'here'"):
        check_authority("here")
