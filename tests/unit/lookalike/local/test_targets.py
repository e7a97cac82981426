"""What Prometheus is told to scrape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lookalike.local.targets import file_sd
from lookalike.model.errors import InvalidRequest
from lookalike.server.config import load_config

ROOT = Path(__file__).parents[4]


def jobs(path: Path, *coordinators: str) -> dict[str, list[str]]:
    groups = json.loads(file_sd(load_config(path, environment={}), coordinators))
    return {group["labels"]["job"]: group["targets"] for group in groups}


def test_each_process_of_the_local_cluster_is_a_target() -> None:
    found = jobs(ROOT / "deploy" / "local.yaml")
    assert found == {
        "shard": ["127.0.0.1:18000", "127.0.0.1:18001", "127.0.0.1:18002", "127.0.0.1:18003"],
        "coordinator": ["127.0.0.1:7781"],
        "encoder": ["127.0.0.1:7721"],
    }


def test_a_process_that_binds_every_interface_is_scraped_at_its_host() -> None:
    config = ROOT / "deploy" / "compose" / "cluster" / "lookalike.yaml"
    found = jobs(config, "one:7781", "two:7781")
    assert found["shard"][:3] == ["shard-r0-0:7711", "shard-r1-0:7711", "shard-r0-1:7711"]
    assert len(found["shard"]) == 8
    assert found["coordinator"] == ["one:7781", "two:7781"]
    assert found["encoder"] == ["encoder:7721"]
    with pytest.raises(InvalidRequest, match=r"coordinator: '0.0.0.0:7781' is every interface.*--coordinator"):
        jobs(config)


def test_each_coordinator_process_is_a_target(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text("coordinator: {processes: 3, listen: 'front:7700', metrics: '0.0.0.0:7781'}")
    assert jobs(file)["coordinator"] == ["front:7781", "front:7782", "front:7783"]


def test_processes_without_metrics_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "lookalike.yaml"
    file.write_text(
        "shard: {metrics: null}\n"
        "encoder: {metrics: '127.0.0.1:1'}\n"
        "encoders: {shoes: {address: 'h:2', metrics: '127.0.0.1:1'}}\n"
    )
    assert jobs(file) == {"coordinator": ["127.0.0.1:7781"], "encoder": ["127.0.0.1:1"]}
