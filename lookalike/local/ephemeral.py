"""Owns the config of an ephemeral local cluster, as the demo, the tests and the benchmarks use it: all servers
listen on loopback, on free ports."""

from __future__ import annotations

import atexit
import itertools
import random
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lookalike.server.config import (
    ClusterConfig,
    CoordinatorConfig,
    EncoderConfig,
    NamedEncoderConfig,
    ShardConfig,
)

MAX_PARTITIONS = 90
# In thousands: ports 11000..31999, below the kernel's range for outgoing connections.
_THOUSANDS = range(11, 32)
# Sockets that are bound to the guard ports of the blocks of 1,000 ports that this process chose last. While a
# block's guard port is bound, no other process chooses the block. This covers the time until servers listen there.
_claims: deque[socket.socket] = deque()
_MAX_CLAIMS = 4


def ephemeral_config(
    data: Path,
    partitions: int,
    encoder: EncoderConfig | None = None,
    name: str = "throwaway",
    replicas: int = 1,
    encoders: Mapping[str, EncoderConfig] = MappingProxyType({}),
) -> ClusterConfig:
    """Returns a config with free ports, which no other process that calls this function gets for now.

    Args:
        data: The folder for the shards' data.
        partitions: The number of partitions, at most 90.
        encoder: The encoder's config; None for a cluster without an encoder. The config's address is replaced.
        name: The cluster's name.
        replicas: Replicas per partition.
        encoders: Further encoders, at most five. Their addresses are replaced.

    Raises:
        RuntimeError: If there are not enough free ports.
    """
    assert partitions <= MAX_PARTITIONS
    # Ports without former connections first: clients of the cluster that ended there may still try to reach it.
    blocks = itertools.product((False, True), random.sample(_THOUSANDS, len(_THOUSANDS)))
    for reuses, thousand in blocks:
        guard = _bound(f"127.0.0.1:{thousand}700")
        if guard is None:
            continue
        # The shards use the ports below 700, 100 for each replica. The coordinator and the encoder use ports of
        # one of the last three hundreds, chosen at random.
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
            encoders={
                each: NamedEncoderConfig(
                    **{**given.model_dump(), "address": f"127.0.0.1:{thousand}{last}9{number}", "metrics": None}
                )
                for number, (each, given) in enumerate(encoders.items())
            },
        )
        if all(is_free(address, reuses=reuses) for address in _addresses(config)):
            _claims.append(guard)
            if len(_claims) > _MAX_CLAIMS:
                _claims.popleft().close()
            return config
        guard.close()
    raise RuntimeError("no block of 1,000 ports from 11000 to 31999 has enough free ports")


def _addresses(config: ClusterConfig) -> list[str]:
    encoders = [encoder.address for encoder in config.all_encoders.values()]
    shards = [
        config.shard_address(partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
    ]
    return [*shards, config.coordinator.listen, config.coordinator.web, *encoders]


def is_free(address: str, *, reuses: bool = True) -> bool:
    """Whether a server can listen on "host:port" of this machine now.

    Args:
        address: The host and the port.
        reuses: Whether the port may belong to connections of a former server, which the kernel remembers for a
            minute (TIME_WAIT). gRPC's servers can listen there.
    """
    probe = _bound(address, reuses=reuses)
    if probe is not None:
        probe.close()
    return probe is not None


def _bound(address: str, *, reuses: bool = False) -> socket.socket | None:
    """A socket that is bound to "host:port"; None if the port is taken. reuses: as for `is_free`."""
    host, _, port = address.rpartition(":")
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuses)
    try:
        probe.bind((host, int(port)))
    except OSError:
        probe.close()
        return None
    return probe


@atexit.register
def _give_up_claims() -> None:
    while _claims:
        _claims.pop().close()
