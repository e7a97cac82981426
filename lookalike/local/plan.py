"""Owns which processes a config asks for, and which changes of the config a running cluster can apply."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lookalike.local.folder import DataFolder
from lookalike.local.process import Process, ShardId
from lookalike.model.errors import CannotStart
from lookalike.server.config import ClusterConfig

_NEED_RESTART = ("cluster", "coordinator", "encoder", "encoders", "shard.address", "security", "limits")


def planned(config: ClusterConfig, folder: DataFolder) -> list[Process]:
    """The processes of the config, and the shards of removed partitions that may still hold records."""
    processes = [
        _shard(config, ShardId(partition, replica))
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    ]
    leaving = folder.partitions_with_data() - set(range(config.partitions))
    processes += _leaving(config, folder, leaving)
    processes += _encoders(config)
    return [*processes, *_coordinators(config, folder)]


def _coordinators(config: ClusterConfig, folder: DataFolder) -> Iterator[Process]:
    """The processes that share the coordinator's ports. If there are several, each has a socket of its own,
    because any of them may answer a health check at the port."""
    coordinator = config.coordinator
    for number in range(coordinator.processes):
        name = f"coordinator-{number}" if number else "coordinator"
        process = Process(name, ["coordinator"], coordinator.listen, coordinator.metrics_of(number))
        if coordinator.processes > 1:
            socket = folder.socket_file(name)
            process.arguments += ["--process", str(number), "--socket", str(socket)]
            process.own_address = f"unix:{socket}"
        yield process


def _encoders(config: ClusterConfig) -> Iterator[Process]:
    """A process for all encoders; if they use several Ray clusters, one for each."""
    by_ray: dict[str | None, list[str]] = {}
    for name, encoder in config.all_encoders.items():
        by_ray.setdefault(encoder.ray_address, []).append(name)
    for names in by_ray.values():
        options = [] if len(by_ray) == 1 else [option for name in names for option in ("--name", name)]
        first, *others = (config.all_encoders[name] for name in names)
        metrics = {encoder.metrics for encoder in others if encoder.metrics} - {first.metrics}
        yield Process(
            "encoder" if len(by_ray) == 1 else f"encoder-{names[0]}",
            ["encoder", *options],
            first.address,
            first.metrics,
            also_serves=[encoder.address for encoder in others],
            also_listens=sorted(metrics),
        )


def _leaving(config: ClusterConfig, folder: DataFolder, partitions: Collection[int]) -> Iterator[Process]:
    """The shards of removed partitions that may hold records. A removed partition runs all replicas that the
    config asks for, even new ones, because a slot counts as moved only when all replicas confirm it."""
    for partition in sorted(partitions):
        for replica in range(config.replicas):
            if not folder.is_empty(partition, replica):
                yield _shard(config, ShardId(partition, replica), is_leaving=True)


def _shard(config: ClusterConfig, shard: ShardId, is_leaving: bool = False) -> Process:
    return Process(
        f"shard-r{shard.replica}-{shard.partition}",
        ["shard", "--partition", str(shard.partition), "--replica", str(shard.replica)],
        config.shard_address(*shard),
        config.shard_metrics(*shard),
        shard,
        is_leaving,
    )


def check_change(before: ClusterConfig, after: ClusterConfig) -> None:
    """Raises CannotStart if the change needs a restart of the cluster."""
    for path in _NEED_RESTART:
        if _value(before, path) != _value(after, path):
            raise CannotStart(f"config: {path}: cannot change while the cluster runs; restart the cluster")


def _value(config: ClusterConfig, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
