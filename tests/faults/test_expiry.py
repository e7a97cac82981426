"""Expired records are deleted, and only those, while shards are killed and two coordinators sweep."""

from __future__ import annotations

import random
import time
from pathlib import Path

from lookalike import Client, Record, Ttl
from lookalike.local.ephemeral import ephemeral_config
from tests.conftest import Cluster, second_coordinator, wait_until
from tests.faults.test_resharding import User

ROWS = 3_000
ETERNAL = 300


def keys(client: Client) -> set[str]:
    return {record.key for record in client.scroll(collection="c", consistency="quorum")}


def test_expired_records_are_deleted_while_shards_are_killed(tmp_path: Path) -> None:
    config = ephemeral_config(tmp_path, 2, replicas=3)
    coordinator = config.coordinator.model_copy(update={"ttl_seconds": 0.5})
    cluster = Cluster(config.model_copy(update={"coordinator": coordinator}), tmp_path)
    renewed = [f"k{i}" for i in range(50)]

    def renew(client: Client, choice: random.Random) -> None:
        key = choice.choice(renewed)
        client.set_attributes({"expires": time.time() + 600}, collection="c", keys=[key])
        assert client.exists([key], collection="c", consistency="quorum") in ([True], [False])

    try:
        cluster.start()
        with cluster.client() as client, second_coordinator(cluster):
            client.create_collection("c", bits=64, ttl=Ttl(attribute="expires"))
            began = time.time()
            client.upsert(
                [
                    Record(f"k{i}", code=bytes(8), attributes={"expires": began + 4 + i * 8 / ROWS})
                    for i in range(ROWS)
                ],
                collection="c",
            )
            client.upsert([Record(f"e{i}", code=bytes(8)) for i in range(ETERNAL)], collection="c")
            client.set_attributes({"expires": began + 600}, collection="c", keys=renewed)
            user = User(cluster, renew, 1)
            try:
                for name in ("shard-r0-0", "shard-r1-1", "shard-r2-0"):
                    cluster.wait_restarted(name, cluster.kill(name))
                survivors = {*renewed, *(f"e{i}" for i in range(ETERNAL))}
                wait_until(lambda: time.time() > began + 12 and keys(client) <= survivors, 60)
            finally:
                user.stop()
            assert (user.failures, keys(client)) == ([], survivors)
            assert user.calls > 5
            # Deleted by tombstones: no replica brings them back.
            for name in ("shard-r2-1", "shard-r0-0"):
                cluster.wait_restarted(name, cluster.kill(name))
            wait_until(lambda: all(len({replica.rows for replica in part.replicas}) == 1
                                   for part in client.status().partitions), 30)  # fmt: skip
            assert keys(client) == survivors
            assert client.count(collection="c").count == len(survivors)
    finally:
        cluster.stop()
