"""The papers' models: their sizes worked out by hand, and that a training plan can repeat them bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.lab.config import load
from apps.lab.models import cnn, logistic, mlp, squeezenet
from flwr_faa import TrainingPlan

CNN = (25 + 1) * 32 + (25 * 32 + 1) * 64 + (64 * 4 * 4 + 1) * 320 + 321 * 10
#: Iandola et al.: a fire module squeezes to s channels and expands to 2 x e, 1x1 and 3x3.
FIRES = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192)]
FIRES += [(384, 64, 256), (512, 64, 256)]
SQUEEZENET = (27 + 1) * 64 + sum((i + 1) * s + (s + 1) * e + (9 * s + 1) * e for i, s, e in FIRES) + (512 + 1) * 10


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (partial(logistic, (1, 28, 28), 10), 7850),
        (partial(logistic, (41,), 23), 42 * 23),
        (partial(mlp, (9,), 7), 10 * 32 + 33 * 7),
        (partial(cnn, (1, 28, 28), 10), CNN),
        (partial(cnn, (1, 28, 28), 10, batch_norm=True), CNN + 2 * (32 + 64)),
        (partial(squeezenet, (3, 224, 224), 10), SQUEEZENET),
        (partial(squeezenet, (1, 64, 64), 10), SQUEEZENET - 18 * 64),
    ],
)
def test_models_have_the_parameters_that_the_papers_imply(model, parameters: int) -> None:
    assert sum(p.numel() for p in model().parameters()) == parameters


def test_fashion_mnist_has_batch_norm_after_each_convolution() -> None:
    kinds = [type(layer).__name__ for layer in cnn((1, 28, 28), 10, batch_norm=True)]
    assert kinds[:8] == ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"] * 2


def test_a_network_that_lies_channels_last_sends_what_it_would_send_otherwise() -> None:
    plan = TrainingPlan(partial(cnn, (1, 12, 12), 4), lr=0.1, batch_size=4)
    data = np.random.default_rng(0).integers(0, 256, (8, 1, 12, 12), np.uint8), np.arange(8) % 4
    sent = plan.train(plan.initial_arrays(0), data, nonce=1)

    assert all(w.flags.c_contiguous for w in sent)  # bytes on the wire, commitments and hashes go row by row
    assert plan.build(sent)[3].weight.is_contiguous(memory_format=torch.channels_last)  # from the wire and back
    assert not plan.build(sent)[3].weight.is_contiguous()


def test_lomars_logistic_regression_starts_from_zero() -> None:
    plan = load("model=logistic_lomar").plan
    assert not any(a.any() for a in plan.initial_arrays(3))
    assert (plan.batch_size, plan.epochs) == (20, 5)


def test_squeezenet_has_table_2s_settings(faa_data: Path) -> None:
    plan = load("model=squeezenet dataset=vggface2").plan
    assert (plan.batch_size, plan.momentum, plan.weight_decay, plan.lr) == (8, 0.9, 0.0001, 0.001)
    assert plan.initial_arrays(0)[-2].shape == (10, 512, 1, 1)


@pytest.mark.parametrize("model", [partial(squeezenet, (1, 32, 32), 4), partial(cnn, (1, 12, 12), 4, batch_norm=True)])
def test_a_replay_repeats_training_bit_for_bit(model) -> None:
    plan = TrainingPlan(model, lr=0.01, batch_size=4, momentum=0.9)
    rng = np.random.default_rng(0)
    side = 32 if model.func is squeezenet else 12
    data = rng.integers(0, 256, (8, 1, side, side), np.uint8), np.arange(8) % 4
    start = plan.initial_arrays(0)
    claimed, replayed = (plan.train(start, data, 7) for _ in range(2))
    assert plan.error(start, claimed, replayed) == 0.0
    assert plan.error(start, claimed, plan.train(start, data, 8)) > 0.01


@pytest.mark.parametrize(("model", "shape"), [(cnn, (41,)), (squeezenet, (1, 28, 28)), (squeezenet, (41,))])
def test_a_model_for_images_refuses_other_shapes(model, shape) -> None:
    with pytest.raises(ValueError, match="expected images"):
        model(shape, 10)
