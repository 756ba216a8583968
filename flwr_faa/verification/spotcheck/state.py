"""The state of a run between two steps as bytes: what a checkpoint is, and where in it everything lies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.verification.training import Checkpoint, Training

#: Buffers of more values (masks, tables) must stay as the model was broadcast.
MAX_BUFFER = 2**12
_VARIANCES = ("running_var", "moving_variance")


@dataclass(frozen=True, eq=False)
class StateLayout:
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
    def of(cls, plan: Training) -> StateLayout:
        """The layout of that plan's checkpoints."""
        model = plan.template
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
        return b"".join([np.asarray(a, d).tobytes() for a, d in zip(every, self.dtypes, strict=True)])

    def decode(self, data: bytes) -> Checkpoint:
        """The inverse of ``encode``, for bytes of the right length."""
        every, at = [], 0
        for shape, dtype, size in zip(self.shapes, self.dtypes, self._sizes, strict=True):
            every.append(np.frombuffer(data[at : at + size], dtype).reshape(shape).astype(dtype.newbyteorder("=")))
            at += size
        return Checkpoint(tuple(every[: self.arrays]), tuple(every[self.arrays :]))
