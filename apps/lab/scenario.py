"""One scenario: what its configuration stands for, built once a process and shared by server and clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.client import NumPyClient
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from apps.lab.attacks.base import Attack
from apps.lab.check import ConfigError
from apps.lab.clients.roles import Honest, Malicious
from apps.lab.datasets import Dataset, HeldOut
from apps.lab.partitions.slice import Slice
from apps.lab.partitions.split import Rows, choose_malicious
from flwr_faa import TrainingPlan
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.training import Data

T = TypeVar("T")
CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(frozen=True, eq=False)
class Scenario:
    """A configuration and what it stands for.

    Parameters
    ----------
    config : DictConfig
        As in ``conf/config.yaml``.
    choices : mapping of str to str
        What was chosen in each group.
    name : str
        Of the run's folder, unless the configuration names one.
    """

    config: DictConfig
    choices: Mapping[str, str]
    name: str
    _trained: dict[tuple[int, bytes], list[Arrays]] = field(default_factory=dict, repr=False)

    def ready(self) -> dict[str, Any]:
        """Build everything that a wrong setting can make fail; the parts of the strategy, new ones each time.

        Raises
        ------
        ConfigError
        """
        (_, labels), clients = _tried("dataset", lambda: self.dataset).train, self.config.clients
        if clients > len(labels):
            raise ConfigError(f"expected at most {len(labels)} clients, one for each sample, got {clients}")
        for source, target in _tried("attack", lambda: tuple(self.attack.flips)):
            for name, label in (("source", source), ("target", target)):
                if label not in labels:
                    raise ConfigError(f"expected the {name} of a label flip to be a label of the data, got {label}")
        _tried("partition", lambda: self.partitions)
        _tried("model", lambda: self.plan.initial_arrays(self.config.seed))
        parts: dict[str, Any] = _tried("strategy", lambda: _build(self.config.strategy))
        return parts

    @cached_property
    def dataset(self) -> Dataset:
        """Without the samples that the server holds: as many as are set, or as its rule or an attacker uses."""
        held: HeldOut = _build(self.config.heldout)
        parts = (OmegaConf.to_yaml(part) for part in (self.config.strategy, self.config.attack))
        used = held.samples is not None or any("${heldout}" in part for part in parts)
        return held.rest if used else held.dataset

    @cached_property
    def partitions(self) -> list[Rows]:
        """Rows of each client."""
        return self.cut(self.dataset.train[1], self.config.clients, self.config.seed)

    @cached_property
    def cut(self) -> Callable[[npt.NDArray[Any], int, int], list[Rows]]:
        """Function of labels, clients and seed that returns the rows of each client."""
        cut: Callable[[npt.NDArray[Any], int, int], list[Rows]] = _build(self.config.partition)
        return cut

    @cached_property
    def plan(self) -> TrainingPlan:
        plan: TrainingPlan = _build(self.config.model)
        return plan

    @cached_property
    def attack(self) -> Attack:
        attack: Attack = _build(self.config.attack)
        return attack

    @cached_property
    def malicious(self) -> frozenset[int]:
        """Partitions of the attackers."""
        return choose_malicious(self.partitions, self.dataset.train[1], self.attack.share, self.config.seed)

    @property
    def folder(self) -> Path:
        """Where the run leaves its files; absolute."""
        return (Path(self.config.run.dir) if self.config.run.dir else Path("runs") / self.name).absolute()

    @property
    def devices(self) -> Path:
        """The folder where clients keep what they are bound to, each in a folder of its own."""
        return self.folder / "devices"

    def device_of(self, partition: int) -> Device:
        """Return a client's device, with the budget that the authority has too."""
        return Device(self.devices / str(partition), self.config.verification.get("budget", 1.0))

    def data_of(self, partition: int) -> Data:
        """Return the samples and labels that a client holds; an attacker may have poisoned its own."""
        samples, labels = self.dataset.train
        rows = self.partitions[partition]
        own = samples[rows], labels[rows]
        if partition not in self.malicious:
            return own
        rng = np.random.default_rng([self.config.seed, 2, partition])
        return self.attack.poison(own, self.dataset.train, sorted(self.malicious).index(partition), rng)

    def client(self, partition: int) -> NumPyClient:
        """Return the client that holds a partition."""
        honest = self.honest(partition)
        return self.corrupt(honest) if partition in self.malicious else honest

    def node(self, config: Mapping[str, Any]) -> NumPyClient:
        """Return the client that a SuperNode's ``--node-config`` describes, with its own slice or part of the data."""
        if "data" not in config:
            return self.client(int(config["partition-id"]))
        found = Slice.read(Path(config["data"]), tuple(self.config.dataset.shape))
        pinned = bytes.fromhex(config["authority"]) or None
        device = Device(Path(config["device"]), float(config["budget"]), pinned)
        honest = Honest(self.plan, found.data, found.partition, device, public=False)
        return self.with_choices(attack=config["attack"]).corrupt(honest) if "attack" in config else honest

    def corrupt(self, honest: Honest) -> NumPyClient:
        """Return that client in the hands of an attacker."""
        return (self.attack.client or Malicious)(honest, self)

    def honest(self, partition: int) -> Honest:
        """Return the client that holds a partition, if nobody attacked."""
        return Honest(self.plan, self.data_of(partition), partition, self.device_of(partition), public=True)

    def train_malicious(self, model: Arrays, nonce: int) -> list[Arrays]:
        """Return what each attacker would send if it were honest; trained once a round, kept until the next."""
        return self._once(
            model, nonce, lambda: [self.plan.train(model, self.data_of(i), nonce) for i in sorted(self.malicious)]
        )

    def predict(self, arrays: Arrays) -> npt.NDArray[np.floating[Any]]:
        """Return a global model's outputs for the test samples, one column per label, before softmax."""
        return self.plan.predict(arrays, self.dataset.test[0])

    def with_choices(self, **choices: str) -> Scenario:
        """Return the scenario with other choices in some groups, e.g. ``strategy="fedavg"``, and as many attackers."""
        config = self.config.copy()
        for group, choice in choices.items():
            config[group] = OmegaConf.load(CONF / group / f"{choice}.yaml")
        config.attack.share = self.config.attack.share
        return Scenario(config, {**self.choices, **choices}, "-".join([self.name, *choices.values()]))

    def _once(self, model: Arrays, nonce: int, train: Callable[[], list[Arrays]]) -> list[Arrays]:
        key = nonce, b"".join(np.ascontiguousarray(a).tobytes() for a in model)
        if key not in self._trained:
            self._trained.clear()
            self._trained[key] = train()
        return self._trained[key]


def _build(config: DictConfig) -> Any:
    return instantiate(config, _convert_="all")


def _tried(part: str, build: Callable[[], T]) -> T:
    """Return what a part of a configuration builds, or one line that says why it does not."""
    try:
        return build()
    except (HydraException, ValueError, TypeError) as error:
        why = str(error.__cause__ or error).strip().split("\n")[0]
        raise ConfigError(f"expected a working {part}, got {why}") from error
