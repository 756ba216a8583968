"""The SuperLink's certificate with a CA of its own, and a SuperNode's key pair."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flwr_faa import private
from flwr_faa.authority.certificate import certificate, new_key, private_pem
from flwr_faa.authority.credential import write_secret

CA, CERTIFICATE, KEY, NODE = "ca.crt", "superlink.crt", "superlink.key", "node.key"


def certify(folder: Path, hosts: Sequence[str], until: datetime.datetime | None = None) -> None:
    """Write ``ca.crt``, ``superlink.crt`` and ``superlink.key``.

    The CA's own key is thrown away: it vouches for this one certificate, and nobody can steal it.

    Parameters
    ----------
    folder : Path
    hosts : sequence of str
        Names and addresses that SuperNodes reach the SuperLink by.
    until : datetime, optional
        When the certificate expires; in ten years.
    """
    private.folder(folder)
    ca_key, key, ca = new_key(), new_key(), "federation CA"
    root = certificate(ca, ca_key.public_key(), ca, ca_key, ca=True, until=until)
    leaf = certificate("superlink", key.public_key(), ca, ca_key, ca=False, hosts=hosts, until=until)
    write_secret(folder / KEY, private_pem(key))
    private.file(folder / CA).write_bytes(root)
    private.file(folder / CERTIFICATE).write_bytes(leaf)


def node_key(folder: Path) -> Path:
    """Make a SuperNode's key pair, as ``ssh-keygen -t ecdsa -b 384`` makes it, ``node.key`` and ``node.key.pub``."""
    path = folder / NODE
    if not path.exists():
        private.folder(folder)
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        private.file(path.with_suffix(".key.pub")).write_bytes(public + b"\n")
        write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path
