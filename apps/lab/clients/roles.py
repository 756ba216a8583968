"""The clients: honest ones, and malicious ones built around them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from flwr.client import NumPyClient

from apps.lab.attacks.base import Attack, Conduct, Scene
from flwr_faa import TrainingPlan, VerifiableClient
from flwr_faa.client import CHALLENGE, NONCE
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.messages import ENCRYPT, ENROL
from flwr_faa.verification.training import Data
from flwr_faa.verification.wire import kind_of

Fit = tuple[list[npt.NDArray[Any]], int, dict[str, Any]]


class Team(Protocol):
    """What an attacker knows of the federation: the lab's scenario."""

    @property
    def attack(self) -> Attack: ...
    @property
    def plan(self) -> TrainingPlan: ...
    @property
    def dataset(self) -> Any: ...
    @property
    def config(self) -> Any: ...
    @property
    def folder(self) -> Path: ...
    @property
    def malicious(self) -> frozenset[int]: ...
    def train_malicious(self, model: Arrays, nonce: int) -> list[Arrays]:
        """Return what each attacker would send if it were honest."""
        ...

    def client(self, partition: int) -> NumPyClient:
        """Return the client that holds a partition."""
        ...


class Honest(VerifiableClient):
    """A ``VerifiableClient`` that says which partition it holds. ``public``: its data may be shown in the clear."""

    device: Device

    def __init__(self, plan: TrainingPlan, data: Data, partition: int, device: Device, public: bool) -> None:
        super().__init__(plan, data, plaintext=public, device=device, answers=("paper", "encrypted") if public else ())
        self.partition = partition

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        arrays, examples, metrics = super().fit(list(parameters), config)
        return arrays, examples, metrics | {"partition": self.partition}


@dataclass
class Malicious(NumPyClient):
    """An honest client in the hands of an attacker."""

    honest: Honest
    scenario: Team

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> Fit:
        """Send what the attack makes of an honest result."""
        arrays, examples, metrics = self.honest.fit(list(parameters), config)
        nonce, scenario = int(config.get(NONCE, 0)), self.scenario
        scene = Scene(
            model=parameters,
            honest=arrays,
            train_fellows=lambda: scenario.train_malicious(parameters, nonce),
            clients=round(scenario.config.fraction * scenario.config.clients),
            rng=np.random.default_rng([nonce, self.honest.partition]),
            plan=scenario.plan,
            data=self.honest.data,
            pool=scenario.dataset.train,
        )
        return scenario.attack.craft(scene), examples, metrics

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Enrol like anybody else, and answer a verification as the attack says."""
        answer = self.scenario.attack.answer
        if CHALLENGE in config and kind_of(config[CHALLENGE]) in (ENROL, ENCRYPT):
            return self.honest.get_properties(config)
        if answer == Conduct.REFUSE:
            raise RuntimeError("no comment")
        if answer == Conduct.OTHER_DATA:
            plan, (samples, labels), device = self.honest.plan, self.honest.data, self.honest.device
            other = VerifiableClient(plan, (samples, labels[::-1].copy()), plaintext=True, device=device)
            return other.get_properties(config)
        return self.honest.get_properties(config)
