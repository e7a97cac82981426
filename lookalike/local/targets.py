"""Owns the list of addresses that Prometheus scrapes, in the form of its file-based service discovery: a group of
targets for each of the jobs shard, coordinator and encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from lookalike.model.errors import InvalidRequest
from lookalike.server.config import ClusterConfig

_EVERY_INTERFACE = ("0.0.0.0", "[::]", "::")


def file_sd(config: ClusterConfig, coordinators: Sequence[str] = ()) -> str:
    """Returns the targets of a cluster as JSON. Processes whose metrics are disabled are left out.

    A metrics address that binds every interface is scraped at the host where the process is called.

    Args:
        config: The cluster's config.
        coordinators: The coordinators' metrics addresses; the config's own if empty.

    Raises:
        InvalidRequest: If an address names no host that Prometheus can call.
    """
    jobs = {
        "shard": list(_shards(config)),
        "coordinator": list(coordinators) or list(_coordinators(config)),
        # Encoders of one process may share a metrics address.
        "encoder": list(dict.fromkeys(_encoders(config))),
    }
    for job, targets in jobs.items():
        for target in targets:
            if _host(target) in _EVERY_INTERFACE:
                raise InvalidRequest(f"{job}: {target!r} is every interface, not a host; {_REMEDIES[job]}")
    groups = [{"targets": targets, "labels": {"job": job}} for job, targets in jobs.items() if targets]
    return json.dumps(groups, indent=1) + "\n"


_REMEDIES = {
    "shard": "name hosts in the config's shard.address",
    "coordinator": "name each coordinator's metrics address with --coordinator HOST:PORT",
    "encoder": "name the host in the encoder's address in the config",
}


def _shards(config: ClusterConfig) -> Iterator[str]:
    for partition in range(config.partitions):
        for replica in range(config.replicas):
            metrics = config.shard_metrics(partition, replica)
            if metrics is not None:
                yield _called_at(metrics, config.shard_address(partition, replica))


def _coordinators(config: ClusterConfig) -> Iterator[str]:
    for process in range(config.coordinator.processes):
        metrics = config.coordinator.metrics_of(process)
        if metrics is not None:
            yield _called_at(metrics, config.coordinator.listen)


def _encoders(config: ClusterConfig) -> Iterator[str]:
    for encoder in config.all_encoders.values():
        if encoder.metrics is not None:
            yield _called_at(encoder.metrics, encoder.address)


def _called_at(metrics: str, address: str) -> str:
    """The metrics address, with the host of `address` in place of one that means every interface."""
    port = metrics.rpartition(":")[2]
    return f"{_host(address)}:{port}" if _host(metrics) in _EVERY_INTERFACE else metrics


def _host(address: str) -> str:
    return address.rpartition(":")[0]
