"""TLS between clients, coordinators and shards: trust, client certificates, the cluster secret and renewal."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from lookalike import Client, Tls
from lookalike.model.errors import (
    DeadlineExceeded,
    LookalikeError,
    PartitionUnavailable,
)
from lookalike.server.security.authorizer import SECRET_KEY
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests.conftest import second_coordinator, wait_until
from tests.security.conftest import HOST, Certificates, SecuredCluster

pytestmark = pytest.mark.usefixtures("photos")

# The client retries an unanswered call until its deadline.
UNANSWERED = "does not answer|did not answer in time|closed the connection"


def shard_status(channel: grpc.Channel, secret: str | None = None) -> grpc.StatusCode:
    metadata = [(SECRET_KEY, secret)] if secret is not None else []
    try:
        ShardServiceStub(channel).ShardStatus(shard_pb2.ShardStatusRequest(), timeout=5, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_plaintext_on_a_tls_port_gets_no_answer(secured: SecuredCluster) -> None:
    for address in (secured.cluster.address, secured.cluster.config.shard_address(0)):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.settimeout(5)
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            received = plain.recv(1000)
        assert b"\x00\x00\x00\x04" not in received
    with (
        Client(secured.cluster.address, api_key=secured.keys["admin"], timeout=1) as client,
        pytest.raises((PartitionUnavailable, DeadlineExceeded), match=UNANSWERED),
    ):
        client.status()


def test_the_client_rejects_a_server_certificate_of_another_ca(secured: SecuredCluster, tmp_path: Path) -> None:
    stranger = Tls(ca=Certificates(tmp_path).ca)
    with (
        Client(secured.cluster.address, api_key=secured.keys["admin"], tls=stranger, timeout=1) as client,
        pytest.raises((PartitionUnavailable, DeadlineExceeded)),
    ):
        client.status()


def test_a_shard_requires_a_cluster_certificate_and_the_secret(secured: SecuredCluster, tmp_path: Path) -> None:
    address = secured.cluster.config.shard_address(0)
    inside = secured.certificates
    with secured.channel(address, inside) as channel:
        assert shard_status(channel, secured.secret) is grpc.StatusCode.OK
        assert shard_status(channel) is grpc.StatusCode.UNAUTHENTICATED
        assert shard_status(channel, "0" * 64) is grpc.StatusCode.UNAUTHENTICATED
    stranger = Certificates(tmp_path)
    stranger.issue("cluster")
    with secured.channel(address) as channel:
        assert shard_status(channel, secured.secret) is grpc.StatusCode.UNAVAILABLE
    with secured.channel(address, stranger) as channel:
        assert shard_status(channel, secured.secret) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(address) as channel:
        assert shard_status(channel, secured.secret) is grpc.StatusCode.UNAVAILABLE


def test_a_shard_rejects_an_expired_certificate(secured: SecuredCluster) -> None:
    secured.certificates.issue("expired", expires=timedelta(seconds=-1))
    with secured.channel(secured.cluster.config.shard_address(0), secured.certificates, "expired") as channel:
        assert shard_status(channel, secured.secret) is grpc.StatusCode.UNAVAILABLE


def test_a_shard_rejects_an_api_key(secured: SecuredCluster) -> None:
    with secured.channel(secured.cluster.config.shard_address(0), secured.certificates) as channel:
        call = ShardServiceStub(channel).ShardStatus
        with pytest.raises(grpc.RpcError) as rejected:
            call(
                shard_pb2.ShardStatusRequest(),
                timeout=5,
                metadata=[("authorization", f"Bearer {secured.keys['admin']}")],
            )
    assert rejected.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_client_certificates_are_required_if_a_client_ca_is_configured(
    secured: SecuredCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, strangers = Certificates(tmp_path), Certificates(tmp_path / "strangers")
    strangers.folder.mkdir()
    certificate, key = clients.issue("client", "someone")
    monkeypatch.setenv("LOOKALIKE__SECURITY__TLS__CLIENT_CA", str(clients.ca))
    inside = secured.certificates
    health = inside.folder / "cluster.pem", inside.folder / "cluster.key"
    with second_coordinator(secured.cluster, Tls(inside.ca, *health)) as address:
        for tls, opens in (
            (Tls(inside.ca, certificate, key), True),
            (Tls(inside.ca, *strangers.issue("client", "someone")), False),
            (Tls(inside.ca, *clients.issue("old", "someone", timedelta(seconds=-1))), False),
            (Tls(inside.ca), False),
        ):
            with Client(address, api_key=secured.keys["admin"], tls=tls, timeout=5 if opens else 1) as client:
                if opens:
                    assert client.status().partitions
                else:
                    with pytest.raises(LookalikeError, match=UNANSWERED):
                        client.status()


def test_a_certificate_is_renewed_without_a_restart(secured: SecuredCluster) -> None:
    def served(address: str) -> int:
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(secured.certificates.ca))
        folder = secured.certificates.folder
        context.load_cert_chain(folder / "cluster.pem", folder / "cluster.key")
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            certificate = secure.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)

    config = secured.cluster.config
    pids = [secured.cluster.pid(name) for name in ("coordinator", "shard-r0-0")]
    addresses = [secured.cluster.address, config.shard_address(0), config.shard_address(1, 1)]
    before = [served(address) for address in addresses]
    secured.certificates.issue("cluster")
    wait_until(lambda: all(served(a) != b for a, b in zip(addresses, before, strict=True)), 10)
    with secured.client() as client:
        assert client.search(code=bytes(8), k=1, collection="photos").coverage.complete
        # The cluster's own connections are reopened with the new certificate.
        secured.cluster.kill("shard-r0-1")
        wait_until(lambda: all(r.state == "serving" for p in client.status().partitions for r in p.replicas), 30)
    assert pids == [secured.cluster.pid(name) for name in ("coordinator", "shard-r0-0")]


def test_a_truncated_certificate_file_keeps_the_previous_certificate(secured: SecuredCluster) -> None:
    certificate = secured.certificates.folder / "cluster.pem"
    whole = certificate.read_bytes()
    certificate.write_bytes(whole[: len(whole) // 2])
    try:
        time.sleep(1.5)  # longer than the interval at which files are checked
        with secured.client() as client:
            assert client.status().partitions
    finally:
        certificate.write_bytes(whole)
