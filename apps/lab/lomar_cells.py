"""The cells of LoMar's table: real updates of honest clients, an attack on some of them, and how LoMar scores them.

Honest updates come from rounds of a federation that nobody attacks, so that one trajectory serves all attacks of a
seed: what is measured is who is told from whom in a round, not what a defence does to training (``docs/lomar.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apps.lab.attacks import Alie, Attack, Gaussian, Scene, SignFlip, SignFlipUpdate, like
from apps.lab.config import load
from apps.lab.experiment import Experiment
from apps.lab.poisoning import Boosted, Clones, LabelFlip, Stealthy
from flwr_faa.updates import Arrays, Layout
from flwr_faa.verification.plan import Data


@dataclass(frozen=True)
class BackboneNoise(Gaussian):
    """Gaussian noise on everything but the classifier, the last two arrays."""

    def craft(self, scene: Scene) -> list[npt.NDArray[np.floating]]:
        return [*super().craft(scene)[:-2], *scene.honest[-2:]]


#: Attacks by name, without their share.
ATTACKS: dict[str, Attack] = {
    "pure": LabelFlip(),
    "mixed": LabelFlip(tau=None),
    "tau .4": LabelFlip(tau=0.4),
    "boosted": Boosted(),
    "stealthy": Stealthy(),
    "Gaussian": Gaussian(),
    "sign flip": SignFlip(),
    "sign flip of the update": SignFlipUpdate(),
    "ALIE z=.3": Alie(z=0.3),
    "ALIE z_max": Alie(),
    "ALIE z=1.5": Alie(z=1.5),
    "clones": Clones(),
    "jittered clones": Clones(jitter=1.0),
    "jittered ALIE": Alie(jitter=True),
    "backbone noise": BackboneNoise(),
}
MODELS, CLIENTS, SHARES = ("logistic", "mlp", "cnn"), (20, 100), (0.05, 0.1, 0.2, 0.4)
#: Partition by name, to overrides.
PARTITIONS = {
    "lambda 0": "partition=lambda partition.share=0",
    "lambda .5": "partition=lambda partition.share=0.5",
    "two labels": "partition=shards",
}


@dataclass(frozen=True)
class Group:
    """What cells share: their honest updates."""

    model: str
    clients: int
    partition: str
    seed: int

    def experiment(self) -> Experiment:
        return load(
            f"dataset=mnist5k model={self.model} clients={self.clients} {PARTITIONS[self.partition]} seed={self.seed}"
        )


@dataclass(eq=False)
class Round:
    """A round of a federation that nobody attacks.

    Parameters
    ----------
    experiment : Experiment
    number : int
    model : sequence of ndarray
        The global model that the clients got.
    """

    experiment: Experiment
    number: int
    model: Arrays
    _trained: dict[bytes, Arrays] = field(default_factory=dict, repr=False)

    def train(self, data: Data) -> Arrays:
        """What comes of training on some data; the same data are trained on once."""
        key = hashlib.blake2b(data[0].tobytes() + data[1].tobytes()).digest()
        if key not in self._trained:
            self._trained[key] = self.experiment.plan.train(self.model, data, self.nonce)
        return self._trained[key]

    @property
    def nonce(self) -> int:
        return 1000 * self.experiment.config.seed + self.number

    def flat(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """The update that leads to some arrays."""
        return np.concatenate([(a - w).ravel() for a, w in zip(arrays, self.model, strict=True)])

    def own(self, client: int) -> Data:
        samples, labels = self.experiment.dataset.train
        rows = self.experiment.partitions[client]
        return samples[rows], labels[rows]

    def honest(self) -> npt.NDArray[np.float32]:
        """Updates of all clients, shape (n, d)."""
        return np.stack([self.flat(self.train(self.own(i))) for i in range(self.experiment.config.clients)])

    def attacked(
        self, honest: npt.NDArray[np.float32], attack: Attack, malicious: list[int]
    ) -> npt.NDArray[np.float32]:
        """The same round when some of the clients attack."""
        pool, seed = self.experiment.dataset.train, self.experiment.config.seed
        data = [
            attack.poison(self.own(i), pool, k, np.random.default_rng([seed, 2, i])) for k, i in enumerate(malicious)
        ]
        updates = honest.copy()
        fellows = [self.train(d) for d in data]
        for i, d, own in zip(malicious, data, fellows, strict=True):
            scene = Scene(
                model=self.model,
                honest=own,
                train_fellows=lambda: list(fellows),
                clients=len(honest),
                rng=np.random.default_rng([self.nonce, i]),
                plan=self.experiment.plan,
                data=d,
                pool=pool,
            )
            updates[i] = self.flat(attack.craft(scene))
        return updates


def rounds(experiment: Experiment, last: int) -> Iterator[tuple[Round, npt.NDArray[np.float32]]]:
    """Rounds 1 to `last` of a federation that nobody attacks, averaged over clients, with their honest updates."""
    model: Arrays = experiment.plan.initial_arrays(experiment.config.seed)
    for number in range(1, last + 1):
        one = Round(experiment, number, model)
        updates = one.honest()
        yield one, updates
        mean = updates.mean(axis=0, dtype=np.float64)
        layers = Layout.of(model).layers
        model = [like(w + mean[part].reshape(w.shape), w) for w, part in zip(model, layers, strict=True)]
