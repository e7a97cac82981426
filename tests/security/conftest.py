"""A cluster with every lock on: TLS between all parts, a cluster secret, API keys. No encoder."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from lookalike import Client, Tls
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import Unauthenticated
from lookalike.server.config import SecurityConfig, TlsConfig
from lookalike.server.security.keys import KeyRing, save_keys
from tests.conftest import Cluster

HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Certificates:
    """What one CA signs, as PEM files in a folder."""

    folder: Path
    authority: trustme.CA = dataclasses.field(default_factory=trustme.CA)

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(path))
        return path

    def issue(self, name: str, host: str = HOST, expires: timedelta = timedelta(days=1)) -> tuple[Path, Path]:
        """A certificate and its key, which replace those of that name."""
        issued = self.authority.issue_cert(host, not_after=datetime.now(UTC) + expires)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        fresh = self.folder / "fresh"
        for path, blob in ((key, issued.private_key_pem), (certificate, issued.cert_chain_pems[0])):
            blob.write_to_path(str(fresh))
            fresh.replace(path)
        return certificate, key


@dataclasses.dataclass(frozen=True)
class Locked:
    """The cluster, what signs its certificates, and a key for each role."""

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

    def knows(self, key: str) -> bool:
        """Whether the coordinator lets this key in by now."""
        with Client(self.cluster.address, timeout=20, api_key=key, tls=self.tls) as client:
            try:
                client.list_collections()
            except Unauthenticated:
                return False
        return True


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
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
        yield Locked(cluster, certificates, keys_file, keys, secret_file.read_text())
    finally:
        cluster.stop()
