"""`lookalike health` says whether a process serves, in plain text and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lookalike.server.serving import LIVENESS
from tests.command import lookalike
from tests.conftest import Cluster


def ask(address: str, *options: str) -> tuple[int, str]:
    code, said, complaint = lookalike("health", "--address", address, *options)
    return code, (said + complaint).strip()


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """ca.crt, tls.crt and tls.key, as a Secret of kind kubernetes.io/tls has them."""
    authority = trustme.CA()
    certificate = authority.issue_cert("shard")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    return tmp_path


@pytest.fixture
def tls_server(pems: Path) -> Iterator[str]:
    """A server that requires client certificates, as shards do."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    ca, certificate, key = ((pems / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_every_process_of_a_cluster_is_healthy_and_alive(cluster: Cluster) -> None:
    for address in (cluster.address, cluster.config.shard_address(0)):
        assert ask(address) == (0, f"{address} is SERVING")
        assert ask(address, "--service", LIVENESS) == (0, f"{address} is SERVING")


def test_an_unreachable_server_is_one_clear_line() -> None:
    code, said = ask("127.0.0.1:1")
    assert code == 1
    assert said == "error: server: 127.0.0.1:1: nothing listens there; is the cluster up?"
    assert "\n" not in said


def test_over_tls_with_a_certificate(tls_server: str, pems: Path) -> None:
    trusted = ["--ca", str(pems / "ca.crt"), "--server-name", "shard"]
    shown = ["--certificate", str(pems / "tls.crt"), "--key", str(pems / "tls.key")]
    assert ask(tls_server, *trusted, *shown, "--service", LIVENESS) == (0, f"{tls_server} is SERVING")
    assert ask(tls_server, *trusted, *shown) == (1, f"error: {tls_server} is NOT_SERVING")
    assert ask(tls_server, *trusted)[0] == 1
    assert ask(tls_server)[0] == 1


def test_options_of_all_commands_and_their_environment_variables_apply(
    tls_server: str, pems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "ca": pems / "ca.crt",
        "server-name": "shard",
        "certificate": pems / "tls.crt",
        "private-key": pems / "tls.key",
    }
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    serving = (0, f"{tls_server} is SERVING\n", "")
    where = ("--server", tls_server, "--service", LIVENESS)
    assert lookalike(*options, "health", *where) == serving
    assert lookalike("health", *where, *options) == serving
    assert lookalike("--ca", "/no/such.pem", "health", *where, *options) == serving
    for name, value in given.items():
        monkeypatch.setenv(f"LOOKALIKE_{name.upper().replace('-', '_')}", str(value))
    assert lookalike("health", *where) == serving
    monkeypatch.setenv("LOOKALIKE_SERVER", tls_server)
    assert lookalike("health", "--service", LIVENESS) == serving


def test_half_a_certificate_is_refused() -> None:
    assert ask("127.0.0.1:1", "--key", "x.pem") == (
        1,
        "error: tls: certificate and key go together; give both files or neither",
    )
