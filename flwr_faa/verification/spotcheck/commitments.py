"""The client's promise about its local run: a Merkle root over all checkpoints, which wait on disk to be opened.

Checkpoints lie in ``<device>/checkpoints/<nonce>-<root>``, and behind them what every step changed (``trace.py``). The
nonce is drawn by the server for one round of one run,
and the root tells the nodes of one machine apart. Training for another round removes them.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa import private
from flwr_faa.replies.updates import Arrays
from flwr_faa.verification.integer_layer import integer_first_layer
from flwr_faa.verification.plan import Checkpoint, Data, TrainingPlan
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.messages import Commitment
from flwr_faa.verification.spotcheck.trace import MAX_BUFFER, SKETCH, Trace
from flwr_faa.verification.wire import WireError

_VARIANCES = ("running_var", "moving_variance")


@dataclass(frozen=True, eq=False)
class Layout:
    """The one encoding of a checkpoint: all arrays, then all momentum buffers, little-endian, nothing between them.

    Attributes
    ----------
    shapes, dtypes : tuple
        Of all of these arrays.
    arrays : int
        How many of them are the model's; the others are momentum.
    parameters : tuple of int
        Which of the model's arrays are its parameters, in the order of ``parameters()``.
    buffers, fixed : tuple of int
        Which are not trained and may change in a run; and which are too large for that and must not.
    variances : ndarray of bool, shape (n,)
        Which numbers in the buffers are variances.
    coast : float
        How far the parameters coast with a momentum of one: ``lr mu / (1 - mu)``.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    arrays: int
    parameters: tuple[int, ...]
    buffers: tuple[int, ...]
    fixed: tuple[int, ...]
    variances: npt.NDArray[np.bool_]
    coast: float

    @classmethod
    def of(cls, plan: TrainingPlan) -> Layout:
        """The layout of that plan's checkpoints."""
        model = plan.blank()
        kept = model.state_dict(keep_vars=True)
        states = [t.detach().numpy() for t in kept.values()]
        every = [*states, *[p.detach().numpy() for p in model.parameters()] * bool(plan.momentum)]
        places = [id(t) for t in kept.values()]
        trained = {id(p) for p in model.parameters()}
        others = [i for i, place in enumerate(places) if place not in trained]
        buffers = [i for i in others if states[i].size <= MAX_BUFFER]
        named = [name.endswith(_VARIANCES) for name in kept]
        return cls(
            tuple(a.shape for a in every),
            tuple(a.dtype.newbyteorder("<") for a in every),
            len(states),
            tuple(places.index(id(p)) for p in model.parameters()),
            tuple(buffers),
            tuple(i for i in others if i not in buffers),
            np.array([named[i] for i in buffers for _ in range(states[i].size)], np.bool_),
            plan.lr * plan.momentum / (1 - plan.momentum),
        )

    @property
    def size(self) -> int:
        """Bytes of a checkpoint."""
        return sum(self._sizes)

    @property
    def buffer_count(self) -> int:
        """How many numbers there are in the buffers that may change."""
        return len(self.variances)

    @property
    def trace_size(self) -> int:
        """Bytes of a checkpoint's line in a trace."""
        return (1 + bool(self.coast)) * SKETCH * 4 + self.buffer_count * 8

    @property
    def lengths(self) -> int:
        """How many of the measures of a step are lengths, see ``Trace.moves``."""
        return 1 + bool(self.coast)

    @property
    def measures(self) -> int:
        """How many measures a step has."""
        return self.lengths + bool(self.buffer_count)

    def place(self, array: int) -> slice:
        """Where in an encoded checkpoint an array is."""
        return slice(self._offsets[array], self._offsets[array + 1])

    def spans(self) -> Iterator[tuple[int, int, int, np.dtype[Any]]]:
        """Where in an encoded checkpoint every parameter and its momentum are, how many numbers and of what type."""
        for number, i in enumerate(self.parameters):
            momentum = self._offsets[self.arrays + number] if self.coast else 0
            yield self._offsets[i], momentum, math.prod(self.shapes[i]), self.dtypes[i]

    def buffer_spans(self) -> Iterator[tuple[int, int, np.dtype[Any]]]:
        """The same for every buffer that may change."""
        for i in self.buffers:
            yield self._offsets[i], math.prod(self.shapes[i]), self.dtypes[i]

    @cached_property
    def _offsets(self) -> list[int]:
        return list(itertools.accumulate(self._sizes, initial=0))

    @cached_property
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

            done = plan.train(arrays, data, nonce, integer_first_layer(data[0], plan.scale), keep)
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
        return merkle.Tree([merkle.leaf(self.read([i])[0]) for i in range(self._count)])

    def trace(self) -> Trace:
        """What was committed to of every step."""
        with self.path.open("rb") as file:
            file.seek(self._count * self.layout.size)
            return Trace.from_bytes(self.layout, file.read())

    @property
    def _count(self) -> int:
        return self.path.stat().st_size // (self.layout.size + self.layout.trace_size)


def parameters_of(plan: TrainingPlan) -> list[bool]:
    """For every array of the model, whether it is trained (the others are buffers)."""
    layout = Layout.of(plan)
    return [i not in layout.buffers + layout.fixed for i in range(layout.arrays)]
