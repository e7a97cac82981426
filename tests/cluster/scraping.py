"""Owns what observability tests share: clusters with metrics enabled, and parsed scrapes of their metrics."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import ClusterConfig
from tests.conftest import Cluster

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def config_with_metrics(data: Path, partitions: int, replicas: int, **changes: Any) -> ClusterConfig:
    """An ephemeral config with metrics enabled, on ports next to those of the processes."""
    config = ephemeral_config(data, partitions, replicas=replicas)
    thousand, last = config.coordinator.listen.removeprefix("127.0.0.1:")[:2], config.coordinator.listen[-3]
    return config.model_copy(
        update={
            "shard": config.shard.model_copy(
                # Ports that the few replicas do not use.
                update={"metrics": f"127.0.0.1:{thousand}{{replica}}5{{partition}}"}
            ),
            "coordinator": config.coordinator.model_copy(update={"metrics": f"127.0.0.1:{thousand}{last}96"}),
            **changes,
        }
    )


@contextlib.contextmanager
def running(config: ClusterConfig, data: Path) -> Iterator[Cluster]:
    cluster = Cluster(config, data)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def scrape(address: str | None) -> Samples:
    """Every sample at a metrics address, by name and labels."""
    assert address is not None
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float:
    """The sum of the samples of this name that have these labels."""
    wanted = (labels or {}).items()
    found = [number for (known, own), number in samples.items() if known == name and wanted <= dict(own).items()]
    assert found, f"no sample of {name} with {labels}"
    return sum(found)
