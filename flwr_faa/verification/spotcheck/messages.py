"""The messages of the spot check, as both sides read them (``wire.py`` is the format)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from flwr_faa.authority.registration import Registration
from flwr_faa.verification.spotcheck.merkle import SIZE
from flwr_faa.verification.wire import WireError, kind_of, pack, unpack

#: Requests to bind a data set, by commitments or by encryption; and the answer to both.
ENROL, ENCRYPT, ENROLLED = "spotcheck/enrol", "spotcheck/encrypt", "spotcheck/enrolled"
COMMITMENT, CHALLENGE, ANSWER = "spotcheck/commitment", "spotcheck/challenge", "spotcheck/answer"

#: Random vectors s a challenge. One misses a tampering of relative size r with probability of about tau / r; two, its
#: square.
VECTORS = 2
#: Their entries are drawn from the 256 integers from -this to this without 0, which would overlook a coordinate.
VECTOR_MAX = 128
_VECTORS = b"flwr-anomaly/spotcheck/s/1\n"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Enrol:
    """Server to client: bind yourself to your data set.

    Attributes
    ----------
    binding : {"commitments", "encryption"}
    node_id : int
    group : str
        Back end of the group.
    parameters : bytes
        What the data are bound under: for commitments what ``claim_proofs.parameters`` gives, for encryption the
        authority's public key for this node, signed.
    """

    binding: Literal["commitments", "encryption"]
    node_id: int
    group: str
    parameters: bytes

    def to_bytes(self) -> bytes:
        node = self.node_id.to_bytes(8, "big")
        kind = ENROL if self.binding == "commitments" else ENCRYPT
        return pack(kind, {"node": node, "group": self.group, "parameters": self.parameters})

    @classmethod
    def from_bytes(cls, data: bytes) -> Enrol:
        kind = ENCRYPT if kind_of(data) == ENCRYPT else ENROL
        fields = unpack(data, kind, {"node": bytes, "group": str, "parameters": bytes})
        if len(fields["node"]) != 8:
            raise WireError(f"expected a node id of 8 bytes, got {len(fields['node'])}")
        node = int.from_bytes(fields["node"], "big")
        return cls("commitments" if kind == ENROL else "encryption", node, fields["group"], fields["parameters"])


@dataclass(frozen=True)
class Enrolled:
    """Client to server: this data set is bound, and so much may be asked about it.

    Attributes
    ----------
    registration : Registration
        Signed.
    allowed, spent : int
        Dimensions of a sample that the device will tell at most, and the most that it has told of any in this set.
    """

    FIELDS: ClassVar[dict[str, type]] = {
        "root": bytes, "samples": int, "width": int, "top": int, "verify_key": bytes, "signature": bytes,
        "allowed": int, "spent": int,
    }  # fmt: skip

    registration: Registration
    allowed: int
    spent: int

    def to_bytes(self) -> bytes:
        return pack(ENROLLED, {**asdict(self.registration), "allowed": self.allowed, "spent": self.spent})

    @classmethod
    def from_bytes(cls, data: bytes) -> Enrolled:
        fields = unpack(data, ENROLLED, cls.FIELDS)
        allowed, spent = fields.pop("allowed"), fields.pop("spent")
        if not (0 <= allowed <= fields["width"] and spent >= 0):
            raise WireError(f"expected a budget from 0 to {fields['width']} dimensions, got {allowed}, {spent} spent")
        return cls(Registration(**fields), allowed, spent)


@dataclass(frozen=True, eq=False)
class Commitment:
    """Client to server, with its update: the run's checkpoints, fixed before anybody knows which will be opened.

    Attributes
    ----------
    root : bytes
        Merkle root over the S + 1 checkpoints.
    trace : bytes
        Hash of what every step changed, see ``trace.py``.
    moves : float32, shape (S, measures)
        How much every step changed by each measure, as the trace has it.
    """

    FIELDS: ClassVar[dict[str, type]] = {"root": bytes, "trace": bytes, "moves": np.ndarray}

    root: bytes
    trace: bytes
    moves: npt.NDArray[np.float32]

    def to_bytes(self) -> bytes:
        return pack(COMMITMENT, {"root": self.root, "trace": self.trace, "moves": self.moves})

    @classmethod
    def from_bytes(cls, data: bytes, steps: int, measures: int) -> Commitment:
        fields = unpack(data, COMMITMENT, cls.FIELDS)
        moves, hashes = fields["moves"], (fields["root"], fields["trace"])
        if moves.dtype != np.float32 or moves.shape != (steps, measures):
            got = f"{moves.shape} of {moves.dtype}"
            raise WireError(f"expected {steps} moves by {measures} measures, got {got}")
        if any(len(value) != SIZE for value in hashes):
            raise WireError(f"expected hashes of {SIZE} bytes, got {[*map(len, hashes)]}")
        if not (np.isfinite(moves).all() and (moves >= 0).all()):
            raise WireError("expected finite moves, not negative, got others")
        return cls(*hashes, moves)


@dataclass(frozen=True)
class Challenge:
    """Server to client: open these steps.

    Attributes
    ----------
    run : bytes
        Root of the commitment.
    data : bytes
        Root of the registered data set.
    key : bytes
        SHA-256 of the parameters under which it is bound.
    steps : tuple of int
        Ascending, from 0.
    seed : bytes
        The server's part in the random vectors s, 32 bytes.
    receipt : bytes
        The authority's, for the registration of that data set, where there is an authority.
    """

    run: bytes
    data: bytes
    key: bytes
    steps: tuple[int, ...]
    seed: bytes
    receipt: bytes = b""

    def vectors(self, kernel: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """The random vectors s, shape (k, *kernel), which neither side chooses.

        They are a hash of the run's root, which the device fixed before it knew the seed, and of the seed, which the
        server draws afterwards. It could try seeds until it likes the outcome: 2^t tries settle t of their 8 bits an
        entry, and what s tells is counted by its size whatever it is.
        """
        count = VECTORS * math.prod(kernel)
        drawn = np.frombuffer(hashlib.shake_256(_VECTORS + self.run + self.seed).digest(count), np.uint8)
        s = drawn.astype(np.int64) - VECTOR_MAX
        return (s + (s >= 0)).reshape(VECTORS, *kernel)

    def context(self, verify_key: bytes, samples: int) -> bytes:
        """What proofs about its answer are bound to: all of it, and the device and the size of its set.

        Node and width are in ``key``, the round and the run in ``run``; no two challenges have one ``seed``.
        """
        return pack("spotcheck/context", {"asked": self.to_bytes(), "device": verify_key, "samples": samples})

    def to_bytes(self) -> bytes:
        steps = np.array(self.steps, np.int64)
        roots = {"run": self.run, "data": self.data, "key": self.key, "receipt": self.receipt}
        return pack(CHALLENGE, {**roots, "steps": steps, "seed": self.seed})

    @classmethod
    def from_bytes(cls, data: bytes) -> Challenge:
        hashes: dict[str, type] = {"run": bytes, "data": bytes, "key": bytes, "seed": bytes}
        more: dict[str, type] = {"steps": np.ndarray, "receipt": bytes}
        fields = unpack(data, CHALLENGE, {**hashes, **more})
        steps = fields["steps"]
        if {len(fields[name]) for name in hashes} != {SIZE}:
            raise WireError(f"expected three hashes and a seed of {SIZE} bytes, got others")
        if steps.dtype != np.int64 or steps.ndim != 1 or not len(steps) or not (steps[1:] > steps[:-1]).all():
            raise WireError("expected steps in ascending order, got others")
        run, data_root, key = fields["run"], fields["data"], fields["key"]
        return cls(run, data_root, key, tuple(steps.tolist()), fields["seed"], fields["receipt"])


@dataclass(frozen=True, eq=False)
class Answer:
    """Client to server. Only the types and dtypes are checked here; shapes are the verifier's to know.

    Attributes
    ----------
    start : uint8, shape (depth, 32)
        Path of checkpoint 0, which the server can compute itself.
    checkpoints, checkpoint_paths : uint8, shapes (c, size), (c, depth, 32)
        Those before and after every challenged step, in order, each once.
    bound, paths : uint8, shapes (r, size), (r, depth, 32)
        What binds the samples of all challenged steps, in order of their index, each once.
    labels : int64, shape (r,)
    claims : int64, shape (sum of batch sizes, outputs + k), or (sum of batch sizes, *sample_shape)
        Z1 and P of every challenged step, one step after the other; of a convolution the samples themselves.
    proofs : uint8, shape (steps, size)
        Of every step's claims; of size 0 where the server tests them by itself.
    positions, buffers : float32, float64, shapes (S + 1, k, projections), (S + 1, n)
        The trace that was committed to.
    """

    start: Bytes
    checkpoints: Bytes
    checkpoint_paths: Bytes
    bound: Bytes
    paths: Bytes
    labels: npt.NDArray[np.int64]
    claims: npt.NDArray[np.int64]
    proofs: Bytes
    positions: npt.NDArray[np.float32]
    buffers: npt.NDArray[np.float64]

    def to_bytes(self) -> bytes:
        return pack(ANSWER, {name: getattr(self, name) for name in _ANSWER})

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        fields: dict[str, Any] = unpack(data, ANSWER, dict.fromkeys(_ANSWER, np.ndarray))
        for name, array in fields.items():
            if array.dtype != _ANSWER[name]:
                raise WireError(f"{name}: expected {_ANSWER[name]}, got {array.dtype}")
        return cls(**fields)


_ANSWER = {
    "start": np.dtype(np.uint8),
    "checkpoints": np.dtype(np.uint8),
    "checkpoint_paths": np.dtype(np.uint8),
    "bound": np.dtype(np.uint8),
    "paths": np.dtype(np.uint8),
    "labels": np.dtype(np.int64),
    "claims": np.dtype(np.int64),
    "proofs": np.dtype(np.uint8),
    "positions": np.dtype(np.float32),
    "buffers": np.dtype(np.float64),
}
