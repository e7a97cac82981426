"""Owns the config of a throw-away local cluster: everything on loopback, on ports that are free now. For the
demo, tests and benchmarks."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from lookalike.server.config import ClusterConfig, CoordinatorConfig, EncoderConfig, ShardConfig

MAX_PARTITIONS = 90
# Thousands of ports below the range from which the kernel takes ports for outgoing connections.
_THOUSANDS = range(11, 32)


def ephemeral_config(
    data: Path,
    partitions: int,
    encoder: EncoderConfig | None = None,
    name: str = "throwaway",
    replicas: int = 1,
) -> ClusterConfig:
    """A config whose ports were free when this returned. encoder: its address is replaced."""
    assert partitions <= MAX_PARTITIONS
    for thousand in random.sample(_THOUSANDS, len(_THOUSANDS)):
        # One of the last three hundreds, so that several clusters find room in one thousand.
        last = random.choice((7, 8, 9))
        config = ClusterConfig(
            cluster=name,
            partitions=partitions,
            replicas=replicas,
            shard=ShardConfig(
                address=f"127.0.0.1:{thousand}{{replica}}{{partition:02d}}", metrics=None, data=data
            ),
            coordinator=CoordinatorConfig(
                listen=f"127.0.0.1:{thousand}{last}97", web=f"127.0.0.1:{thousand}{last}98", metrics=None
            ),
            encoder=encoder
            and encoder.model_copy(update={"address": f"127.0.0.1:{thousand}{last}99", "metrics": None}),
        )
        if all(map(_is_free, _addresses(config))):
            return config
    raise RuntimeError("no thousand ports from 11000 to 31999 has enough free ones")


def _addresses(config: ClusterConfig) -> list[str]:
    encoder = [config.encoder.address] if config.encoder else []
    shards = [
        config.shard_address(partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    ]
    return [*shards, config.coordinator.listen, config.coordinator.web, *encoder]


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True
