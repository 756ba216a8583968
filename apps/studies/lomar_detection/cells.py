"""The cells of LoMar's table: real updates of honest clients, an attack on some of them, and how LoMar scores them.

Honest updates come from rounds of a federation that nobody attacks, so that one trajectory serves all attacks of a
seed: what is measured is who is told from whom in a round, not what a defence does to training
(``docs/explanation/lomar.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score, roc_curve

from apps.lab.attacks import Attack, Scene
from apps.lab.attacks.base import like
from apps.lab.config import load
from apps.lab.papers.experiments import meaning
from apps.lab.partitions.split import choose_malicious
from apps.lab.recording.metrics import GRID
from apps.lab.scenario import Scenario
from apps.studies.command import attack_of
from flwr_faa.replies.updates import Arrays, Layout
from flwr_faa.verification.training import Data
from flwr_lomar import LoMarDetector

#: Names of conf/experiment/axes.yaml.
FLIPS = ("pure", "mixed", "tau .4", "boosted", "stealthy")
ALIES = ("ALIE z=.3", "ALIE z_max", "ALIE z=1.5")
COPIES = ("clones", "jittered clones", "jittered ALIE")
ATTACKS = (*FLIPS, "Gaussian", "sign flip", "sign flip of the update", *ALIES, *COPIES, "backbone noise")
PARTITIONS = ("lambda 0", "lambda .5", "two labels")
MODELS, CLIENTS, SHARES = ("logistic", "mlp", "cnn"), (20, 100), (0.05, 0.1, 0.2, 0.4)
#: Seeds look at rounds 1 to this, in turns; a round of 100 CNNs takes seconds to train.
LAST = 3


@dataclass(frozen=True)
class Group:
    """What cells share: their honest updates.

    A client holds 200 samples; a hundred clients overlap, as in the paper (1,000 x 600 of 60,000). Two-label shards do
    not overlap, and the CNN's hundred clients hold 40 samples each, for the time that it would take.
    """

    model: str
    clients: int
    partition: str
    seed: int

    def scenario(self) -> Scenario:
        """Return the federation, without its attack."""
        overrides = str(meaning("partition", self.partition))
        if self.partition != "two labels" and self.model != "cnn":
            overrides += " partition.size=200"
        return load(f"dataset=mnist5k model={self.model} clients={self.clients} {overrides} seed={self.seed}")

    def cells(self) -> list[Cell]:
        """Return all attacks at all shares; the logistic regression has no backbone."""
        names = [name for name in ATTACKS if self.model != "logistic" or name != "backbone noise"]
        return [Cell(self, "none", 0.0), *(Cell(self, name, share) for name, share in product(names, SHARES))]


@dataclass(frozen=True)
class Cell:
    """One attack on a group, by a share of its clients."""

    group: Group
    attack: str
    share: float


def run_cell(cell: Cell) -> dict[str, Any]:
    """Return the figures of a cell, ready for JSON."""
    group, one, honest = cell.group, *_last_round(cell.group)
    scenario, share = one.scenario, cell.share
    labels = scenario.dataset.train[1]
    malicious = sorted(choose_malicious(scenario.partitions, labels, share, group.seed)) if share else []
    attack = replace(attack_of(cell.attack), share=share)
    figures = measure(one, honest, attack, malicious)
    return {**asdict(group), "attack": cell.attack, "share": share, "round": one.number, **figures}


@lru_cache(maxsize=1)
def _last_round(group: Group) -> tuple[Round, npt.NDArray[np.float32]]:
    """Train the honest clients of a group once for all of its cells, which follow one another."""
    *_, last = rounds(group.scenario(), 1 + group.seed % LAST)
    return last


def key_of(row: Any) -> tuple[Any, ...]:
    """Return the key of a cell, or of a line that came of it."""
    plain = {**asdict(row.group), "attack": row.attack, "share": row.share} if isinstance(row, Cell) else row
    return (*(plain[f.name] for f in fields(Group)), plain["attack"], plain["share"])


def measure(one: Round, honest: npt.NDArray[np.float32], attack: Attack, malicious: list[int]) -> dict[str, Any]:
    """Score one attacked round with both presets.

    Returns
    -------
    dict
        By preset: ``auc``, ``tpr``, ``fpr`` at its threshold; for ``robust`` also ``roc``, TPRs at `GRID`. An attacker
        whose update is its honest one (nothing to flip, ALIE or sybils alone) is none, and counted nowhere; None where
        nothing is left to count.
    """
    updates = one.attacked(honest, attack, malicious)
    odd = (updates != honest).any(axis=1)
    clean = np.ones(len(updates), bool)
    clean[malicious] = False
    blocks = Layout.of(one.model).label_blocks
    figures: dict[str, Any] = {"attackers": int(odd.sum())}
    counted = odd | clean
    for preset in ("robust", "paper"):
        detector = LoMarDetector(preset, label_blocks=blocks).fit(updates)
        scores, flagged = detector.decision_scores_, detector.labels_ == 1
        found: dict[str, Any] = {
            "auc": float(roc_auc_score(odd[counted], scores[counted])) if odd.any() else None,
            "tpr": float(flagged[odd].mean()) if odd.any() else None,
            "fpr": float(flagged[clean].mean()),
        }
        if preset == "robust" and odd.any():
            fpr, tpr, _ = roc_curve(odd[counted], scores[counted], drop_intermediate=False)
            found["roc"] = [round(float(tpr[fpr <= limit].max()), 4) for limit in GRID]
        figures[preset] = found
    return figures


@dataclass(eq=False)
class Round:
    """A round of a federation that nobody attacks.

    Parameters
    ----------
    scenario : Scenario
    number : int
    model : sequence of ndarray
        The global model that the clients got.
    """

    scenario: Scenario
    number: int
    model: Arrays
    _trained: dict[bytes, Arrays] = field(default_factory=dict, repr=False)

    def train(self, data: Data) -> Arrays:
        """Train on some data and return the arrays; the same data are trained on once."""
        key = hashlib.blake2b(data[0].tobytes() + data[1].tobytes()).digest()
        if key not in self._trained:
            self._trained[key] = self.scenario.plan.train(self.model, data, self.nonce)
        return self._trained[key]

    @property
    def nonce(self) -> int:
        """The nonce of the batch order, the same for all clients, as in the strategies."""
        return 1000 * int(self.scenario.config.seed) + self.number

    def flat(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """Return the update that leads to some arrays."""
        return np.asarray(Layout.of(self.model).flat([a - w for a, w in zip(arrays, self.model, strict=True)]))

    def own(self, client: int) -> Data:
        """Return the samples and labels of a client's partition."""
        samples, labels = self.scenario.dataset.train
        rows = self.scenario.partitions[client]
        return samples[rows], labels[rows]

    def honest(self) -> npt.NDArray[np.float32]:
        """Return the updates of all clients, shape (n, d)."""
        return np.stack([self.flat(self.train(self.own(i))) for i in range(self.scenario.config.clients)])

    def attacked(
        self, honest: npt.NDArray[np.float32], attack: Attack, malicious: list[int]
    ) -> npt.NDArray[np.float32]:
        """Return the same round when some of the clients attack."""
        pool, seed = self.scenario.dataset.train, self.scenario.config.seed
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
                plan=self.scenario.plan,
                data=d,
                pool=pool,
            )
            updates[i] = self.flat(attack.craft(scene))
        return updates


def rounds(scenario: Scenario, last: int) -> Iterator[tuple[Round, npt.NDArray[np.float32]]]:
    """Yield rounds 1 to `last` of a federation that nobody attacks, each with the honest updates of all clients."""
    model: Arrays = scenario.plan.initial_arrays(scenario.config.seed)
    for number in range(1, last + 1):
        one = Round(scenario, number, model)
        updates = one.honest()
        yield one, updates
        mean = updates.mean(axis=0, dtype=np.float64)
        layers = Layout.of(model).layers
        model = [like(w + mean[part].reshape(w.shape), w) for w, part in zip(model, layers, strict=True)]
