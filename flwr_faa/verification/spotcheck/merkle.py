"""Merkle trees: one 32-byte root binds its author to a list of byte strings, each of which can be shown alone.

SHA-256 with the separations of RFC 6962 (a leaf is hashed behind 0x00, an inner node behind 0x01), so that a node
cannot be shown as a leaf. Levels are filled up with zeros to a power of two, which makes every path equally long, and
the root covers the number of leaves (behind 0x02), so that a tree has one reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flwr_faa.errors import ArgumentValueError

#: Bytes of a hash.
SIZE = 32

_EMPTY = bytes(SIZE)


def leaf(*parts: bytes | memoryview) -> bytes:
    """Hash of a leaf whose contents are these parts, one after the other."""
    digest = hashlib.sha256(b"\0")
    for part in parts:
        digest.update(part)
    return digest.digest()


def depth(count: int) -> int:
    """Length of a path in a tree of so many leaves."""
    return (count - 1).bit_length()


class Tree:
    """The whole tree, on the side of whoever opens leaves.

    Parameters
    ----------
    leaves : sequence of bytes
        Hashes by :func:`leaf`, at least one.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ArgumentValueError("expected at least one leaf, got none")
        self._levels = [[*leaves, *[_EMPTY] * (2 ** depth(len(leaves)) - len(leaves))]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            self._levels.append([_node(a, b) for a, b in zip(below[::2], below[1::2], strict=True)])
        self.root = _root(len(leaves), self._levels[-1][0])
        self.leaves = list(leaves)

    def paths(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Siblings from leaf to root, shape (len(indices), depth, 32)."""
        siblings = [level[(i >> h) ^ 1] for i in indices for h, level in enumerate(self._levels[:-1])]
        return np.frombuffer(b"".join(siblings), np.uint8).reshape(len(indices), len(self._levels) - 1, SIZE)


def verify_path(root: bytes, count: int, index: int, leaf_hash: bytes, path: npt.NDArray[np.uint8]) -> bool:
    """Whether the tree with that root and number of leaves has this leaf at this index."""
    if path.shape != (depth(count), SIZE) or not 0 <= index < count:
        return False
    node, at = leaf_hash, index
    for sibling in path:
        other = sibling.tobytes()
        node = _node(other, node) if at & 1 else _node(node, other)
        at >>= 1
    return _root(count, node) == root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _root(count: int, top: bytes) -> bytes:
    return hashlib.sha256(b"\2" + count.to_bytes(8, "big") + top).digest()
