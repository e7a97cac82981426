"""Keys, their hashes and the cluster secret never appear in logs or in a status."""

from __future__ import annotations

import socket
import ssl

import pytest

from lookalike.model.errors import (
    NotFound,
)
from lookalike.server.security.keys import load_keys
from tests.security.conftest import HOST, SecuredCluster

pytestmark = pytest.mark.usefixtures("photos")


def list_collections_with_header(secured: SecuredCluster, value: bytes) -> bytes:
    """Returns the coordinator's raw response to a call with this authorization header, which gRPC clients may
    refuse to send. Writes HTTP/2 by hand: RFC 9113 for frames, RFC 7541 for headers."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    headers = {
        b":method": b"POST", b":scheme": b"https", b":authority": HOST.encode(), b"te": b"trailers",
        b":path": b"/lookalike.v1.SearchService/ListCollections", b"content-type": b"application/grpc",
        b"authorization": value,
    }  # fmt: skip
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(text)]) + text for name, text in headers.items())
    context = ssl.create_default_context(cafile=str(secured.certificates.ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = secured.cluster.address.rpartition(":")
    answer = b""
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
        secure.sendall(frame(0, 1, 1, bytes(5)))
        while b"grpc-status" not in answer:
            received = secure.recv(4096)
            assert received, answer
            answer += received
    return answer


def test_secrets_do_not_appear_in_logs_or_status(secured: SecuredCluster) -> None:
    mistyped = f"Bearer {secured.keys['search']}".encode() + b"\xff"
    assert b"Unauthenticated" in list_collections_with_header(secured, mistyped)
    with secured.client() as client:
        status = repr(client.status())
        with pytest.raises(NotFound):
            client.get_collection("none")
    logs = [path.read_text() for path in (secured.cluster.data / "logs").glob("*.log")]
    assert len(logs) == 5
    assert any("NotFound" in log for log in logs)
    stored = [*load_keys(secured.keys_file).keys.values()]
    hashes = [secret.sha256 for key in stored for secret in key.secrets]
    for hidden in (secured.secret, *secured.keys.values(), *hashes):
        assert hidden not in status
        assert not any(hidden in log for log in logs)
