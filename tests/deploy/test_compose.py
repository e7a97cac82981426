"""compose.yaml and its includes are valid, closed and consistent."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from compose_spec import PyCompose

from lookalike.server.config import load_config
from tests.deploy.render import DEPLOY, compose, copied

COMPOSE = DEPLOY / "compose"


def test_the_compose_file_is_valid() -> None:
    merged = PyCompose.from_yaml(yaml.safe_dump(compose(COMPOSE)))
    merged.validate_volumes()
    merged.validate_secrets()


def test_services_are_those_of_the_config() -> None:
    config = load_config(COMPOSE / "cluster/lookalike.yaml", environment={})
    services = compose(COMPOSE)["services"]
    shards = {
        config.shard_address(partition, replica).removesuffix(":7710")
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    }
    others = {"coordinator-0", "coordinator-1", "encoder", "prometheus", "grafana"}
    assert services.keys() == shards | others


def test_every_service_is_closed_and_watched() -> None:
    services = compose(COMPOSE)["services"]
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(other in services for other in service.get("depends_on", {})), name
    ports = [port.rpartition(":")[2] for service in services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["3000", "7700", "7780"]


def test_mounted_files_exist(tmp_path: Path) -> None:
    folder = copied(tmp_path) / "compose"
    subprocess.run([folder / "secrets.sh"], check=True)
    drawn = {file.name: file.read_bytes() for file in (folder / "secrets").iterdir()}
    assert drawn.keys() == {"cluster_secret", "grafana_password", "keys.json"}
    assert len(drawn["cluster_secret"]) >= 32
    merged = compose(folder)
    for name, service in merged["services"].items():
        for mount in service.get("volumes", []):
            assert mount["type"] == "volume" or Path(mount["source"]).exists(), (name, mount)
    assert all((folder / secret["file"]).exists() for secret in merged["secrets"].values())
    subprocess.run([folder / "secrets.sh"], check=True)
    again = {file.name: file.read_bytes() for file in (folder / "secrets").iterdir()}
    assert again == drawn, "secrets are drawn once"
