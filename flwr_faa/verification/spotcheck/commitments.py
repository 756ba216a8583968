"""The client's promise about its local run: a Merkle root over all checkpoints, which wait on disk to be opened.

Checkpoints lie in ``<device>/checkpoints/<nonce>-<root>``. Behind them are their hashes, and what every step
changed (``trace.py``). The nonce is drawn by the server for one round of one run, and the root tells the nodes
of one machine apart. Training for another round removes them.
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

#: Ends the name of a run whose start alone is kept.
_AGAIN = ".again"


def train(
    plan: Training, arrays: Arrays, data: Data, nonce: int, folder: Path, again: bool = False
) -> tuple[list[npt.NDArray[Any]], Commitment]:
    """Train as the plan says, keep every checkpoint in a folder, and commit to them.

    With ``again`` only the first is kept: the others are in memory while the round lasts, and :meth:`Run.whole` trains
    it again (``verification/keeping.py`` says where that is cheaper).

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
            memory = bytearray(layout.encode(start) if again else b"")

            def keep(checkpoint: Checkpoint) -> None:
                encoded = layout.encode(checkpoint)
                if again:
                    memory.extend(encoded)
                else:
                    file.write(encoded)
                leaves.append(merkle.leaf(encoded))

            done = plan.train(arrays, data, nonce, integer_first_layer(data[0], plan.scale, plan.bits), keep)
            file.flush()
            root = merkle.Tree(leaves).root
            shape = len(leaves), layout.size
            kept = np.frombuffer(memory, np.uint8).reshape(shape) if again else np.memmap(name, np.uint8, "r", 0, shape)
            trace = Trace.of(layout, kept, root)
            file.write(b"".join(leaves) + trace.to_bytes())
        os.replace(name, folder / f"{nonce}-{root.hex()}{_AGAIN if again else ''}")
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return done, Commitment(root, trace.digest, trace.moves())


@dataclass(frozen=True)
class Run:
    """A committed run on disk, or its start alone, hashes and trace."""

    nonce: int
    path: Path
    layout: StateLayout

    @classmethod
    def find(cls, plan: Training, folder: Path, root: bytes) -> Run:
        """The run with that root. Raises WireError if it is not there any more."""
        found = sorted(path for path in folder.glob(f"*-{root.hex()}*") if path.name.split("-")[0].isdigit())
        if not found:
            raise WireError(f"expected the root of a run that is still kept, got {root.hex()[:16]}...")
        return cls(int(found[0].name.split("-")[0]), found[0], StateLayout.of(plan))

    def whole(self, plan: Training, data: Data) -> Run:
        """Return this run with all its checkpoints: trained again, if its start alone was kept.

        Raises
        ------
        WireError
            If this machine has trained another run now. What it committed to is lost.
        """
        if self.path.suffix != _AGAIN:
            return self
        start = self.layout.decode(self.read([0])[0]).arrays
        _, commitment = train(plan, start, data, self.nonce, self.path.parent)
        if commitment.root.hex() != self.path.stem.split("-")[1]:
            raise WireError(
                "expected this device to train the same way twice, got another run: faa-device check --plan"
            )
        return Run.find(plan, self.path.parent, commitment.root)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Encoded checkpoints."""
        with self.path.open("rb") as file:
            encoded = []
            for index in indices:
                file.seek(index * self.layout.size)
                encoded.append(file.read(self.layout.size))
        return encoded

    def tree(self) -> merkle.Tree:
        """The Merkle tree over all of them, from their hashes as they were written."""
        with self.path.open("rb") as file:
            file.seek(self._states * self.layout.size)
            raw = file.read(self._count * merkle.SIZE)
        return merkle.Tree([raw[i : i + merkle.SIZE] for i in range(0, len(raw), merkle.SIZE)])

    def trace(self) -> Trace:
        """What was committed to of every step."""
        with self.path.open("rb") as file:
            file.seek(self._states * self.layout.size + self._count * merkle.SIZE)
            return Trace.from_bytes(self.layout, file.read())

    @property
    def _count(self) -> int:
        size, row = self.path.stat().st_size, trace_size(self.layout) + merkle.SIZE
        return (size - self.layout.size) // row if self.path.suffix == _AGAIN else size // (self.layout.size + row)

    @property
    def _states(self) -> int:
        return 1 if self.path.suffix == _AGAIN else self._count


def parameters_of(plan: Training) -> list[bool]:
    """Return for every array of the model whether it is trained; the others are buffers."""
    layout = StateLayout.of(plan)
    return [i not in layout.buffers + layout.fixed for i in range(layout.arrays)]
