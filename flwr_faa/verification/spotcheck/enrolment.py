"""Enrolment, on the client's device: the data set encrypted once, before any model is known, and kept.

Every sample is encrypted in all its coordinates under the public key that the authority made for this node. A Merkle
root over ciphertexts and labels, signed by the device's own Ed25519 key, is what the client is bound to from then on.
The ciphertexts are kept on disk, under a hash of data and public key: the same data are never encrypted twice, other
data are another enrolment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from logging import getLogger
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa import expected, private
from flwr_faa.authority import BUDGET, Registration, SignedPublicKey
from flwr_faa.authority.information import Told, carried
from flwr_faa.authority.registration import MAX_SAMPLES, holds
from flwr_faa.crypto import backends, groups, ipfe
from flwr_faa.verification.plan import Data
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.messages import ENROLLED, Enrol
from flwr_faa.verification.wire import WireError, pack

#: Samples encrypted at a time: enough for the window tables to pay.
_CHUNK = 100
#: Version of ``disclosed.sqlite``: 1 held plain hashes of samples, 2 counted functions.
_COUNTS = 3

logger = getLogger(__name__)


def _home() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "flwr-faa"


def own_device(data: Data) -> Device:
    """Return the device of a client that names none: in the user's data folder, or in a simulation in a temporary one.

    Simulated clients share a machine and leave nothing behind for the next simulation. So each has a folder for its
    data, below one for Ray's session, which all of Ray's processes know.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return Device()
    session = f"flwr-faa-{os.getuid()}-{ray.get_runtime_context().get_node_id()}"
    parts = hashlib.blake2b(digest_size=16)
    for array in data:
        parts.update(repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes())
    return Device(Path(tempfile.gettempdir()) / session / parts.hexdigest())


def _log(done: int, total: int) -> None:
    logger.info("enrolment: %d of %d samples encrypted", done, total)


@dataclass(frozen=True)
class Device:
    """What a client keeps between rounds and restarts.

    Parameters
    ----------
    folder : path
        Its identity key, enrolments and checkpoints, for its owner's eyes only. One client's alone: the node that
        enrols last from a folder is answered for, every other is refused. Clients on one machine need a folder each.
    budget : float
        Share of a sample's dimensions that this client discloses of it at most, whatever it is asked. The client
        counts for itself: the authority counts keys, and a curious server need not ask for any.
    authority : bytes, optional
        The authority's Ed25519 key, pinned: only a public key that it signed for this node is encrypted under. Without
        it this client believes the server, which could then hand out a key of its own and read everything.
    progress : callable
        Called with the samples encrypted so far and their number; logs by default.
    """

    folder: Path = field(default_factory=_home)
    budget: float = BUDGET
    authority: bytes | None = None
    progress: Callable[[int, int], None] = _log

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", expected.folder("folder", self.folder))
        expected.number("budget", self.budget, above=0, most=1)
        if self.authority is not None and (not isinstance(self.authority, bytes) or len(self.authority) != 32):
            raise ValueError(
                f"expected the authority's key as 32 bytes or None, got {self.authority!r}: bytes.fromhex() reads what "
                "'faa-authority init' printed"
            )
        expected.function("progress", self.progress, "(samples done, samples in all)")

    @property
    def checkpoints(self) -> Path:
        """Where committed runs wait to be opened."""
        return self.folder / "checkpoints"

    def identity(self) -> Ed25519PrivateKey:
        """The device's signing key, made when first needed."""
        path = self.folder / "identity.key"
        if not path.exists():
            private.folder(self.folder)
            descriptor, name = tempfile.mkstemp(dir=self.folder)  # readable by its owner alone
            with os.fdopen(descriptor, "wb") as file:
                file.write(Ed25519PrivateKey.generate().private_bytes_raw())
            try:
                os.link(name, path)  # fails if another process was first: then that key counts
            except FileExistsError:
                pass
            finally:
                os.unlink(name)
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())

    def name(self, *parts: bytes) -> bytes:
        """A name of data under which nobody without this device's secret recognises them, 16 bytes."""
        secret = hashlib.blake2b(self.identity().private_bytes_raw(), person=b"faa/names").digest()
        digest = hashlib.blake2b(key=secret, digest_size=16)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    @property
    def _current(self) -> Path:
        return self.folder / "enrolled"

    def serve(self, enrolment: Path) -> None:
        """Answer for this enrolment from now on, and for no other."""
        descriptor, name = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(descriptor, "w") as file:
            file.write(enrolment.name)
        os.replace(name, self._current)

    def serves(self, enrolment: Path) -> bool:
        """Whether that is the enrolment which this folder answers for."""
        return self._current.exists() and self._current.read_text() == enrolment.name


