"""How a device keeps a committed run: on its disk, or by training it again if it is challenged.

A card that writes 5 MB a second takes longer for a round's checkpoints than the round itself. Such a device may keep
the start alone, and repeat the round when it is asked about it. That needs a machine that trains to the same bits
twice. ``faa-device check --plan`` tries it, measures both, and writes down which is cheaper. Where nothing is written
down, or for another plan or torch, runs are kept on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flwr_faa import private
from flwr_faa.verification.settings import settings_of
from flwr_faa.verification.spotcheck import commitments
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.training import Data, Training

#: Steps that are trained twice, and checkpoints that are written, to measure.
_STEPS, _WRITTEN = 5, 3
#: A round that is trained again has its checkpoints in memory for as long as it lasts: at most this many bytes.
MEMORY = 2**28


@dataclass(frozen=True)
class Keeping:
    """What a device measured.

    Attributes
    ----------
    same : bool
        Whether it trains to the same bits twice.
    size : int
        Bytes of a round's checkpoints.
    write, train : float
        Seconds to write them to disk, and to train the round again.
    """

    same: bool
    size: int
    write: float
    train: float

    @property
    def again(self) -> bool:
        """Whether to train again. That is counted as if every round were challenged, so it is never the dearer way."""
        return self.same and self.size <= MEMORY and self.train < self.write

    def __str__(self) -> str:
        same = "bit for bit the same" if self.same else "NOT the same way twice"
        way = "by training again" if self.again else "on disk"
        return (
            f"checkpoints of a round: {self.size / 1e6:.3g} MB, written in {self.write:.2g} s; trained again in "
            f"{self.train:.2g} s, {same}: kept {way}"
        )


def measure(plan: Training, data: Data, device: Device) -> Keeping:
    """Try both ways on a device's own data, and write down which one it is."""
    samples, labels = (array[: _STEPS * plan.batch_size] for array in data)
    arrays, size = plan.initial_arrays(0), StateLayout.of(plan).size
    private.folder(device.folder)
    with tempfile.TemporaryDirectory(dir=device.folder) as name:
        # The first steps, twice.
        start = time.perf_counter()
        roots = [commitments.train(plan, arrays, (samples, labels), 1, Path(name), again=True)[1].root for _ in "ab"]
        step = (time.perf_counter() - start) / 2 / plan.steps(len(labels))
        # Some checkpoints, until they lie on the disk.
        content, start = np.random.default_rng(0).bytes(size), time.perf_counter()
        with (Path(name) / "written").open("wb") as file:
            for _ in range(_WRITTEN):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        checkpoint = (time.perf_counter() - start) / _WRITTEN
    count = plan.steps(len(data[1]))
    found = Keeping(roots[0] == roots[1], (count + 1) * size, (count + 1) * checkpoint, count * step)
    (device.folder / "keeping.json").write_text(json.dumps({"again": found.again, "where": _where(plan)}))
    return found


def trains_again(device: Device, plan: Training) -> bool:
    """Return whether it is written down that this device keeps runs of this plan by training them again."""
    try:
        stored = json.loads((device.folder / "keeping.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(stored == {"again": True, "where": _where(plan)})


def _where(plan: Training) -> str:
    """Return a hash of what a decision depends on: the plan, torch and the processor."""
    import torch

    said = json.dumps([settings_of(plan), torch.__version__, torch.__config__.show(), os.uname().machine])
    return hashlib.sha256(said.encode()).hexdigest()
