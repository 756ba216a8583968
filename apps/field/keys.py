"""The SuperLink's certificate with a CA of its own, and a SuperNode's key pair."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from flwr_faa.authority.credential import write_secret

CA, CERTIFICATE, KEY, NODE = "ca.crt", "superlink.crt", "superlink.key", "node.key"
YEARS = 10
DAY = datetime.timedelta(days=1)


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
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    end = until or now + 365 * YEARS * DAY
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federation CA")])

    def certificate(name: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - DAY)  # clocks differ
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .add_extension(_usage(ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority, critical=False)
        )

    root = certificate(issuer, ca_key.public_key(), ca=True)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")])
    names = x509.SubjectAlternativeName([_name(host) for host in dict.fromkeys(hosts)])
    leaf = certificate(name, key.public_key(), ca=False).add_extension(names, critical=False)
    write_secret(folder / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / CA).write_bytes(root.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / CERTIFICATE).write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))


def node_key(folder: Path) -> Path:
    """A SuperNode's key pair, as ``ssh-keygen -t ecdsa -b 384`` makes it, ``node.key`` and ``node.key.pub``."""
    path = folder / NODE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        path.with_suffix(".key.pub").write_bytes(public + b"\n")
        write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
