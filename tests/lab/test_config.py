"""Every choice of every group composes and can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate

from apps.lab.config import GROUPS, load
from apps.lab.scenario import CONF
from flwr_faa.detection import as_detector

#: Debian's file (tests/lab/test_datasets.py), and an authority to connect to (tests/field).
WANTING = {("dataset", "shuttle"), ("verification", "spotcheck_remote")}
FOUND = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
CHOICES = [choice for choice in FOUND if choice not in WANTING]
#: What else a choice wants: SqueezeNet takes no 8 x 8 pixels; the small file of Amazon has fewer columns.
ALSO = {"squeezenet": "dataset=orl", "amazon": "dataset.shape=[40]"}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_can_be_built(group: str, choice: str, faa_data: Path) -> None:
    scenario = load(f"{group}={choice} {ALSO.get(choice, '')}")
    parts = instantiate(scenario.config.strategy, _convert_="all")
    assert {"detector", "verifier", "policy"} <= set(parts) <= {"detector", "verifier", "policy", "rule", "holdout"}
    as_detector(parts["detector"])
    arrays = scenario.plan.initial_arrays(1)
    outputs = scenario.plan.predict(arrays, scenario.dataset.test[0][:3])
    assert scenario.dataset.train[0].shape[1:] == tuple(scenario.config.dataset.shape)
    assert outputs.shape == (3, scenario.config.dataset.classes)
    assert scenario.dataset.train[1].max() < scenario.config.dataset.classes
    assert len(scenario.malicious) == round(scenario.attack.share * 20)


def test_the_overrides_that_others_type() -> None:
    scenario = load(
        "dataset=mnist5k partition=shards model=cnn attack=alie attack.share=0.3 attack.z=1.5 strategy=faa "
        "detector=ocsvm verification=none seed=7 rounds=3 run.dir=/tmp/x api=message clients=30 fraction=0.5"
    )
    assert scenario.attack.z == 1.5
    assert len(scenario.malicious) == 9
    assert str(scenario.folder) == "/tmp/x"
    assert scenario.config.fraction == 0.5


def test_the_folder_is_absolute_and_named_after_what_was_chosen() -> None:
    scenario = load("attack=alie attack.z=1.5 seed=3")
    assert scenario.folder.is_absolute()
    assert scenario.folder.name == "digits-iid-mlp-alie-faa-sequential-replay-seed3-attack.z=1.5"
    assert load("strategy=fedavg").folder.name == "digits-iid-mlp-none-fedavg-seed1"


def test_a_cnn_on_mnist_is_the_papers() -> None:
    arrays = load("dataset=mnist5k model=cnn").plan.initial_arrays(0)
    assert sum(a.size for a in arrays) == 383_306
