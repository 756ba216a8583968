"""What a model's arrays are, and where each lies in a flat update."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError

Arrays = Sequence[npt.NDArray[Any]]

_MEAN = re.compile(r"(running|moving)_mean$")
_VARIANCE = re.compile(r"(running|moving)_var(iance)?$")
_COUNTER = re.compile(r"num_batches_tracked$")


class Role(StrEnum):
    """What an array of a model is for.

    Attributes
    ----------
    PARAMETER
        Floats that training optimises, and whatever cannot be told from them.
    STATISTIC
        Running means and variances of batch normalisation: measured, not optimised, in units of their own.
    BOOKKEEPING
        Integers and booleans, and whatever has a counter's name: counters, indices, masks. No distance between clients
        should depend on them.
    """

    PARAMETER = "parameter"
    STATISTIC = "statistic"
    BOOKKEEPING = "bookkeeping"


@dataclass(frozen=True)
class Layout:
    """Shapes, dtypes and roles of a model's arrays, and where each lies in a flat update of length ``d``.

    A flat update has the columns of all parameters first, in the model's order, then those of all statistics.
    Bookkeeping has no columns.

    Parameters
    ----------
    shapes, dtypes : tuple
        One each for every array.
    names : tuple of str, optional
        The arrays' names, where the API has them.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, arrays: Arrays, names: Sequence[str] = ()) -> Layout:
        """Return the layout of a model.

        Raises
        ------
        ValueError
            If an array does not hold real numbers: it cannot be averaged, or would lose half of itself.
        """
        for i, array in enumerate(arrays):
            if array.dtype.kind not in "fiub":
                told = f"array {i}" + (f" ({names[i]})" if names else "")
                raise ArgumentValueError(
                    f"expected a model of real numbers, got {array.dtype} in {told}: send real and imaginary parts as "
                    "two arrays, and text or objects not at all"
                )
        return cls(tuple(a.shape for a in arrays), tuple(a.dtype for a in arrays), tuple(names))

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """One role for every array: by name where names say anything, else by dtype and structure."""
        found = []
        for i, dtype in enumerate(self.dtypes):
            if dtype.kind != "f" or i in self.counters:
                found.append(Role.BOOKKEEPING)
            else:
                found.append(Role.STATISTIC if i in self._means or i in self.variances else Role.PARAMETER)
        return tuple(found)

    @cached_property
    def variances(self) -> frozenset[int]:
        """Indices of the running variances."""
        return self._having(_VARIANCE, -1)

    @cached_property
    def counters(self) -> frozenset[int]:
        """Indices of the counters of batches; also those that somebody's averaging has made floats."""
        return self._having(_COUNTER, 0)

    @property
    def named(self) -> bool:
        """Whether roles follow from names; without them a pair before a counter may be a layer's weight and bias."""
        return any(not name.isdigit() for name in self.names)

    @cached_property
    def _means(self) -> frozenset[int]:
        return self._having(_MEAN, -2)

    def _having(self, pattern: re.Pattern[str], before: int) -> frozenset[int]:
        """Return the arrays of that name; or, in models without names, those so far before a counter of batches."""
        if self.named:
            return frozenset(i for i, name in enumerate(self.names) if pattern.search(name))
        return frozenset(i + before for i in range(2, len(self.shapes)) if self._counts_batches(i))

    def _counts_batches(self, i: int) -> bool:
        """Return whether array i stands where PyTorch has ``num_batches_tracked``: behind mean and variance."""
        mean, variance = self.shapes[i - 2], self.shapes[i - 1]
        floats = self.dtypes[i - 2].kind == self.dtypes[i - 1].kind == "f"
        return self.dtypes[i].kind in "iu" and self.shapes[i] == () and floats and len(mean) == 1 and mean == variance

    @cached_property
    def layers(self) -> tuple[slice, ...]:
        """Where each array lies in a flat update; an empty slice for bookkeeping."""
        order = [i for role in (Role.PARAMETER, Role.STATISTIC) for i, r in enumerate(self.roles) if r is role]
        ends = itertools.accumulate((math.prod(self.shapes[i]) for i in order), initial=0)
        found = dict(zip(order, itertools.starmap(slice, itertools.pairwise(ends)), strict=True))
        return tuple(found.get(i, slice(0, 0)) for i in range(len(self.shapes)))

    @cached_property
    def parameters(self) -> slice:
        """The columns of all parameters."""
        return slice(0, self._count(Role.PARAMETER))

    @cached_property
    def statistics(self) -> slice:
        """The columns of all statistics, behind those of the parameters."""
        return slice(self.parameters.stop, self.parameters.stop + self._count(Role.STATISTIC))

    @property
    def size(self) -> int:
        """Length ``d`` of a flat update."""
        return int(self.statistics.stop)

    @cached_property
    def label_blocks(self) -> tuple[npt.NDArray[np.intp], ...]:
        """Columns of the flat update that feed each output label.

        The classifier is the last parameter with at least two axes whose first axis is as long as the one-axis
        parameter behind it; block ``r`` is its row ``r`` and bias ``r``. Empty where a model has no such pair.
        """
        for i in range(len(self.shapes) - 2, -1, -1):
            weight, bias = self.shapes[i], self.shapes[i + 1]
            parameters = self.roles[i] is self.roles[i + 1] is Role.PARAMETER
            if parameters and len(weight) >= 2 and bias == weight[:1] and 0 not in weight:
                rows = np.arange(self.layers[i].start, self.layers[i].stop).reshape(weight[0], -1)
                biases = np.arange(self.layers[i + 1].start, self.layers[i + 1].stop)
                return tuple(np.append(rows[r], biases[r]) for r in range(weight[0]))
        return ()

    def flat(self, arrays: Arrays) -> npt.NDArray[Any]:
        """Return arrays in the model's order as one vector, shape (d,), in the columns of an update."""
        order = sorted((part.start, i) for i, part in enumerate(self.layers) if self.roles[i] is not Role.BOOKKEEPING)
        return np.concatenate([arrays[i].ravel() for _, i in order]) if order else np.zeros(0)

    def called(self, i: int) -> str:
        """Return what to call array i in a message."""
        return f"array {i} ({self.names[i]})" if self.names else f"array {i}"

    def _count(self, role: Role) -> int:
        return sum(math.prod(s) for s, r in zip(self.shapes, self.roles, strict=True) if r is role)
