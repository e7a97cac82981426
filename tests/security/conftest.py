"""A cluster with all security features on: TLS between all parts, a cluster secret, API keys. No encoder."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from lookalike import Client, Record, Tls
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import Unauthenticated
from lookalike.server.config import SecurityConfig, TlsConfig
from lookalike.server.security.keys import KeyRing, save_keys
from tests.conftest import Cluster

HOST = "127.0.0.1"
BITS = 64


@dataclasses.dataclass(frozen=True)
class Certificates:
    """A CA and the certificates that it signs, as PEM files in a folder."""

    folder: Path
    authority: trustme.CA = dataclasses.field(default_factory=trustme.CA)

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(path))
        return path

    def issue(self, name: str, host: str = HOST, expires: timedelta = timedelta(days=1)) -> tuple[Path, Path]:
        """Writes a certificate and its key, replacing those with this name."""
        issued = self.authority.issue_cert(host, not_after=datetime.now(UTC) + expires)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        fresh = self.folder / "fresh"
        for path, blob in ((key, issued.private_key_pem), (certificate, issued.cert_chain_pems[0])):
            blob.write_to_path(str(fresh))
            fresh.replace(path)
        return certificate, key


@dataclasses.dataclass(frozen=True)
class SecuredCluster:
    """The cluster, its CA, and an API key per role."""

    cluster: Cluster
    certificates: Certificates
    keys_file: Path
    keys: dict[str, str]
    secret: str

    @property
    def tls(self) -> Tls:
        return Tls(ca=self.certificates.ca)

    def client(self, role: str = "admin", timeout: float = 20) -> Client:
        return Client(self.cluster.address, timeout=timeout, api_key=self.keys[role], tls=self.tls)

    def channel(
        self, address: str, certificates: Certificates | None = None, name: str = "cluster"
    ) -> grpc.Channel:
        """Opens a channel that trusts the cluster and presents the certificate with this name, if any."""
        key = certificate = None
        if certificates is not None:
            certificate, key = ((certificates.folder / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
        credentials = grpc.ssl_channel_credentials(self.certificates.ca.read_bytes(), key, certificate)
        return grpc.secure_channel(address, credentials)

    def accepts(self, key: str) -> bool:
        """Returns whether the coordinator accepts this API key now."""
        with Client(self.cluster.address, timeout=20, api_key=key, tls=self.tls) as client:
            try:
                client.list_collections()
            except Unauthenticated:
                return False
        return True


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    folder = tmp_path_factory.mktemp("secured")
    certificates = Certificates(folder)
    certificate, key = certificates.issue("cluster")
    secret_file, keys_file = folder / "secret", folder / "keys.json"
    secret_file.write_text(secrets.token_hex(32))
    ring, keys = KeyRing(), {}
    for name, grants in {
        "search": {"photos": "search"},
        "write": {"photos": "write"},
        "admin": {"*": "admin"},
        "other": {"others": "admin"},
    }.items():
        ring, keys[name] = ring.added(name, grants, None)  # type: ignore[arg-type]
    save_keys(keys_file, ring)
    config = ephemeral_config(folder / "data", partitions=2, replicas=2).model_copy(
        update={
            "security": SecurityConfig(
                tls=TlsConfig(certificate=certificate, key=key, ca=certificates.ca),
                keys=keys_file,
                cluster_secret=secret_file,
            )
        }
    )
    cluster = Cluster(config, folder / "data")
    try:
        cluster.start()
        yield SecuredCluster(cluster, certificates, keys_file, keys, secret_file.read_text())
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def photos(secured: SecuredCluster) -> None:
    """Two collections, "photos" and "others", with two records each."""
    with secured.client() as client:
        for name in ("photos", "others"):
            client.create_collection(name, bits=BITS)
            client.upsert([Record("a", code=bytes(8)), Record("b", code=b"\xff" * 8)], collection=name)
