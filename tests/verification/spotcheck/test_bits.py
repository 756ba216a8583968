"""Eight fractional bits in the first layer are enough: models trained on its integers are as accurate."""

from functools import partial
from typing import Any

import pytest

from apps.lab import models
from apps.lab.datasets import digits, mnist5k
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.plan import TrainingPlan

DATASETS: dict[str, Any] = {"digits": (digits, (1, 8, 8), 16), "mnist5k": (mnist5k, (1, 28, 28), 255)}
MODELS = {"logistic": {"lr": 0.3}, "mlp": {"lr": 0.1, "momentum": 0.9}}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_accuracy_does_not_suffer(dataset: str, model: str) -> None:
    load, shape, top = DATASETS[dataset]
    data = load()
    plan = TrainingPlan(partial(getattr(models, model), shape, 10), scale=1 / top, epochs=4, **MODELS[model])
    start, accuracy = plan.initial_arrays(1), {}
    for name, layer in (("floats", None), ("integers", integer_first_layer(data.train[0], plan.scale, plan.bits))):
        trained = plan.train(start, data.train, 7, layer)
        accuracy[name] = float((plan.predict(trained, data.test[0]).argmax(1) == data.test[1]).mean())
    assert accuracy["integers"] > accuracy["floats"] - 0.006 and accuracy["floats"] > 0.85, accuracy
