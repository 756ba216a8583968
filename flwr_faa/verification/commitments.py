"""The client's promise about its local run: a Merkle root over all checkpoints, which wait on disk to be opened.

Checkpoints lie in ``<device>/checkpoints/<nonce>-<root>``. The nonce is drawn by the server for one round of one run,
and the root tells the nodes of one machine apart. Training for another round removes them.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.updates import Arrays
from flwr_faa.verification import merkle
from flwr_faa.verification.encrypted import integer_first_layer
from flwr_faa.verification.plan import Checkpoint, Data, TrainingPlan
from flwr_faa.verification.spotwire import Commitment
from flwr_faa.verification.wire import WireError


@dataclass(frozen=True)
class Layout:
    """The one encoding of a checkpoint: all arrays, then all momentum buffers, little-endian, nothing between them.

    Attributes
    ----------
    shapes, dtypes : tuple
        Of all of these arrays.
    arrays : int
        How many of them are the model's; the others are momentum.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    arrays: int

    @classmethod
    def of(cls, plan: TrainingPlan) -> Layout:
        """The layout of that plan's checkpoints."""
        model = plan.blank()
        states = [t.detach().numpy() for t in model.state_dict().values()]
        buffers = [p.detach().numpy() for p in model.parameters()] if plan.momentum else []
        every = [*states, *buffers]
        return cls(tuple(a.shape for a in every), tuple(a.dtype.newbyteorder("<") for a in every), arrays=len(states))

    @property
    def size(self) -> int:
        """Bytes of a checkpoint."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(s) * d.itemsize for s, d in zip(self.shapes, self.dtypes, strict=True)]

    def encode(self, checkpoint: Checkpoint) -> bytes:
        """A checkpoint as bytes."""
        every = (*checkpoint.arrays, *checkpoint.momentum)
        return b"".join([a.astype(d, copy=False).tobytes() for a, d in zip(every, self.dtypes, strict=True)])

    def decode(self, data: bytes) -> Checkpoint:
        """The inverse of ``encode``, for bytes of the right length."""
        every, at = [], 0
        for shape, dtype, size in zip(self.shapes, self.dtypes, self._sizes, strict=True):
            every.append(np.frombuffer(data[at : at + size], dtype).reshape(shape).astype(dtype.newbyteorder("=")))
            at += size
        return Checkpoint(tuple(every[: self.arrays]), tuple(every[self.arrays :]))


def train(
    plan: TrainingPlan, arrays: Arrays, data: Data, nonce: int, folder: Path
) -> tuple[list[npt.NDArray[Any]], Commitment]:
    """Train as the plan says, keep every checkpoint in a folder, and commit to them.

    The first layer runs in integers, as the server will recompute it (``encrypted.py``). Client and server then agree
    on Z1 bit for bit, and no unit of a ReLU behind it can fall on the other side of zero: the one way in which an
    honest client could differ by more than rounding.
    """
    layout = Layout.of(plan)
    start = plan.start(arrays)
    leaves = [merkle.leaf(layout.encode(start))]
    moves: list[float] = []
    before = [start]
    trained = parameters_of(plan)
    folder.mkdir(parents=True, exist_ok=True)
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
                moves.append(distance(before[0].arrays, checkpoint.arrays, trained))
                before[0] = checkpoint

            done = plan.train(arrays, data, nonce, integer_first_layer(data[0], plan.scale), keep)
        root = merkle.Tree(leaves).root
        os.replace(name, folder / f"{nonce}-{root.hex()}")
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return done, Commitment(root, np.array(moves, np.float32))


@dataclass(frozen=True)
class Run:
    """A committed run on disk."""

    nonce: int
    path: Path
    layout: Layout

    @classmethod
    def find(cls, plan: TrainingPlan, folder: Path, root: bytes) -> Run:
        """The run with that root. Raises WireError if it is not there any more."""
        found = [path for path in folder.glob(f"*-{root.hex()}") if path.name.split("-")[0].isdigit()]
        if not found:
            raise WireError(f"expected the root of a run that is still kept, got {root.hex()[:16]}...")
        return cls(int(found[0].name.split("-")[0]), found[0], Layout.of(plan))

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
        count = self.path.stat().st_size // self.layout.size
        return merkle.Tree([merkle.leaf(self.read([i])[0]) for i in range(count)])


def parameters_of(plan: TrainingPlan) -> list[bool]:
    """For every array of the model, whether it is trained (the others are buffers)."""
    model = plan.blank()
    names = {name for name, _ in model.named_parameters()}
    return [name in names for name in model.state_dict()]


def distance(a: Arrays, b: Arrays, chosen: Sequence[bool]) -> float:
    """L2 distance of two models, over the chosen arrays."""
    pairs = [(x, y) for x, y, take in zip(a, b, chosen, strict=True) if take]
    return math.sqrt(sum(float(np.sum(np.square(y.astype(np.float64) - x))) for x, y in pairs))
