"""What the coordinator knows of the shards, while those come and go."""

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


def test_a_replica_that_goes_while_all_are_asked_spoils_no_answer() -> None:
    nobody = ShardConfig(address="127.0.0.1:{replica}")
    config = ClusterConfig(partitions=1, replicas=2, shard=nobody, encoder=None)

    async def ask_and_take_one_away() -> list[tuple[int, bool]]:
        view = Cluster(config, PeerChannels(config.security))
        await view.start(BackgroundTasks())
        asked = asyncio.create_task(view.every_state(asyncio.get_running_loop().time() + 5))
        for _ in range(50):
            await asyncio.sleep(0)
        await view.reload(config.model_copy(update={"replicas": 1}))
        found = await asked
        await view.close()
        return [(link.replica, isinstance(state, LookalikeError)) for link, state in found]

    assert asyncio.run(ask_and_take_one_away()) == [(0, True), (1, True)]


def test_a_shard_that_was_let_go_sends_its_callers_to_look_anew() -> None:
    nobody = ShardConfig(address="127.0.0.1:{replica}")
    config = ClusterConfig(partitions=1, replicas=2, shard=nobody, encoder=None)

    async def use_what_was_let_go() -> list[LookalikeError]:
        view = Cluster(config, PeerChannels(config.security))
        await view.start(BackgroundTasks())
        link = view.links[0, 1]
        group = ReplicaGroup(0, writes_needed=1)
        group.links.append(link)
        await view.reload(config.model_copy(update={"replicas": 1}))
        deadline = asyncio.get_running_loop().time() + 5
        record = VersionedRecord("k", bytes(8), "", 1)
        raised = []
        for call in (
            link.state(deadline),
            group.first(lambda link: link.fetch("c", ["k"], deadline), deadline),
            group.write("c", "", "", [record], deadline),
            anext(link.dump(shard_pb2.DumpRequest())),
        ):
            with pytest.raises(LookalikeError) as error:
                await asyncio.wait_for(call, 1)
            raised.append(error.value)
        await view.close()
        return raised

    for error in asyncio.run(use_what_was_let_go()):
        assert type(error) is SlotMoved
        assert error.message == "partition 0: replica 1 is no longer part of the cluster"
