"""A shard address that temporarily belongs to another shard, as happens when containers are rescheduled."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.shard_link import ShardLink
from lookalike.model.errors import PartitionUnavailable
from lookalike.server.peer_channels import PeerChannels
from shard.replication.peer import Peer
from tests.conftest import Cluster

SECONDS = 5.0


@pytest.mark.parametrize("partition", [1, 0])
async def test_another_shards_answer_is_not_taken(cluster: Cluster, partition: int) -> None:
    """Partition 0 is there; asked for as partition 1, or as another replica, it is as good as absent."""
    address = cluster.config.shard_address(0)
    place = (partition, 1 - partition)
    inside = PeerChannels(cluster.config.security)
    peer, link = Peer(*place, address, inside), ShardLink(*place, address, inside)
    try:
        with pytest.raises(PartitionUnavailable, match="its address belongs to partition 0"):
            await peer.state(None)
        with pytest.raises(PartitionUnavailable, match="its address belongs to partition 0"):
            await link.state(asyncio.get_running_loop().time() + SECONDS)
    finally:
        await peer.close()
        await link.close()
