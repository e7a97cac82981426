"""Several coordinator processes on one port of a cluster with TLS and API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike import Client, Tls
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import LookalikeError
from lookalike.server.config import SecurityConfig, TlsConfig
from lookalike.server.security.keys import KeyRing, save_keys
from tests.conftest import Cluster
from tests.security.conftest import Certificates


def test_several_processes_serve_only_callers_with_certificates_and_keys(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("cluster")
    ring, api_key = KeyRing().added("admin", {"*": "admin"}, None)
    save_keys(tmp_path / "keys.json", ring)
    served = TlsConfig(certificate=certificate, key=key, ca=certificates.ca, client_ca=certificates.ca)
    config = ephemeral_config(tmp_path / "data", 1)
    changes = {
        "coordinator": config.coordinator.model_copy(update={"processes": 2}),
        "security": SecurityConfig(tls=served, keys=tmp_path / "keys.json"),
    }
    cluster = Cluster(config.model_copy(update=changes), tmp_path / "data")
    try:
        cluster.start()
        own = Tls(ca=certificates.ca, certificate=certificate, key=key)
        with Client(cluster.address, timeout=20, api_key=api_key, tls=own) as client:
            client.create_collection("codes", bits=64)
            assert [each.name for each in client.list_collections()] == ["codes"]
        for tls, shown in ((Tls(ca=certificates.ca), api_key), (own, "wrong")):
            with (
                Client(cluster.address, timeout=3, api_key=shown, tls=tls) as client,
                pytest.raises(LookalikeError),
            ):
                client.list_collections()
    finally:
        cluster.stop()
