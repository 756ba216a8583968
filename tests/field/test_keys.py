"""Certificates that TLS takes, and key pairs that ssh-keygen and Flower take."""

import datetime
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from apps.field.keys import CA, CERTIFICATE, KEY, certify, node_key


def handshake(server: Path, ca: Path, name: str) -> None:
    """One TLS connection over a socket pair."""
    serving, asking = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / CERTIFICATE, server / KEY)

    def serve() -> None:
        try:
            context.wrap_socket(serving, server_side=True).close()
        except (ssl.SSLError, OSError):
            serving.close()

    thread = threading.Thread(target=serve)
    thread.start()
    trusted = ssl.create_default_context(cafile=ca)
    trusted.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        trusted.wrap_socket(asking, server_hostname=name).close()
    finally:
        asking.close()
        thread.join()


def test_the_certificate_holds_for_its_names_and_no_others(tmp_path: Path) -> None:
    certify(tmp_path / "a", ["127.0.0.1", "superlink.example.org"])
    certify(tmp_path / "b", ["127.0.0.1"])
    for name in ("127.0.0.1", "superlink.example.org"):
        handshake(tmp_path / "a", tmp_path / "a" / CA, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path / "a", tmp_path / "a" / CA, "elsewhere.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(tmp_path / "a", tmp_path / "b" / CA, "127.0.0.1")
    assert (tmp_path / "a" / KEY).stat().st_mode & 0o077 == 0


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    certify(tmp_path, ["127.0.0.1"], datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, tmp_path / CA, "127.0.0.1")


def test_a_node_keeps_its_key(tmp_path: Path) -> None:
    path = node_key(tmp_path / "node")
    assert node_key(tmp_path / "node").read_bytes() == path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    load_ssh_public_key(path.with_suffix(".key.pub").read_bytes())
    try:
        told = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert told.split()[:2] == path.with_suffix(".key.pub").read_text().split()[:2]
