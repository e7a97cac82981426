"""An address that is not a coordinator's gRPC port is an error that says what it is instead."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme

from tests.command import lookalike
from tests.conftest import Cluster

COMMANDS = ("status", "health")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def tls_port(authority: trustme.CA) -> Iterator[str]:
    """A gRPC server with TLS."""
    issued = authority.issue_cert("127.0.0.1")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def https_port(authority: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def complaint(command: str, address: str, *before: object) -> str:
    code, said, error = lookalike(*before, command, "--server", address, "--timeout", 5)
    assert (code, said) == (1, "")
    assert error.startswith(f"error: server: {address}: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_host(command: str) -> None:
    assert "its host name is unknown" in complaint(command, "no-such-host.invalid:7700")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_port_that_nothing_listens_on(command: str) -> None:
    assert "nothing listens there; is the cluster up?" in complaint(command, "127.0.0.1:1")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tls_port_in_plain_text(command: str, tls_port: str, https_port: str) -> None:
    for address in (tls_port, https_port):
        assert "a TLS port does so if the client does not use TLS" in complaint(command, address)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plain_port_over_tls(command: str, cluster: Cluster, ca: Path) -> None:
    assert "it does not use TLS" in complaint(command, cluster.address, "--ca", ca)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_with_a_certificate_of_another_authority(command: str, tls_port: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert "do not agree on TLS" in complaint(command, tls_port, "--ca", other)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_web_port(command: str, cluster: Cluster, https_port: str, ca: Path) -> None:
    assert "it is a web port" in complaint(command, cluster.config.coordinator.web)
    assert "it is a web port" in complaint(command, https_port, "--ca", ca)
