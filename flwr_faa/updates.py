"""Client replies become a validated batch of updates.

Nothing here trusts a reply. A reply that is not what the round asked for is rejected with its reason and costs its
sender the round; it never raises. What remains is the matrix of updates ``g_i = w_i - w`` (FAA-DL, Eq. 2), one row a
node, rows sorted by node id, so that nothing downstream can depend on the order of arrival.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Arrays = Sequence[npt.NDArray[Any]]
Floats = npt.NDArray[np.floating[Any]]
Weighting = Literal["uniform", "reported", "capped"]

#: A parameter beyond this is no trained weight: its square times the model's size leaves float32.
MAX_ABS = 1e8
#: More examples than this on one device is a lie or a bug.
MAX_EXAMPLES = 10**9
#: ``capped`` weights: no client weighs more than this multiple of the round's median.
CAP = 3.0


@dataclass(frozen=True)
class Reply:
    """What one node sent, before anybody looked at it.

    Parameters
    ----------
    node_id : int
    arrays : sequence of ndarray
        Its model ``w_i`` (not the update).
    num_examples : object
        Whatever stood in the field; checked here.
    problem : str
        Set by the transport if there is nothing to check (an error, a missing record).
    commitment : bytes
        What came with the model for the verifier; as the node sent it.
    """

    node_id: int
    arrays: Arrays = ()
    num_examples: object = None
    problem: str = ""
    commitment: bytes = b""


@dataclass(frozen=True)
class Layout:
    """Shapes and dtypes of a model's arrays, and where each lies in a flat update of length ``d``."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]

    @classmethod
    def of(cls, arrays: Arrays) -> Layout:
        return cls(tuple(a.shape for a in arrays), tuple(a.dtype for a in arrays))

    @cached_property
    def layers(self) -> tuple[slice, ...]:
        """One slice of the flat update an array."""
        ends = itertools.accumulate((math.prod(s) for s in self.shapes), initial=0)
        return tuple(itertools.starmap(slice, itertools.pairwise(ends)))

    @property
    def size(self) -> int:
        """Length ``d`` of a flat update."""
        return self.layers[-1].stop if self.layers else 0

    @cached_property
    def label_blocks(self) -> tuple[npt.NDArray[np.intp], ...]:
        """Columns of the flat update that feed each output label.

        The classifier is the last array with at least two axes whose first axis is as long as the one-axis array
        behind it; block ``r`` is its row ``r`` and bias ``r``. Empty where a model has no such pair.
        """
        for i in range(len(self.shapes) - 2, -1, -1):
            weight, bias = self.shapes[i], self.shapes[i + 1]
            if len(weight) >= 2 and bias == weight[:1] and 0 not in weight:
                rows = np.arange(self.layers[i].start, self.layers[i].stop).reshape(weight[0], -1)
                biases = np.arange(self.layers[i + 1].start, self.layers[i + 1].stop)
                return tuple(np.append(rows[r], biases[r]) for r in range(weight[0]))
        return ()


@dataclass(frozen=True, eq=False)
class Batch:
    """The valid updates of one round.

    Attributes
    ----------
    node_ids : tuple of int
        Sorted, one a row.
    updates : ndarray, shape (n, d)
        ``g_i = w_i - w``, float32 (float64 where the model is).
    weights : ndarray, shape (n,)
        Aggregation weights, positive, not normalised.
    layout : Layout
    rejected : dict of int to str
        Node ids whose reply was not valid, and why.
    chances : ndarray, shape (n,), optional
        How likely each row is to be drawn relative to the others, positive; equal if not given.
    """

    node_ids: tuple[int, ...]
    updates: Floats
    weights: npt.NDArray[np.float64]
    layout: Layout
    rejected: dict[int, str]
    chances: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.node_ids)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """One hash of the contents a row."""
        return tuple(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in self.updates)

    @cached_property
    def canonical(self) -> tuple[int, ...]:
        """The rows in an order that hangs on their contents alone, not on node ids, which Flower draws at random."""
        return tuple(sorted(range(len(self)), key=lambda i: (self.digests[i], self.node_ids[i])))

    def tickets(self, seed: int) -> npt.NDArray[np.float64]:
        """One random number a row, from the seed and the row's contents: exponential, with its chance as the rate.

        A draw by tickets (``argsort``) is the same whatever the ids and the order of the replies: the smallest is row
        i with a probability of ``chances[i] / sum(chances)``. An attacker that does not know the seed cannot choose
        its ticket.
        """
        key = seed.to_bytes(16, "little", signed=True)
        draws = [hashlib.blake2b(d, digest_size=8, key=key).digest() for d in self.digests]
        uniform = np.frombuffer(b"".join(draws), dtype="<u8").astype(np.float64) / 2.0**64
        with np.errstate(divide="ignore"):  # log 0, once in 2^53 draws
            return np.asarray(-np.log1p(-uniform) / (1.0 if self.chances is None else self.chances))