@dataclass(frozen=True)
class Enrolment:
    """An encrypted data set on disk."""

    path: Path
    group: str
    root: bytes
    samples: int
    width: int
    top: int

    def ciphertexts(self, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Encoded ciphertexts of these samples, shape (len(rows), bytes)."""
        stored = np.load(self.path / "ciphertexts.npy", mmap_mode="r", allow_pickle=False)
        return np.array(stored[list(rows)])

    def check_receipt(self, device: Device, key: bytes, receipt: bytes) -> None:
        """Make sure that the pinned authority has registered this set under this device's own key.

        Raises
        ------
        WireError
            Nothing must leave the device: keys for its ciphertexts may be counted for somebody else.
        """
        own = device.identity().public_key().public_bytes_raw()
        message = Registration(self.root, self.samples, self.width, self.top, own).receipt(key)
        if device.authority is not None and not holds(device.authority, receipt, message):
            raise WireError("expected the authority's receipt for this device's data, got another: refused")

    def tree(self) -> merkle.Tree:
        """The Merkle tree over all samples."""
        leaves = np.load(self.path / "leaves.npy", allow_pickle=False)
        return merkle.Tree([row.tobytes() for row in leaves])

    def spend(self, steps: Sequence[tuple[Sequence[int], Callable[[int], Told]]], budget: float) -> None:
        """Count what is about to be told of each step's samples, on disk, before it is told.

        A step is the rows of its batch, and what it tells if so many of them are different: equal samples are one
        unknown, of which the gradient says more.

        A key, one a step, opens its function of *every* sample under this public key, so it counts for all of them.
        What is counted is known of the sample itself, by its hash, whatever set and public key it is enrolled in: a
        server that has a node come back under another id has it start where it was.

        Raises
        ------
        WireError
            If that is more than the budget.
        """
        allowed = int(budget * self.width)
        names = [name.tobytes() for name in np.load(self.path / "samples.npy", allow_pickle=False)]
        added = dict.fromkeys(names, 0)
        for rows, told in steps:
            different = {names[row] for row in rows}
            step = told(len(different))
            for name in added:
                added[name] += step.every + step.opened * (name in different)
        path = private.file(self.path.parents[1] / "disclosed.sqlite")
        with closing(sqlite3.connect(path, timeout=60)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != _COUNTS and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise WireError(f"disclosed.sqlite: expected version {_COUNTS}, got {version}, of another release")
            db.execute(f"PRAGMA user_version = {_COUNTS}")
            db.execute(
                "CREATE TABLE IF NOT EXISTS disclosed (sample BLOB PRIMARY KEY, known INTEGER NOT NULL, "
                "top INTEGER NOT NULL)"
            )
            before = {name: (known, top) for name, known, top in db.execute("SELECT * FROM disclosed")}
            after = {n: carried(*before.get(n, (0, self.top)), self.top) + more for n, more in added.items()}
            entries = [(name, known, self.top) for name, known in after.items()]
            db.executemany("INSERT OR REPLACE INTO disclosed VALUES (?, ?, ?)", entries)
            most = min(self.width, max(after.values()))
            if most > allowed:  # raised inside, so nothing is counted
                raise WireError(
                    f"expected at most {allowed} of {self.width} dimensions of a sample to be told, got a request for "
                    f"{most}: refused (Device(budget={budget:g}))"
                )


def enrol(device: Device, data: Data, request: bytes) -> bytes:
    """Answer an ``enrol`` request: encrypt the data set, or find it encrypted, and sign its root."""
    asked = Enrol.from_bytes(request)
    if len(data[1]) > MAX_SAMPLES:
        raise WireError(f"expected at most {MAX_SAMPLES} samples on one device, got {len(data[1])}")
    try:
        signed_key = SignedPublicKey.from_bytes(asked.public_key)
        group = backends.open_group(asked.group)
        if device.authority is None:
            public = ipfe.PublicKey.from_bytes(group, signed_key.public)
        else:
            public = signed_key.verify(device.authority, asked.node_id, group, int(np.prod(data[0].shape[1:])))
    except (ValueError, ImportError) as error:
        raise WireError(f"expected a public key to encrypt under: {error}") from error
    encoded = signed_key.public
    found = find(device, data, hashlib.sha256(encoded).digest()) or _encrypt(device, data, public, encoded)
    device.serve(found.path)
    unsigned = Registration(found.root, found.samples, found.width, found.top, b"")
    return pack(ENROLLED, asdict(unsigned.signed(device.identity(), asked.node_id, encoded)))


def find(device: Device, data: Data, key: bytes) -> Enrolment | None:
    """The enrolment of these data under the public key with that SHA-256, if there is one."""
    path = _place(device, data, key)
    try:
        meta = json.loads((path / "meta.json").read_text())
        return Enrolment(path, meta["group"], bytes.fromhex(meta["root"]), meta["samples"], meta["width"], meta["top"])
    except FileNotFoundError:
        return None


def sample_leaf(ciphertext: npt.NDArray[np.uint8], label: int) -> bytes:
    """Merkle leaf of an encrypted sample."""
    return merkle.leaf(int(label).to_bytes(8, "little", signed=True), ciphertext.tobytes())


def _place(device: Device, data: Data, key: bytes) -> Path:
    samples, labels = data
    shape, values = repr((samples.shape, samples.dtype.str)).encode(), np.ascontiguousarray(samples).tobytes()
    return device.folder / "enrolments" / device.name(key, shape, values, labels.astype("<i8").tobytes()).hex()


def _encrypt(device: Device, data: Data, public: ipfe.PublicKey, encoded: bytes) -> Enrolment:
    samples, labels = data
    flat = samples.reshape(len(samples), -1).astype(np.int64)
    if flat.shape[1] != public.n or not len(flat):
        raise WireError(f"expected a public key for {flat.shape[1]} values, got one for {public.n}")
    group, rows = public.group, []
    logger.warning("enrolment: encrypting %d samples of %d values once", *flat.shape)
    for start in range(0, len(flat), _CHUNK):
        for ciphertext in ipfe.encrypt_rows(public, flat[start : start + _CHUNK]):
            rows.append(np.frombuffer(groups.encode(group, ciphertext.points), np.uint8))
        device.progress(min(start + _CHUNK, len(flat)), len(flat))
    leaves = [sample_leaf(row, label) for row, label in zip(rows, labels.tolist(), strict=True)]
    root = merkle.Tree(leaves).root
    path = _place(device, data, hashlib.sha256(encoded).digest())
    private.folder(path.parent)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix="new-"))
    try:
        for name in ("ciphertexts.npy", "leaves.npy", "samples.npy", "meta.json"):
            private.file(building / name)
        np.save(building / "ciphertexts.npy", np.stack(rows))
        np.save(building / "leaves.npy", np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, merkle.SIZE))
        hashes = [device.name(row.tobytes()) for row in flat]
        np.save(building / "samples.npy", np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 16))
        shape = {"samples": len(flat), "width": public.n, "top": max(1, int(flat.max()))}
        meta = {"group": group.name, "root": root.hex(), **shape}
        (building / "meta.json").write_text(json.dumps(meta))
        os.rename(building, path)  # whole or not at all
    except OSError:
        # Another process was first: its randomness counts, ours is forgotten.
        if not (path / "meta.json").exists():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    found = find(device, data, hashlib.sha256(encoded).digest())
    assert found is not None
    return found
