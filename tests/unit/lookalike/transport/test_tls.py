"""TLS: the files of a server change while it runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from lookalike.files import watched
from lookalike.model.errors import InvalidRequest
from lookalike.transport.tls import ServerTls, Tls, channel_credentials

HOST = "localhost"


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "POLL_SECONDS", 0.0)


def write(folder: Path, authority: trustme.CA, *ends: str) -> int:
    """Replaces the certificate ("pem"), its key, or both. Returns the certificate's serial number."""
    issued = authority.issue_cert(HOST)
    blobs = {"pem": issued.cert_chain_pems[0], "key": issued.private_key_pem}
    for end in ends:
        blobs[end].write_to_path(str(folder / f"server.{end}"))
    return x509.load_pem_x509_certificate(blobs["pem"].bytes()).serial_number


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that a client is shown. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=HOST),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            step: Callable[[], None] = end.do_handshake
            try:
                step()
            except ssl.SSLWantReadError:
                continue
    certificate = ends[0].getpeercert()
    assert certificate
    return int(str(certificate["serialNumber"]), 16)


def test_web_server_presents_the_newest_matching_pair(tmp_path: Path) -> None:
    authority = trustme.CA()
    client = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    first = write(tmp_path, authority, "pem", "key")
    tls = ServerTls(tmp_path / "server.pem", tmp_path / "server.key")
    server = tls.web_context()
    assert handshake(server, client) == first
    second = write(tmp_path, authority, "pem", "key")
    assert handshake(server, client) == second
    third = write(tmp_path, authority, "pem", "key")
    tls.grpc_credentials()  # a client connects to the gRPC port, but none to the web port
    write(tmp_path, authority, "pem")
    assert handshake(server, client) == third
    fourth = write(tmp_path, authority, "pem", "key")
    assert handshake(server, client) == fourth


def test_web_server_trusts_the_newest_ca(tmp_path: Path) -> None:
    authority, old, new = (trustme.CA() for _ in range(3))
    write(tmp_path, authority, "pem", "key")
    old.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = ServerTls(tmp_path / "server.pem", tmp_path / "server.key", [tmp_path / "ca.pem"]).web_context()

    def opens(signer: trustme.CA) -> bool:
        client = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        signer.issue_cert("someone").configure_cert(client)
        try:
            handshake(server, client)
        except ssl.SSLError:
            return False
        return True

    assert opens(old)
    assert not opens(new)
    new.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert opens(new)
    assert not opens(old)


def test_unusable_client_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(InvalidRequest, match=f"tls: .*{name} cannot be used .*; give PEM files"):
            channel_credentials(Tls(ca=tmp_path / name))
