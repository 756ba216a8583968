"""The settings that server and clients must agree on before any training is judged, in a form that can be compared.

A server whose plan has another learning rate than its clients' would convict every honest one of them. So the settings
go with each request to train, and a client that has others says which, and does not train.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from flwr_faa import expected
from flwr_faa.errors import ArgumentTypeError, ArgumentValueError
from flwr_faa.verification.training import Data, Training

_VERSION = 1
_LONGEST = 120
_AUTHORITIES = "LocalAuthority() for simulations, RemoteAuthority(url, ...) in the field"


@lru_cache
def settings_of(plan: Training) -> str:
    """Return a plan's settings as JSON: its numbers, its loss by name, its model's layers and arrays.

    What two models of equal layers and arrays do between them is not described, nor a loss beyond its name.
    """
    model = plan.blank()
    loss = "cross_entropy" if plan.loss is None else getattr(plan.loss, "__qualname__", type(plan.loss).__qualname__)
    arrays = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in model.state_dict().items()]
    return json.dumps(
        {
            "version": _VERSION,
            "lr": plan.lr,
            "momentum": plan.momentum,
            "weight_decay": plan.weight_decay,
            "batch_size": plan.batch_size,
            "epochs": plan.epochs,
            "scale": plan.scale,
            "bits": plan.bits,
            "loss": loss,
            "layers": [type(module).__name__ for module in model.modules()],
            "arrays": arrays,
        }
    )


def check_agreement(plan: Training, told: str) -> None:
    """Compare a client's plan with the settings that its server has told.

    Raises
    ------
    ValueError
        Naming every setting that differs, with both values.
    """
    server, client = json.loads(told), json.loads(settings_of(plan))
    if not isinstance(server, Mapping):
        raise ArgumentValueError(f"expected the settings of a plan, got {type(server).__name__}")
    names = [name for name in {**client, **server} if server.get(name) != client.get(name)]
    if names:
        listed = "; ".join(
            f"{name}: server {_short(server.get(name))}, client {_short(client.get(name))}" for name in names
        )
        raise ArgumentValueError(
            f"expected the training plan of the server, got another one: {listed}. Give both the same plan"
        )


def check_data(data: Data) -> None:
    """Make sure that samples and labels are such as can be verified.

    Raises
    ------
    ValueError
        If samples are no non-negative integers, labels no integers, or there is not one label for each sample.
    """
    if problem := next(data_problems(data), None):
        raise ArgumentValueError(problem)


def data_problems(data: Any) -> Iterator[str]:
    """Yield what is wrong with samples and labels, most basic first."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        yield (
            f"expected data as two NumPy arrays, (samples, labels), got {type(data).__name__}: collect a data set or a "
            "loader into them, e.g. with numpy.stack"
        )
        return
    given = dict(zip(("samples", "labels"), data, strict=True))
    for name, values in given.items():
        if not isinstance(values, np.ndarray):
            remedy = f"pass {name}.numpy()" if hasattr(values, "numpy") else "numpy.asarray makes one"
            yield f"expected {name} as a NumPy array, got {type(values).__name__}: {remedy}"
    if not all(isinstance(values, np.ndarray) for values in given.values()):
        return
    samples, labels = data
    if samples.dtype.kind not in "iu":
        yield (
            f"expected samples as integers, e.g. pixels from 0 to 255, got {samples.dtype}: leave them as they are "
            "before ToTensor() or Normalize(); TrainingPlan(scale=1 / 255) makes them floats"
        )
    elif samples.size and int(samples.min()) < 0:
        yield f"expected samples of at least 0, got {samples.min()}: shift them, the model learns the rest"
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        yield f"expected labels as integers of shape (m,), got {labels.dtype} of shape {labels.shape}"
    elif samples.ndim < 2 or len(samples) != len(labels) or not len(labels):
        yield f"expected one label for each sample, got {labels.shape} for {samples.shape}"


def check_given(plan: object) -> None:
    """Raise TypeError unless this is a plan: not its class, not a model."""
    if not isinstance(plan, Training):
        got = expected.shown(plan)
        raise ArgumentTypeError(
            f"expected plan to be a TrainingPlan, got {got}: TrainingPlan(model=Net, lr=...) makes one"
        )


def check_authority(authority: object) -> None:
    """Raise TypeError unless keys can be asked for."""
    expected.having("authority", authority, ("public_key", "functional_keys"), _AUTHORITIES)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
