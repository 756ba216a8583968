"""A client's device: its identity, its secrets, its folder, and how much it tells."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa import expected, private
from flwr_faa.authority import BUDGET
from flwr_faa.errors import ArgumentValueError
from flwr_faa.verification.training import Data

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
        counts for itself, and refuses.
    authority : bytes, optional
        The Ed25519 key of an authority, pinned. Data are encrypted only under a public key that it signed for this
        node. Without one they are never encrypted, only committed to: a server could hand out a key of its own and
        read everything.
    progress : callable
        Called with the samples encrypted so far and their number; logs by default.

    Examples
    --------
    >>> device = Device("device", authority=bytes(32))
    >>> device.checkpoints.parts
    ('device', 'checkpoints')
    >>> Device("device", budget=2.0)
    Traceback (most recent call last):
    flwr_faa.errors.ArgumentValueError: expected budget to be a finite number above 0 and at most 1, got 2.0
    """

    folder: Path = field(default_factory=_home)
    budget: float = BUDGET
    authority: bytes | None = None
    progress: Callable[[int, int], None] = _log

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", expected.folder("folder", self.folder))
        expected.number("budget", self.budget, above=0, most=1)
        if self.authority is not None and (not isinstance(self.authority, bytes) or len(self.authority) != 32):
            raise ArgumentValueError(
                f"expected the authority's key as 32 bytes or None, got {self.authority!r}: bytes.fromhex() reads what "
                "'faa-authority init' printed"
            )
        expected.function("progress", self.progress, "(samples done, samples in all)")

    @property
    def checkpoints(self) -> Path:
        """Where committed runs wait to be opened."""
        return self.folder / "checkpoints"

    def identity(self) -> Ed25519PrivateKey:
        """Return the device's signing key, made when first needed."""
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

    def secret(self, purpose: bytes) -> bytes:
        """Return a secret of this device for one purpose, 64 bytes, which comes back after a restart."""
        return hashlib.blake2b(self.identity().private_bytes_raw(), person=purpose).digest()

    def name(self, *parts: bytes) -> bytes:
        """Return a name for data, 16 bytes, by which only this device's secret can recognise them."""
        digest = hashlib.blake2b(key=self.secret(b"faa/names"), digest_size=16)
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
        """Return whether that is the enrolment which this folder answers for."""
        return self._current.exists() and self._current.read_text() == enrolment.name
