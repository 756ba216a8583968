"""The replies of a round as they came, and the valid ones as a batch of updates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_faa.replies.kernels import Floats
from flwr_faa.replies.layout import Arrays, Layout
from flwr_faa.replies.rows import Differences, Matrix, Rows, hashed


@dataclass(frozen=True, eq=False)
class Reply:
    """What one node sent, before anybody looked at it.

    Parameters
    ----------
    node_id : int
    arrays : sequence of ndarray or None
        Its model ``w_i`` (not the update). None for an array that it did not send.
    num_examples : object
        Whatever stood in the field; checked here.
    problem : str
        Set by the transport if there is nothing to check (an error, a missing record).
    commitment : bytes
        What came with the model for the verifier; as the node sent it.
    absent : bool
        The node sent nothing that could be read at all: it failed, was silent, or had not enrolled.
    """

    node_id: int
    arrays: Sequence[npt.NDArray[Any] | None] = ()
    num_examples: object = None
    problem: str = ""
    commitment: bytes = b""
    absent: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """The valid updates of one round.

    Attributes
    ----------
    node_ids : tuple of int
        Sorted, one for each row.
    given : ndarray, shape (n, d), or Differences
        ``g_i = w_i - w`` in the columns of ``layout``, float32 (float64 where the model is): see ``updates``, a matrix,
        and ``rows``, to be read piece by piece.
    weights : ndarray, shape (n,)
        Aggregation weights, positive, not normalised.
    layout : Layout
    rejected : dict of int to str
        Node ids whose reply was not valid, and why.
    chances : ndarray, shape (n,), optional
        How likely each row is to be drawn relative to the others; 0 never. Equal if not given.
    models : tuple of sequence of ndarray
        The ``w_i`` themselves, complete and in the model's dtypes, one for each row. Averages are taken of them: a
        difference in float32 cannot hold what a large weight becomes when it is small.
    key : int
        Of the hash of contents; secret, or a client could choose where it stands.
    prints : tuple of int
        ``rows.hashed`` of the rows, where they are known.
    largest : ndarray, shape (n,)
        The size of each row's largest parameter, where they are known.
    base : sequence of ndarray
        The ``w`` that was broadcast.
    """

    node_ids: tuple[int, ...]
    given: Floats | Differences
    weights: npt.NDArray[np.float64]
    layout: Layout
    rejected: dict[int, str]
    chances: npt.NDArray[np.float64] | None = None
    models: tuple[Arrays, ...] = ()
    key: int = 0
    prints: tuple[int, ...] = ()
    largest: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    base: Arrays = ()

    def __len__(self) -> int:
        return len(self.node_ids)

    @cached_property
    def rows(self) -> Rows:
        """The updates, to be read piece by piece."""
        return Matrix(self.given) if isinstance(self.given, np.ndarray) else self.given

    @cached_property
    def updates(self) -> Floats:
        """The updates as a matrix, shape (n, d): made when it is first asked for, and then as large as all replies."""
        if isinstance(self.given, np.ndarray):
            return self.given
        matrix = np.empty(self.given.shape, self.given.dtype)
        self.given.read(range(len(self)), slice(0, matrix.shape[1]), matrix)
        return matrix

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """One hash of the contents for each row, keyed; two that differ share it with a chance below 2^-64.

        Rows with the same fingerprint, which are clones, have a second one under another key.
        """
        prints = self.prints or hashed(self.rows, range(len(self)), self.key)
        times = Counter(prints)
        alike = [row for row, found in enumerate(prints) if times[found] > 1]
        second = dict(zip(alike, hashed(self.rows, alike, self.key + 1), strict=True))
        return tuple(found.to_bytes(8) + second.get(row, 0).to_bytes(8) for row, found in enumerate(prints))

    @cached_property
    def canonical(self) -> tuple[int, ...]:
        """The rows in an order that depends on their contents alone, not on node ids, which Flower draws at random."""
        return tuple(sorted(range(len(self)), key=lambda i: (self.digests[i], self.node_ids[i])))

    def tickets(self, seed: int) -> npt.NDArray[np.float64]:
        """Return one random number for each row, from the seed and the row's contents.

        It is exponential, with the row's chance as the rate. A draw by tickets (``argsort``) is the same whatever the
        ids and the order of the replies: the smallest is row i with a probability of ``chances[i] / sum(chances)``. An
        attacker that does not know the seed cannot choose its ticket.
        """
        key = seed.to_bytes(16, "little", signed=True)
        draws = [hashlib.blake2b(d, digest_size=8, key=key).digest() for d in self.digests]
        uniform = np.frombuffer(b"".join(draws), dtype="<u8").astype(np.float64) / 2.0**64
        with np.errstate(divide="ignore"):  # log 0, once in 2^53 draws
            return np.asarray(-np.log1p(-uniform) / (1.0 if self.chances is None else self.chances))

    def drawable(self, rows: Sequence[int]) -> list[int]:
        """Return those of the rows that may be drawn at all."""
        return [row for row in rows if self.chances is None or self.chances[row] > 0]
