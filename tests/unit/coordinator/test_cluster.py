"""The coordinator's view of the shards while replicas are added and removed."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.cluster import Cluster
from coordinator.replicas import ReplicaGroup
from lookalike.model.errors import LookalikeError, SlotMoved
from lookalike.model.records import VersionedRecord
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, ShardConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.v1 import shard_pb2


def test_a_replica_removed_during_a_status_request_is_still_reported() -> None:
    unreachable = ShardConfig(address="127.0.0.1:{replica}")
    config = ClusterConfig(partitions=1, replicas=2, shard=unreachable, encoder=None)

    async def remove_one_while_asking() -> list[tuple[int, bool]]:
        view = Cluster(config, PeerChannels(config.security))
        await view.start(BackgroundTasks())
        asked = asyncio.create_task(view.every_state(asyncio.get_running_loop().time() + 5))
        for _ in range(50):
            await asyncio.sleep(0)
        await view.reload(config.model_copy(update={"replicas": 1}))
        found = await asked
        await view.close()
        return [(replica.replica, isinstance(state, LookalikeError)) for replica, state in found]

    assert asyncio.run(remove_one_while_asking()) == [(0, True), (1, True)]


def test_calls_to_a_retired_replica_raise_slot_moved() -> None:
    unreachable = ShardConfig(address="127.0.0.1:{replica}")
    config = ClusterConfig(partitions=1, replicas=2, shard=unreachable, encoder=None)

    async def call_a_retired_replica() -> list[LookalikeError]:
        view = Cluster(config, PeerChannels(config.security))
        await view.start(BackgroundTasks())
        replica = view.all_replicas[0, 1]
        group = ReplicaGroup(0, writes_needed=1)
        group.replicas.append(replica)
        await view.reload(config.model_copy(update={"replicas": 1}))
        deadline = asyncio.get_running_loop().time() + 5
        record = VersionedRecord("k", bytes(8), "", 1)
        raised = []
        for call in (
            replica.client.state(deadline=deadline),
            group.first(lambda client: client.fetch("c", ["k"], deadline), deadline),
            group.write("c", "", "", [record], deadline),
            anext(replica.client.dump(shard_pb2.DumpRequest())),
        ):
            with pytest.raises(LookalikeError) as error:
                await asyncio.wait_for(call, 1)
            raised.append(error.value)
        await view.close()
        return raised

    for error in asyncio.run(call_a_retired_replica()):
        assert type(error) is SlotMoved
        assert error.message == "partition 0: replica 1 is no longer part of the cluster"
