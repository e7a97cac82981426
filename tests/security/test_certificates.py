"""The certificates of `lookalike certificates` secure a real cluster."""

from __future__ import annotations

import itertools
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from lookalike import Client, Record, Tls
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig, SecurityConfig, TlsConfig, dump_config
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests.command import lookalike
from tests.conftest import Cluster, wait_until

FILES = ["ca.crt", "ca.key", "client-ca.crt", "client-ca.key", "client.crt", "client.key", "tls.crt", "tls.key"]


def make(folder: Path, config: ClusterConfig, *options: str) -> tuple[int, str, str]:
    file = folder.parent / "lookalike.yaml"
    file.write_text(dump_config(config))
    return lookalike("certificates", folder, "--config", file, *options)


def tls(folder: Path, name: str | None = "client") -> Tls:
    """What a client uses that presents the certificate with this name."""
    own = (None, None) if name is None else (folder / f"{name}.crt", folder / f"{name}.key")
    return Tls(folder / "ca.crt", *own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates") / "tls"


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[Cluster]:
    """A cluster that requires certificates of its clients, with the files as the command made them."""
    data = folder.parent / "data"
    config = ephemeral_config(data, partitions=2)
    code, said, complaint = make(folder, config)
    assert code == 0, complaint
    assert said == f"{folder}: tls.crt for 127.0.0.1; valid for 397 days\n"
    files = TlsConfig(
        certificate=folder / "tls.crt",
        key=folder / "tls.key",
        ca=folder / "ca.crt",
        client_ca=folder / "client-ca.crt",
    )
    config = config.model_copy(update={"security": SecurityConfig(tls=files)})
    cluster = Cluster(config, data)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_a_cluster_serves_clients_with_the_client_certificate(secured: Cluster, folder: Path) -> None:
    with Client(secured.address, timeout=30, tls=tls(folder)) as client:
        client.create_collection("c", bits=64)
        client.upsert([Record("a", code=bytes(8))], collection="c")
        assert [hit.key for hit in client.search(code=bytes(8), k=1, collection="c").hits] == ["a"]
    with Client(secured.address, timeout=2, tls=tls(folder, None)) as client, pytest.raises(LookalikeError):
        client.status()


def shard_answers(address: str, folder: Path, name: str) -> bool:
    ca, key, certificate = ((folder / file).read_bytes() for file in ("ca.crt", f"{name}.key", f"{name}.crt"))
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate)) as channel:
        try:
            ShardServiceStub(channel).ShardStatus(shard_pb2.ShardStatusRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return True


def test_a_client_certificate_opens_no_shard(secured: Cluster, folder: Path) -> None:
    address = secured.config.shard_address(0)
    assert shard_answers(address, folder, "tls")
    assert not shard_answers(address, folder, "client")


def test_renewed_certificates_are_used_without_a_restart(secured: Cluster, folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    old = presented(secured)
    assert make(folder, secured.config, "--renew", "--host", "search.example.org")[0] == 0
    changed = {name for name in FILES if (folder / name).read_bytes() != before[name]}
    assert changed == {"client.crt", "client.key", "tls.crt", "tls.key"}
    wait_until(lambda: presented(secured) != old, 20)
    assert "DNS:search.example.org" in presented(secured)
    with Client(secured.address, timeout=30, tls=tls(folder)) as client:
        assert client.status().partitions


def presented(cluster: Cluster) -> str:
    """The certificate that the coordinator presents, as text."""
    command = (
        f"openssl s_client -connect {cluster.address} -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -text"
    )
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30).stdout


def test_nothing_is_overwritten_and_keys_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    config = ephemeral_config(tmp_path / "data", 1)
    assert make(folder, config)[0] == 0
    assert sorted(file.name for file in folder.iterdir()) == FILES
    for file in folder.glob("*.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    contents = {file: file.read_bytes() for file in folder.iterdir()}
    code, _, complaint = make(folder, config)
    assert (code, "is not overwritten" in complaint) == (1, True)
    (folder / "ca.crt").unlink()
    assert make(folder, config)[0] == 1
    assert all(file.read_bytes() == content for file, content in contents.items() if file.exists())
    code, _, complaint = make(folder, config, "--renew")
    assert (code, "name the folder that `lookalike certificates` made" in complaint) == (1, True)


def test_openssl_verifies_every_host_of_the_config(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    config = ephemeral_config(tmp_path / "data", 2, replicas=2)
    shard = config.shard.model_copy(update={"address": "shard-r{replica}-{partition}.shard:7710"})
    coordinator = config.coordinator.model_copy(update={"listen": "0.0.0.0:7700", "web": "[::1]:7780"})
    config = config.model_copy(update={"shard": shard, "coordinator": coordinator})
    assert make(folder, config, "--host", "coordinator", "--host", "10.0.0.7")[0] == 0
    names = [f"shard-r{r}-{p}.shard" for r, p in itertools.product(range(2), range(2))]
    checks = [f"-verify_hostname {name}" for name in (*names, "coordinator")]
    checks += [f"-verify_ip {address}" for address in ("10.0.0.7", "::1")]
    for purpose, check in itertools.product(("sslserver", "sslclient"), checks):
        assert verifies(folder, "ca", "tls", f"-purpose {purpose} {check}")
    assert not verifies(folder, "ca", "tls", "-verify_hostname other")
    assert not verifies(folder, "ca", "tls", "-verify_ip 0.0.0.0")
    assert verifies(folder, "client-ca", "client", "-purpose sslclient")
    assert not verifies(folder, "client-ca", "client", "-purpose sslserver")
    assert not verifies(folder, "ca", "client", "")


def verifies(folder: Path, authority: str, certificate: str, options: str) -> bool:
    command = f"openssl verify -x509_strict {options} -CAfile {authority}.crt {certificate}.crt"
    return subprocess.run(command.split(), cwd=folder, capture_output=True, timeout=30).returncode == 0


def test_a_host_that_is_no_name_is_rejected(tmp_path: Path) -> None:
    code, _, complaint = make(tmp_path / "tls", ephemeral_config(tmp_path / "data", 1), "--host", "münchen")
    assert (code, complaint) == (1, "error: host: 'münchen' is not a host's name in ASCII; use its IDNA form\n")
    assert not (tmp_path / "tls").exists()
