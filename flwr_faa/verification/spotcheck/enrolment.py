"""Enrolment, on the client's device: the data set bound once, before any model is known, and kept.

Every sample is committed to, or encrypted under the public key that an authority made for this node (``binding/``). A
Merkle root over that and the labels, signed by the device's own Ed25519 key, is what the client is bound to from then
on. It is kept on disk, under a hash of the data and of what they are bound under: the same data are never bound twice,
other data are another enrolment.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flwr_faa import private
from flwr_faa.authority import Registration
from flwr_faa.authority.information import Told, carried
from flwr_faa.authority.registration import MAX_SAMPLES
from flwr_faa.crypto.group import Group
from flwr_faa.verification.spotcheck import merkle
from flwr_faa.verification.spotcheck.binding.base import Bond
from flwr_faa.verification.spotcheck.binding.committed import CommittedBond
from flwr_faa.verification.spotcheck.binding.encrypted import EncryptedBond
from flwr_faa.verification.spotcheck.device import Device
from flwr_faa.verification.spotcheck.messages import Enrol, Enrolled
from flwr_faa.verification.training import Data
from flwr_faa.verification.wire import WireError

#: What a device can bind its data by, as requests to enrol name it.
BONDS: dict[str, Bond] = {"commitments": CommittedBond(), "encryption": EncryptedBond()}
#: Version of ``disclosed.sqlite``: 1 held plain hashes of samples, 2 counted functions.
_COUNTS = 3

logger = getLogger(__name__)


@dataclass(frozen=True)
class Enrolment:
    """A bound data set on disk."""

    path: Path
    bond: Bond
    group: str
    root: bytes
    samples: int
    width: int
    top: int

    def registration(self, device: Device) -> Registration:
        """Return what this device states of the enrolment, not signed."""
        own = device.identity().public_key().public_bytes_raw()
        return Registration(self.root, self.samples, self.width, self.top, own)

    def bound(self, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return what binds these samples, shape (len(rows), bytes)."""
        stored = np.load(self.path / "bound.npy", mmap_mode="r", allow_pickle=False)
        return np.array(stored[list(rows)])

    def tree(self) -> merkle.Tree:
        """Return the Merkle tree over all samples."""
        leaves = np.load(self.path / "leaves.npy", allow_pickle=False)
        return merkle.Tree([row.tobytes() for row in leaves])

    def spend(self, steps: Sequence[tuple[Sequence[int], Callable[[int], Told]]], budget: float) -> None:
        """Count what is about to be told of each step's samples, on disk, before it is told.

        A step is the rows of its batch, and what it tells if so many of them are different: equal samples are one
        unknown, of which the gradient says more.

        A key, one a step, opens its function of *every* sample under this public key, so it counts for all of them.
        What is counted is known of the sample itself, by its hash, whatever set it is enrolled in and whatever it is
        bound by: a server that has a node come back under another id has it start where it was.

        Raises
        ------
        WireError
            If that is more than the budget.
        """
        allowed, names = int(budget * self.width), self._names
        added = dict.fromkeys(names, 0)
        for rows, told in steps:
            different = {names[row] for row in rows}
            step = told(len(different))
            for name in added:
                added[name] += step.every * self.bond.tells_all + step.opened * (name in different)
        with self._counted() as (db, before):
            after = {name: before[name] + more for name, more in added.items()}
            entries = [(name, known, self.top) for name, known in after.items()]
            db.executemany("INSERT OR REPLACE INTO disclosed VALUES (?, ?, ?)", entries)
            most = min(self.width, max(after.values()))
            if most > allowed:  # raised inside, so nothing is counted
                raise WireError(
                    f"expected at most {allowed} of {self.width} dimensions of a sample to be told, got a request for "
                    f"{most}: refused (Device(budget={budget:g}))"
                )

    def spent(self) -> int:
        """Return the most dimensions told of any sample so far. Raises WireError as ``spend`` does."""
        if not self._counts.exists():
            return 0
        with self._counted() as (_, before):
            return min(self.width, max(before.values()))

    @property
    def _counts(self) -> Path:
        return self.path.parents[1] / "disclosed.sqlite"

    @property
    def _names(self) -> list[bytes]:
        return [name.tobytes() for name in np.load(self.path / "samples.npy", allow_pickle=False)]

    @contextmanager
    def _counted(self) -> Iterator[tuple[sqlite3.Connection, dict[bytes, int]]]:
        """Yield the device's counts, locked until this ends, and what they say of each sample of this set."""
        with closing(sqlite3.connect(private.file(self._counts), timeout=60)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != _COUNTS and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise WireError(f"disclosed.sqlite: expected version {_COUNTS}, got {version}, of another release")
            db.execute(f"PRAGMA user_version = {_COUNTS}")
            db.execute(
                "CREATE TABLE IF NOT EXISTS disclosed (sample BLOB PRIMARY KEY, known INTEGER NOT NULL, "
                "top INTEGER NOT NULL)"
            )
            stored = {name: (known, top) for name, known, top in db.execute("SELECT * FROM disclosed")}
            yield db, {name: carried(*stored.get(name, (0, self.top)), self.top) for name in self._names}


def enrol(device: Device, data: Data, request: bytes) -> bytes:
    """Answer a request to enrol: bind the data set, or find it bound, and sign its root."""
    asked = Enrol.from_bytes(request)
    if len(data[1]) > MAX_SAMPLES:
        raise WireError(f"expected at most {MAX_SAMPLES} samples on one device, got {len(data[1])}")
    try:
        group, parameters = BONDS[asked.binding].accept(device, asked, math.prod(data[0].shape[1:]))
    except (ValueError, ImportError) as error:
        raise WireError(f"expected parameters to bind data under: {error}") from error
    key = hashlib.sha256(parameters).digest()
    found = find(device, data, key) or _bind(device, data, asked.binding, group, parameters)
    device.serve(found.path)
    signed = found.registration(device).signed(device.identity(), asked.node_id, parameters)
    return Enrolled(signed, int(device.budget * found.width), found.spent()).to_bytes()


def find(device: Device, data: Data, key: bytes) -> Enrolment | None:
    """Return the enrolment of these data under the parameters with that SHA-256, if there is one."""
    path = _place(device, data, key)
    try:
        meta = json.loads((path / "meta.json").read_text())
        root, bond = bytes.fromhex(meta["root"]), BONDS[meta["binding"]]
        return Enrolment(path, bond, meta["group"], root, meta["samples"], meta["width"], meta["top"])
    except FileNotFoundError:
        return None


def sample_leaf(bound: npt.NDArray[np.uint8], label: int) -> bytes:
    """Return the Merkle leaf of a bound sample."""
    return merkle.leaf(int(label).to_bytes(8, "little", signed=True), bound.tobytes())


def _place(device: Device, data: Data, key: bytes) -> Path:
    samples, labels = data
    shape, values = repr((samples.shape, samples.dtype.str)).encode(), np.ascontiguousarray(samples).tobytes()
    return device.folder / "enrolments" / device.name(key, shape, values, labels.astype("<i8").tobytes()).hex()


def _bind(device: Device, data: Data, binding: str, group: Group, parameters: bytes) -> Enrolment:
    samples, labels = data
    if not len(samples):
        raise WireError("expected samples, got none")
    flat = samples.reshape(len(samples), -1).astype(np.int64)
    logger.warning("enrolment: binding %d samples of %d values once, by %s", *flat.shape, binding)
    try:
        rows = BONDS[binding].bind(device, group, parameters, flat)
    except ValueError as error:
        raise WireError(f"expected samples that can be bound: {error}") from error
    leaves = [sample_leaf(row, label) for row, label in zip(rows, labels.tolist(), strict=True)]
    root = merkle.Tree(leaves).root
    path = _place(device, data, hashlib.sha256(parameters).digest())
    private.folder(path.parent)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix="new-"))
    try:
        for name in ("bound.npy", "leaves.npy", "samples.npy", "meta.json"):
            private.file(building / name)
        np.save(building / "bound.npy", rows)
        np.save(building / "leaves.npy", np.frombuffer(b"".join(leaves), np.uint8).reshape(len(leaves), merkle.SIZE))
        hashes = [device.name(row.tobytes()) for row in flat]
        np.save(building / "samples.npy", np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), 16))
        shape = {"samples": len(flat), "width": flat.shape[1], "top": max(1, int(flat.max()))}
        meta = {"binding": binding, "group": group.name, "root": root.hex(), **shape}
        (building / "meta.json").write_text(json.dumps(meta))
        os.rename(building, path)  # whole or not at all
    except OSError:
        # Another process was first: its randomness counts, ours is forgotten.
        if not (path / "meta.json").exists():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    found = find(device, data, hashlib.sha256(parameters).digest())
    assert found is not None
    return found
