"""TLS certificates of one's own, for an authority or a SuperLink that no public CA knows."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
#: What checks it has it pinned: it is replaced on purpose, not by the calendar.
LIFETIME = 10 * 365 * DAY


def certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    hosts: Sequence[str] = (),
    until: datetime.datetime | None = None,
) -> bytes:
    """Return a certificate, PEM.

    Parameters
    ----------
    name, issuer : str
        Common names; the same for one that signs itself.
    key, issuer_key : EC keys
    ca : bool
        Whether it may sign others, which may not.
    hosts : sequence of str
        Names and addresses of the TLS server that it is for, if it is for one.
    until : datetime, optional
        When it expires; in ten years.
    """
    now = datetime.datetime.now(datetime.UTC)
    end = until or now + LIFETIME
    usage = x509.KeyUsage(
        digital_signature=bool(hosts),
        key_cert_sign=ca,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - DAY)  # clocks differ
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys(hosts)])
        made = made.add_extension(names, critical=False)
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a key that TLS libraries of all ages take."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key, PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def self_signed(hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a TLS key and a certificate for these names and addresses, PEM."""
    key, name = new_key(), "faa-authority"
    return private_pem(key), certificate(name, key.public_key(), name, key, ca=True, hosts=hosts)


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of the first certificate of a PEM file, as browsers show it."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex(":").upper()


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
