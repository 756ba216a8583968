"""The client's promise about its local run: a Merkle root over all checkpoints, which wait on disk to be opened.

Checkpoints lie in ``<device>/checkpoints/<nonce>-<root>``, and behind them what every step changed (``trace.py``). The
nonce is drawn by the server for one round of one run,
and the root tells the nodes of one machine apart. Training for another round removes them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa import private
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.messages import Commitment
from flwr_faa.verification.spotcheck.state import StateLayout
from flwr_faa.verification.spotcheck.trace import Trace, trace_size
from flwr_faa.verification.training import Checkpoint, Data, Training
from flwr_faa.verification.wire import WireError


def train(
    plan: Training, arrays: Arrays, data: Data, nonce: int, folder: Path
) -> tuple[list[npt.NDArray[Any]], Commitment]:
    """Train as the plan says, keep every checkpoint in a folder, and commit to them.

    The first layer runs in integers, as the server will recompute it (``integer_layer.py``). Client and server agree
    on Z1 bit for bit, and no unit of a ReLU behind it can fall on the other side of zero: the one way in which an
    honest client could differ by more than rounding.
    """
    layout = StateLayout.of(plan)
    start = plan.start(arrays)
    leaves = [merkle.leaf(layout.encode(start))]
    private.folder(folder)
    for old in folder.iterdir():
        if not old.name.startswith(f"{nonce}-"):
            old.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{nonce}-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(layout.encode(start))

            def keep(checkpoint: Checkpoint) -> None:
                encoded = layout.encode(checkpoint)
                file.write(encoded)
                leaves.append(merkle.leaf(encoded))

            done = plan.train(arrays, data, nonce, integer_first_layer(data[0], plan.scale, plan.bits), keep)
            file.flush()
            root = merkle.Tree(leaves).root
            states = np.memmap(name, np.uint8, "r", shape=(len(leaves), layout.size))
            trace = Trace.of(layout, states, root)
            file.write(trace.to_bytes())
        os.replace(name, folder / f"{nonce}-{root.hex()}")
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return done, Commitment(root, trace.digest, trace.moves())


@dataclass(frozen=True)
class Run:
    """A committed run on disk."""

    nonce: int
    path: Path
    layout: StateLayout

    @classmethod
    def find(cls, plan: Training, folder: Path, root: bytes) -> Run:
        """The run with that root. Raises WireError if it is not there any more."""
        found = [path for path in folder.glob(f"*-{root.hex()}") if path.name.split("-")[0].isdigit()]
        if not found:
            raise WireError(f"expected the root of a run that is still kept, got {root.hex()[:16]}...")
        return cls(int(found[0].name.split("-")[0]), found[0], StateLayout.of(plan))

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Encoded checkpoints."""
        with self.path.open("rb") as file:
            encoded = []
            for index in indices:
                file.seek(index * self.layout.size)
                encoded.append(file.read(self.layout.size))
        return encoded

    def tree(self) -> merkle.Tree:
        """The Merkle tree over all of them."""
        return merkle.Tree([merkle.leaf(self.read([i])[0]) for i in range(self._count)])

    def trace(self) -> Trace:
        """What was committed to of every step."""
        with self.path.open("rb") as file:
            file.seek(self._count * self.layout.size)
            return Trace.from_bytes(self.layout, file.read())

    @property
    def _count(self) -> int:
        return self.path.stat().st_size // (self.layout.size + trace_size(self.layout))


def parameters_of(plan: Training) -> list[bool]:
    """Return for every array of the model whether it is trained; the others are buffers."""
    layout = StateLayout.of(plan)
    return [i not in layout.buffers + layout.fixed for i in range(layout.arrays)]