def read_replies(replies: Sequence[Reply], model: Arrays, weighting: Weighting = "capped") -> Batch:
    """Validate replies and turn them into updates.

    Parameters
    ----------
    replies : sequence of Reply
        In any order. A node that answers twice is rejected: one of the two is forged.
    model : sequence of ndarray
        The global model ``w`` that was broadcast.
    weighting : {"capped", "uniform", "reported"}
        ``uniform``: balanced clients, as in the paper's Eq. 4. ``reported``: FedAvg's, believes ``num_examples``.
        ``capped``: reported, but none above ``CAP`` times the median.

    Returns
    -------
    Batch
    """
    layout = Layout.of(model)
    dtype = np.float64 if any(a.dtype == np.float64 for a in model) else np.float32
    by_node: dict[int, Reply] = {}
    rejected: dict[int, str] = {}
    for reply in replies:
        if reply.node_id in by_node:
            rejected[reply.node_id] = f"node {reply.node_id}: expected one reply, got two"
        by_node[reply.node_id] = reply
    for node_id, reply in by_node.items():
        problem = reply.problem or _arrays_problem(reply.arrays, layout) or _examples_problem(reply.num_examples)
        if problem:
            rejected.setdefault(node_id, f"node {node_id}: {problem}")
    node_ids = tuple(sorted(by_node.keys() - rejected.keys()))
    updates = np.empty((len(node_ids), layout.size), dtype)
    for row, node_id in zip(updates, node_ids, strict=True):
        for part, array, w in zip(layout.layers, by_node[node_id].arrays, model, strict=True):
            np.subtract(array.ravel(), w.ravel(), out=row[part], dtype=dtype, casting="unsafe")
    examples = np.array([float(by_node[i].num_examples) for i in node_ids], np.float64)  # type: ignore[arg-type]
    return Batch(node_ids, updates, weigh(examples, weighting), layout, rejected)


def apply_update(model: Arrays, update: npt.NDArray[np.float64]) -> list[npt.NDArray[Any]]:
    """``w + update``, each array in its own dtype (integers rounded)."""
    new = []
    for part, w in zip(Layout.of(model).layers, model, strict=True):
        total = w.astype(np.float64) + update[part].reshape(w.shape)
        # asarray: NumPy turns arrays without axes (num_batches_tracked) into scalars
        new.append(np.asarray(np.rint(total) if w.dtype.kind in "iub" else total).astype(w.dtype))
    return new


def weigh(examples: npt.NDArray[np.float64], weighting: Weighting) -> npt.NDArray[np.float64]:
    """Weights, shape (n,), of clients that report these numbers of examples."""
    if weighting == "uniform" or not len(examples):
        return np.ones_like(examples)
    return examples if weighting == "reported" else np.minimum(examples, CAP * np.median(examples))


def _arrays_problem(arrays: Arrays, layout: Layout) -> str:
    if len(arrays) != len(layout.shapes):
        return f"expected {len(layout.shapes)} arrays, got {len(arrays)}"
    for i, (array, shape, dtype) in enumerate(zip(arrays, layout.shapes, layout.dtypes, strict=True)):
        if array.dtype != dtype:
            return f"array {i}: expected dtype {dtype}, got {array.dtype}"
        if array.shape != shape:
            return f"array {i}: expected shape {shape}, got {array.shape}"
        if array.size and dtype.kind == "f":
            top = float(np.abs(array).max())  # NaN and Inf come through max
            if not top <= MAX_ABS:
                return f"array {i}: expected finite values up to {MAX_ABS:g}, got {top:g}"
    return ""


def _examples_problem(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return f"num-examples: expected a number, got {type(value).__name__}"
    if not 0 < value <= MAX_EXAMPLES:  # false for NaN too
        return f"num-examples: expected 1 to {MAX_EXAMPLES:g}, got {value:g}"
    return ""
