"""What every detector made of every attack of the lab, on record: `python -m tests.detection.record_verdicts`.

Writes ``verdicts.npz`` beside itself: for each file of ``conf/attack`` that changes updates, the models that twelve
clients sent in one round, and for each detector scores, threshold, suspects and audits. Whoever makes detection faster
shows by it that nobody is judged differently. Record anew only with a change that is meant to change verdicts, and say
in its message which and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pyod.models.knn import KNN
from pyod.models.lof import LOF
from sklearn.datasets import load_digits
from torch import nn

from apps.lab.attacks.base import Attack, Scene
from apps.lab.baselines import DnC, FoolsGold, Krum
from flwr_faa.detection import OCSVM, Detection, MultiView, Sequential, as_detector
from flwr_faa.replies.updates import Arrays, Batch, Reply, read_replies
from flwr_faa.verification.plan import TrainingPlan
from flwr_faa.verification.training import Data
from flwr_lomar import LoMarDetector

FILE = Path(__file__).with_name("verdicts.npz")
CLIENTS, SEED = 12, 7
DETECTORS = {
    "MultiView": MultiView(),
    "MultiView 5": MultiView(threshold=5.0),
    "Sequential": Sequential(),
    "OCSVM": OCSVM(),
    "LoMar robust": as_detector(LoMarDetector()),
    "LoMar paper": as_detector(LoMarDetector("paper")),
    "KNN": as_detector(KNN(n_neighbors=3)),
    "LOF": as_detector(LOF(n_neighbors=4)),
    "Krum": Krum(0.4),
    "MultiKrum": Krum(0.4, keep=None),
    "DnC": DnC(0.4),
    "FoolsGold": FoolsGold(),
}


class Tiny(nn.Module):
    """A classifier behind a hidden layer, for digits of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 6), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


PLAN = TrainingPlan(model=Tiny, lr=0.1, batch_size=20, scale=1 / 16)


def batch_of(models: list[Arrays], model: Arrays) -> Batch:
    """The round in which these models were sent."""
    return read_replies([Reply(100 + i, arrays, 100) for i, arrays in enumerate(models)], model)


def found(detection: Detection) -> dict[str, Any]:
    """What there is to compare."""
    return {
        "scores": detection.scores.tolist(),
        "threshold": detection.threshold,
        "suspects": list(detection.suspects),
        "audits": len(detection.audits),
    }


def recorded() -> Iterator[tuple[str, Batch, dict[str, Any]]]:
    """Each attack, its batch, and what each detector made of it when it was recorded."""
    with np.load(FILE) as file:
        shapes = json.loads(str(file["shapes"]))
        ends = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

        def arrays(flat: Any) -> Arrays:
            return [part.reshape(s) for part, s in zip(np.split(flat, ends), shapes, strict=True)]

        model, verdicts = arrays(file["model"]), json.loads(str(file["verdicts"]))
        for name, by_detector in verdicts.items():
            yield name, batch_of([arrays(flat) for flat in file[name]], model), by_detector


def _digits() -> Data:
    x, y = load_digits(return_X_y=True)
    return x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16).astype(np.float32), y.astype(np.int64)


def _round(attack: Attack, model: Arrays) -> list[Arrays]:
    """What the clients send; the attackers are the last, if they send anything."""
    pool = _digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(pool[1]))[: 100 * CLIENTS].reshape(CLIENTS, 100)
    attackers = range(CLIENTS - round(attack.share * CLIENTS), CLIENTS)
    data = [(pool[0][rows], pool[1][rows]) for rows in order]
    for number, client in enumerate(attackers):
        data[client] = attack.poison(data[client], pool, number, np.random.default_rng([SEED, client]))
    trained: list[Arrays] = [PLAN.train(model, own, client) for client, own in enumerate(data)]
    sent = trained[: attackers.start]
    for client in attackers:
        scene = Scene(
            model,
            trained[client],
            lambda: trained[attackers.start :],
            CLIENTS,
            np.random.default_rng([SEED, client]),
            PLAN,
            data[client],
            pool,
        )
        try:
            sent.append(attack.craft(scene))
        except RuntimeError:  # absent
            continue
    return sent


def main() -> None:
    """Write the file."""
    model: Arrays = [np.asarray(a) for a in PLAN.initial_arrays(SEED)]
    arrays: dict[str, Any] = {}
    verdicts: dict[str, Any] = {}
    for path in sorted(Path("conf/attack").glob("*.yaml")):
        attack: Attack = instantiate(OmegaConf.load(path))
        if attack.client is not None:  # its evidence is false, not its update
            continue
        sent = _round(attack, model)
        batch = batch_of(sent, model)
        arrays[path.stem] = np.stack([np.concatenate([a.ravel() for a in m]) for m in sent])
        verdicts[path.stem] = {name: found(detector.detect(batch, SEED)) for name, detector in DETECTORS.items()}
        print(f"{path.stem:18s}", {name: v["suspects"] for name, v in verdicts[path.stem].items()})
    flat = np.concatenate([w.ravel() for w in model])
    shapes = json.dumps([w.shape for w in model])
    np.savez_compressed(FILE, model=flat, shapes=shapes, verdicts=json.dumps(verdicts), **arrays)


if __name__ == "__main__":
    main()
