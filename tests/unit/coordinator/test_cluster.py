"""What the coordinator knows of the shards, while those come and go."""

from __future__ import annotations

import asyncio

from coordinator.cluster import Cluster
from lookalike.config import ClusterConfig, ShardConfig
from lookalike.errors import LookalikeError
from lookalike.inside import Inside


def test_a_replica_that_goes_while_all_are_asked_spoils_no_answer() -> None:
    nobody = ShardConfig(address="127.0.0.1:{replica}")
    config = ClusterConfig(partitions=1, replicas=2, shard=nobody, encoder=None)

    async def ask_and_take_one_away() -> list[tuple[int, bool]]:
        view = Cluster(config, Inside(config.security))
        await view.start()
        asked = asyncio.create_task(view.every_state(asyncio.get_running_loop().time() + 5))
        for _ in range(50):
            await asyncio.sleep(0)
        await view.reload(config.model_copy(update={"replicas": 1}))
        found = await asked
        await view.close()
        return [(link.replica, isinstance(state, LookalikeError)) for link, state in found]

    assert asyncio.run(ask_and_take_one_away()) == [(0, True), (1, True)]
