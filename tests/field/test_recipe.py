"""The recipe of docs/how-to/field.md, everybody honest: all are aboard in every round of a federation's life."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from torch import nn

from apps.lab.config import load
from apps.lab.scenario import Scenario
from flwr_faa import SpotCheck, TrainingPlan
from flwr_faa.authority import BUDGET, LocalAuthority
from flwr_faa.verification.spotcheck.enrolment import Device
from flwr_faa.verification.training import Data
from tests.helpers import federation

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "field.md").read_text().replace("\\\n", " ")
#: Encrypting the recipe's own data takes minutes. Almost all that a check tells of a sample is its share of a gradient,
#: units / batch floats a dimension: so units, batch and samples are divided alike.
SMALLER = 10
NODES, ROUNDS = 4, 30


def printed(command: str) -> str:
    """What the page has behind a command, on the line with ``dataset=``."""
    (found,) = re.findall(rf"^ *python -m {re.escape(command)} ([^\n]*dataset=[^\n]*)$", PAGE, re.M)
    return str(found)


def recipe() -> tuple[Scenario, int]:
    """The run's configuration, and how many samples a node has."""
    words = [w for w in printed("apps.field.run run1").split() if "=" in w and not w.startswith("-")]
    (samples,) = re.findall(r"--samples (\d+)", printed("apps.lab.slice slices"))
    return load(" ".join([*words, "verification=spotcheck_remote", "verification.url=x", "verification.key=x"])), int(
        samples
    )


def smaller(scenario: Scenario, samples: int) -> tuple[TrainingPlan, Callable[[int], Data]]:
    """The stand-in's plan, and the data of its nodes."""
    (images, labels), size = scenario.dataset.train, samples // SMALLER
    order = np.random.default_rng(0).permutation(len(labels))
    (first,) = (m for m in scenario.plan.blank().modules() if isinstance(m, nn.Linear))

    def data(partition: int) -> Data:
        mine = order[partition * size : (partition + 1) * size]
        return images[mine], labels[mine]

    def model() -> nn.Module:
        units = first.out_features // SMALLER
        return nn.Sequential(nn.Flatten(), nn.Linear(first.in_features, units), nn.Linear(units, first.out_features))

    return replace(scenario.plan, model=model, batch_size=scenario.plan.batch_size // SMALLER), data


def test_everybody_is_aboard_for_thirty_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, samples = recipe()
    plan, data = smaller(scenario, samples)
    full, verifier = (
        SpotCheck(
            of, tuple(scenario.config.verification.shape), LocalAuthority(budget=BUDGET),
            scenario.config.verification.steps, max_value=round(1 / of.scale),
        )
        for of in (scenario.plan, plan)
    )  # fmt: skip
    told = [re.search(r"the budget of \d+ allows (\d+)", check.notes[0]) for check in (full, verifier)]
    assert told[0] and told[1] and told[0][1] == told[1][1]  # as many checks in a life as the recipe's nodes stand
    parts = {k: instantiate(scenario.config.strategy[k], _convert_="all") for k in ("detector", "policy")}
    monkeypatch.setattr(federation, "slice_of", data)
    monkeypatch.setattr(federation, "seen_by", lambda plan, own: own)
    run = federation.run_message(
        plan, nodes=NODES, rounds=ROUNDS, verifier=verifier, seed=int(scenario.config.seed), fraction_evaluate=0.0,
        device=Device(tmp_path, BUDGET, progress=lambda done, total: None), **parts,
    )  # fmt: skip
    assert [len(r.accepted) for r in run.reports] == [NODES] * ROUNDS
    outcomes = {str(v.verdict) for r in run.reports for v in r.nodes}
    assert outcomes == {"trusted", "cleared"}
    known = run.reports[-1].disclosures
    assert len(known) == NODES and all(0 < d.max_rank <= d.budget for d in known)
