"""The seam: what server and clients need of the trusted third party, and the words they share with it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa.authority.information import RHO_BITS
from flwr_faa.authority.registration import Disclosure, Registration, verify_signature
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.group import Group
from flwr_faa.errors import ArgumentValueError, FlwrAnomalyError

#: Flower's node ids are 64-bit unsigned.
MAX_NODE = 2**64 - 1

_HEAD = struct.Struct(">5sQI")  # magic and version, node, length of the public key
_MAGIC = b"FAAK\x01"
_PURPOSE = b"faa-authority/public-key/1\n"
_RHO = b"flwr-anomaly/authority/rho/1\n"
_RHO_BYTES = 8  # of the hash for one weight: biased by 2^-40


class AuthorityUnavailable(FlwrAnomalyError, ConnectionError):  # noqa: N818
    """No answer that can be trusted: not reached, timed out, or not the authority. Says nothing about any client."""


@dataclass(frozen=True)
class SignedPublicKey:
    """A public key with the authority's signature: a client that has pinned the authority takes it from anybody."""

    node_id: int
    public: bytes
    signature: bytes

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, node_id: int, public: bytes) -> SignedPublicKey:
        """Sign a node's public key for the authority; ``public`` is ``PublicKey.to_bytes``."""
        return cls(node_id, public, key.sign(_PURPOSE + node_id.to_bytes(8, "big") + public))

    def verify(self, authority: bytes, node_id: int, group: Group, width: int) -> ipfe.PublicKey:
        """Return the key, if the pinned authority signed it for this node.

        Parameters
        ----------
        authority : bytes, 32
            The pinned Ed25519 key.
        node_id, group, width
            What the client expects.

        Raises
        ------
        ValueError
            Not this authority's, for another node, group or width.
        """
        if not verify_signature(authority, self.signature, _PURPOSE + self.node_id.to_bytes(8, "big") + self.public):
            raise ArgumentValueError("expected a public key signed by the pinned authority, got another signature")
        if self.node_id != node_id:
            raise ArgumentValueError(f"expected the public key of node {node_id}, got that of node {self.node_id}")
        public = ipfe.PublicKey.from_bytes(group, self.public)
        if public.n != width:
            raise ArgumentValueError(f"expected a public key of width {width}, got {public.n}")
        return public

    def to_bytes(self) -> bytes:
        """Return magic, version, node, length, key and signature."""
        return _HEAD.pack(_MAGIC, self.node_id, len(self.public)) + self.public + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedPublicKey:
        """Undo ``to_bytes``; raise ValueError for anything else. Does not verify."""
        if len(data) < _HEAD.size:
            raise ArgumentValueError(f"expected at least {_HEAD.size} bytes, got {len(data)}")
        magic, node_id, size = _HEAD.unpack_from(data)
        if magic != _MAGIC or len(data) != _HEAD.size + size + 64:
            raise ArgumentValueError(f"expected a version 1 signed public key, got {len(data)} other bytes")
        return cls(node_id, data[_HEAD.size : -64], data[-64:])


@dataclass(frozen=True, eq=False)
class Stated:
    """Functions whose values a client has stated of some of its samples.

    Attributes
    ----------
    root : bytes
        The registered set.
    rows : sequence of int
        These samples.
    functions : sequence of integer vectors
    units : int
        So many of them are units of a layer whose gradient, summed over the rows, is shown too.
    whole : bool
        Everything is known of the rows by what was stated: the outputs of a convolution.
    """

    root: bytes
    rows: Sequence[int]
    functions: Sequence[Sequence[int]]
    units: int = 0
    whole: bool = False


@dataclass(frozen=True)
class CheckKey:
    """The key for ``combine(weights(seed, len(functions)), functions)``, a random combination of what was stated.

    A server that could choose what a key opens would pack several values of a sample into one. The seed is a hash of
    the request, the server's own seed in it, under a secret of the authority: the server cannot steer the weights, the
    client cannot foresee them, and the same request, which may be repeated, has the same key.
    """

    seed: bytes
    key: ipfe.FunctionalKey


def weights(seed: bytes, count: int) -> list[int]:
    """Return the weights rho, from 1 to below ``2^RHO_BITS``. Not zero: that would overlook a single wrong claim."""
    raw = hashlib.shake_256(_RHO + seed).digest(_RHO_BYTES * count)
    draws = (int.from_bytes(raw[i : i + _RHO_BYTES], "big") for i in range(0, len(raw), _RHO_BYTES))
    return [draw % (2**RHO_BITS - 1) + 1 for draw in draws]


def combine(rho: Sequence[int], functions: Sequence[Sequence[int]]) -> list[int]:
    """Return the function ``y = sum_k rho_k f_k``, exactly."""
    total = [0] * len(functions[0])
    for factor, function in zip(rho, functions, strict=True):
        total = [t + factor * int(v) for t, v in zip(total, function, strict=True)]
    return total


class Authority(Protocol):
    """What server and clients need of the trusted third party."""

    @property
    def group(self) -> Group:
        """Where all its keys live."""
        ...

    @property
    def verify_key(self) -> bytes:
        """Its Ed25519 key, for clients to pin."""
        ...

    @property
    def budget(self) -> float:
        """Share of a sample's dimensions that may become known over its lifetime."""
        ...

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        """Return the key under which a node encrypts vectors of this width."""
        ...

    def signed_public_key(self, node_id: int, width: int) -> SignedPublicKey:
        """Return the same, to be relayed to a client that trusts only the authority."""
        ...

    def register(self, node_id: int, registration: Registration) -> bytes:
        """Take a client's signed data set; keys are issued for nothing else.

        Returns
        -------
        bytes
            The authority's signature over ``registration.receipt(...)``, for the client.

        Raises
        ------
        Refused
            Not signed by the key that this node belongs to, or not for its public key.
        """
        ...

    def functional_keys(self, node_id: int, functions: Sequence[Sequence[int]]) -> list[ipfe.FunctionalKey]:
        """Return keys that open these inner products of what a node encrypted that has never registered anything: the
        paper's mode, which hides nothing.

        Raises
        ------
        Refused
            The node has registered data, or the authority does not serve that mode.
        """
        ...

    def check_key(self, node_id: int, stated: Stated, seed: bytes) -> CheckKey:
        """Return a key that tests values which a client has stated: for a random combination that the authority draws.

        It opens that combination of EVERY ciphertext of the node, so it counts for all its samples; what was stated
        counts for the rows that it was stated of. The same request again has the same key, and costs nothing.

        Parameters
        ----------
        node_id : int
        stated : Stated
        seed : bytes, 32
            The server's, new for every check: what makes the combination another one.

        Raises
        ------
        BudgetExceeded
            Too much would be known of some sample. Nothing is issued.
        Refused
            Not this node's registered set, or a function or row that does not fit it.
        """
        ...

    def count(self, node_id: int, stated: Stated) -> None:
        """Count what a client has stated although no key tests it any more; raises as ``check_key`` does."""
        ...

    def disclosure(self, node_id: int) -> Disclosure:
        """Return what is known of the node's data so far. Raises Refused for a node never seen."""
        ...
