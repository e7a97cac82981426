"""A shard address that temporarily belongs to another shard, as happens when containers are rescheduled."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.model.errors import PartitionUnavailable
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.shard_client import ShardClient
from tests.conftest import Cluster

SECONDS = 5.0


@pytest.mark.parametrize("partition", [1, 0])
async def test_an_answer_of_another_shard_is_rejected(cluster: Cluster, partition: int) -> None:
    """Partition 0 is up; called as partition 1, or as another replica, it counts as unavailable."""
    address = cluster.config.shard_address(0)
    client = ShardClient(partition, 1 - partition, address, PeerChannels(cluster.config.security))
    deadline = asyncio.get_running_loop().time() + SECONDS
    try:
        with pytest.raises(PartitionUnavailable, match="its address belongs to partition 0"):
            await client.state(deadline=deadline)
    finally:
        await client.close()
