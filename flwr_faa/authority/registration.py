"""What a client registers with the authority: its encrypted data set, once, under its own signature."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MESSAGE = struct.Struct(">20sQII32s32s32s")
_TAG = b"faa/registration/v1\0"

#: More samples than this on one device is a lie or a bug.
MAX_SAMPLES = 2**24


class Refused(ValueError):  # noqa: N818 - the name that reads right where it is raised
    """The authority will not do that. Nothing has changed."""


class BudgetExceeded(Refused):
    """The keys would disclose more of some sample than the budget allows. None was issued."""


@dataclass(frozen=True)
class Registration:
    """A client's encrypted data set.

    Attributes
    ----------
    root : bytes
        Merkle root over ciphertexts and labels, 32 bytes.
    samples, width : int
        Number of ciphertexts, and values in each.
    verify_key : bytes
        The client's Ed25519 key, 32 bytes.
    signature : bytes
        By that key over :meth:`message`, 64 bytes.
    """

    root: bytes
    samples: int
    width: int
    verify_key: bytes
    signature: bytes = b""

    def message(self, node_id: int, public_key: bytes) -> bytes:
        """What is signed: all of this, the node, and the encoded public key that the data are encrypted under."""
        digest = hashlib.sha256(public_key).digest()
        return _MESSAGE.pack(_TAG, node_id, self.samples, self.width, self.root, self.verify_key, digest)

    def signed(self, key: Ed25519PrivateKey, node_id: int, public_key: bytes) -> Registration:
        """The same, with the client's key and signature."""
        own = replace(self, verify_key=key.public_key().public_bytes_raw())
        return replace(own, signature=key.sign(own.message(node_id, public_key)))

    def check(self, node_id: int, public_key: bytes, width: int) -> None:
        """Make sure that it is well-formed and signed.

        Raises
        ------
        Refused
        """
        sizes = len(self.root), len(self.verify_key), len(self.signature)
        if sizes != (32, 32, 64):
            raise Refused(f"expected root, key and signature of 32, 32 and 64 bytes, got {sizes}")
        if not 1 <= self.samples <= MAX_SAMPLES or self.width != width:
            raise Refused(
                f"expected 1 to {MAX_SAMPLES} samples of width {width}, got {self.samples} of width {self.width}"
            )
        try:
            key = Ed25519PublicKey.from_public_bytes(self.verify_key)
            key.verify(self.signature, self.message(node_id, public_key))
        except InvalidSignature:
            raise Refused("expected the client's signature on its registration, got another") from None


@dataclass(frozen=True)
class Disclosure:
    """How much of a node's registered data set has been disclosed.

    Attributes
    ----------
    dimension : int
        Values in a sample; a rank of this is the sample itself.
    samples, samples_opened : int
        Registered, and those of which anything is known.
    max_rank : int
        The largest number of independent functions disclosed of one sample (an upper bound of it).
    budget : int
        What ``max_rank`` may not exceed.
    remaining : tuple of int
        By sample, what is left of the budget.
    enrolments : int
        Data sets registered so far, this one included.
    """

    dimension: int
    samples: int
    samples_opened: int
    max_rank: int
    budget: int
    remaining: tuple[int, ...]
    enrolments: int = 1

    def __str__(self) -> str:
        return (
            f"{self.samples_opened} of {self.samples} samples opened, rank at most {self.max_rank} of "
            f"{self.dimension}, budget {self.budget}"
        )


class Account:
    """What has been disclosed of every sample of one data set: an upper bound of the rank, counted.

    Every function whose value becomes known adds at most one to the rank of what is known of a sample, and the rank is
    never more than the dimension. So the count of functions, capped at the dimension, is an upper bound; it needs no
    linear algebra, and counts the same function twice if it is asked for twice.
    """

    def __init__(self, dimension: int, budget: int, counts: list[int]) -> None:
        self.dimension, self.budget, self.counts = dimension, budget, counts

    def affords(self, row: int, functions: int) -> bool:
        """Whether so many more functions of that sample stay within the budget."""
        return min(self.dimension, self.counts[row] + functions) <= self.budget

    def spend(self, rows: tuple[int, ...], functions: int) -> None:
        """Count functions of these samples; all of it or nothing.

        Raises
        ------
        Refused
            No such sample.
        BudgetExceeded
        """
        if bad := [row for row in rows if not 0 <= row < len(self.counts)]:
            raise Refused(f"expected samples 0 to {len(self.counts) - 1}, got {bad[0]}")
        times = {row: rows.count(row) * functions for row in set(rows)}
        if short := [row for row, more in times.items() if not self.affords(row, more)]:
            raise BudgetExceeded(
                f"expected at most {self.budget} functions of a sample, got {times[short[0]]} more of sample "
                f"{short[0]} of which {self.counts[short[0]]} are known"
            )
        for row, more in times.items():
            self.counts[row] = min(self.dimension, self.counts[row] + more)

    def report(self, enrolments: int = 1) -> Disclosure:
        """The state of the account."""
        opened = sum(count > 0 for count in self.counts)
        left = tuple(max(0, self.budget - count) for count in self.counts)
        samples = len(self.counts)
        return Disclosure(self.dimension, samples, opened, max(self.counts), self.budget, left, enrolments)
