"""What a client registers with the authority: its encrypted data set, once, under its own signature."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flwr_faa.crypto.ipfe import MAX_WIDTH
from flwr_faa.errors import FlwrAnomalyError

#: Most samples of one device: a million, which is hours of encryption. Server, authority and device refuse more. What a
#: registration costs them does not depend on the number that it states.
MAX_SAMPLES = 2**20
#: Largest value in a sample.
MAX_TOP = 2**31 - 1

# Every signature in this package starts with what it is for, so none can be taken for another.
_MESSAGE = struct.Struct(">20sQIII32s32s32s")
_TAG = b"faa/registration/v2\0"
_RECEIPT = b"faa/receipt/v1\0"


class Refused(FlwrAnomalyError, ValueError):  # noqa: N818 - the name that reads right where it is raised
    """The authority will not do that. Nothing has changed but its log."""


class BudgetExceeded(Refused):
    """Too much would be known of some sample. No key has been issued."""


@dataclass(frozen=True)
class Registration:
    """A client's statement that this is the data it has encrypted.

    Attributes
    ----------
    root : bytes
        Merkle root over ciphertexts and labels, 32 bytes.
    samples, width : int
        Number of ciphertexts, and values in each.
    top : int
        The largest value in them: by it what a function tells of a sample is counted (``information.py``).
    verify_key : bytes
        The client's Ed25519 key, 32 bytes. The first one to register for a node is that node's for ever.
    signature : bytes
        By that key over :meth:`message`, 64 bytes.
    """

    root: bytes
    samples: int
    width: int
    top: int
    verify_key: bytes
    signature: bytes = b""

    def message(self, node_id: int, public_key: bytes) -> bytes:
        """Return the signed message: all of this, the node, and the encoded public key of the encryption."""
        digest = hashlib.sha256(public_key).digest()
        return _MESSAGE.pack(_TAG, node_id, self.samples, self.width, self.top, self.root, self.verify_key, digest)

    def signed(self, key: Ed25519PrivateKey, node_id: int, public_key: bytes) -> Registration:
        """Return the same, with the client's key and signature."""
        own = replace(self, verify_key=key.public_key().public_bytes_raw())
        return replace(own, signature=key.sign(own.message(node_id, public_key)))

    def receipt(self, key: bytes) -> bytes:
        """Return what the authority signs once this is registered, ``key`` being the SHA-256 of the encoded public key.

        A client that has seen it knows that keys for its ciphertexts are counted under its own name. Without it a
        server could have registered another key for the node first, and again for each new node id that it gives it.
        """
        return _RECEIPT + key + self.root + self.verify_key

    def check_form(self) -> None:
        """Raise Refused unless every part is of the right size."""
        sizes = len(self.root), len(self.verify_key), len(self.signature)
        if sizes != (32, 32, 64):
            raise Refused(f"expected root, key and signature of 32, 32 and 64 bytes, got {sizes}")
        if not 1 <= self.samples <= MAX_SAMPLES or not 1 <= self.width <= MAX_WIDTH:
            raise Refused(
                f"expected 1 to {MAX_SAMPLES} samples of width 1 to {MAX_WIDTH}, got {self.samples} of {self.width}"
            )
        if not 1 <= self.top <= MAX_TOP:
            raise Refused(f"expected samples of values from 0 to at most {MAX_TOP}, got {self.top}")

    def check(self, node_id: int, public_key: bytes) -> None:
        """Raise Refused unless well-formed, and signed for this node and its encoded public key."""
        self.check_form()
        if not verify_signature(self.verify_key, self.signature, self.message(node_id, public_key)):
            raise Refused(f"expected the client's signature for node {node_id} and its public key, got another")


@dataclass(frozen=True)
class Disclosure:
    """How much of a node's registered data set is known, at most.

    Attributes
    ----------
    dimension : int
        Values in a sample: as much as there is to know of it.
    samples, samples_opened : int
        Registered, and those named in some request.
    max_rank : int
        Dimensions known of the sample of which most is known, at most; see ``budget.py``.
    budget : int
        What ``max_rank`` may not exceed.
    remaining : int
        What is left of the budget for the sample of which most is known.
    enrolments : int
        Data sets registered so far, this one included.
    keys_issued : int
        Over all of them, repeated ones included.
    """

    dimension: int
    samples: int
    samples_opened: int
    max_rank: int
    budget: int
    remaining: int
    enrolments: int = 1
    keys_issued: int = 0

    def __str__(self) -> str:
        return (
            f"{self.samples_opened} of {self.samples} samples opened, at most {self.max_rank} of "
            f"{self.dimension} dimensions known, budget {self.budget}"
        )


def verify_signature(key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether this is that Ed25519 key's signature."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
