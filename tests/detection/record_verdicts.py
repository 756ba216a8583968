"""What every detector makes of the lab's attacks, on record: `python -m tests.detection.record_verdicts`.

``verdicts.npz`` beside it has a round for each attack that changes updates: the models that twelve clients sent, the
attackers last, and for each detector scores, threshold, suspects and audits. Whoever makes detection faster shows by it
that nobody is judged differently. Record anew only with a change that is meant to change verdicts, and say in its
message which and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyod.models.knn import KNN
from pyod.models.lof import LOF

from apps.lab.baselines import DnC, FoolsGold, Krum
from flwr_faa.detection import OCSVM, Detection, MultiView, Sequential, as_detector
from flwr_faa.replies.updates import Arrays, Batch, Reply, read_replies
from flwr_lomar import LoMarDetector

FILE = Path(__file__).with_name("verdicts.npz")
SEED = 7
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


def main() -> None:
    """Judge the rounds on record again, and write what the detectors make of them now.

    The rounds stay: an attack that knows a detector sends something else when that detector changes.
    """
    with np.load(FILE) as file:
        kept = {name: file[name] for name in file.files if name != "verdicts"}
    verdicts = {}
    for name, batch, before in recorded():
        verdicts[name] = {kind: found(detector.detect(batch, SEED)) for kind, detector in DETECTORS.items()}
        for kind, now in verdicts[name].items():
            if now["suspects"] != before[kind]["suspects"]:
                print(f"{name}, {kind}: suspects were {before[kind]['suspects']}, are {now['suspects']}")
    np.savez_compressed(FILE, **kept, verdicts=json.dumps(verdicts))


if __name__ == "__main__":
    main()
