"""A copy is complete and exact although a shard is killed, slots move, and clients write to both collections."""

from __future__ import annotations

import random
from pathlib import Path

from lookalike import Client, Record
from tests.conftest import running_cluster, wait_until
from tests.faults.test_resharding import User, is_balanced

ROWS = 4_000
RESTLESS = 200


def code(i: int) -> bytes:
    return i.to_bytes(8, "big")


def content(client: Client, collection: str) -> dict[str, tuple[bytes, int]]:
    found = client.scroll(collection=collection, include_codes=True, consistency="quorum")
    return {record.key: (record.code, record.attributes["i"]) for record in found}


def test_a_copy_survives_a_killed_shard_and_resharding(tmp_path: Path) -> None:
    expected = {f"k{i}": (code(i), i) for i in range(ROWS)}
    written: set[int] = set()

    def write(client: Client, choice: random.Random) -> None:
        i = choice.randrange(RESTLESS)
        client.upsert([Record(f"source {i}", code=code(i), attributes={"i": i})], collection="source")
        client.upsert([Record(f"k{i}", code=code(i), attributes={"i": -1})], collection="target")
        written.add(i)

    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client(timeout=60) as client:
        client.create_collection("source", bits=64)
        client.upsert(
            [Record(key, code=found, attributes={"i": i}) for key, (found, i) in expected.items()],
            collection="source",
        )
        client.create_collection("target", bits=64)
        user = User(cluster, write, 1)
        try:
            cluster.reload(cluster.config.model_copy(update={"partitions": 3}))
            records = 0
            for number, page in enumerate(client.copy_collection("source", "target", resume=True)):
                records += page.records
                if number == 1:
                    cluster.wait_restarted("shard-r1-0", cluster.kill("shard-r1-0"))
            wait_until(lambda: is_balanced(client, 3), 60)
        finally:
            user.stop()
        assert user.failures == []
        assert len(written) > 5
        assert records >= ROWS
        found = content(client, "target")
        for i in range(RESTLESS):
            # The client's own write of the key is later than the source's record.
            assert found.pop(f"k{i}")[1] == (-1 if i in written else i)
            assert found.pop(f"source {i}", (code(i), i)) == (code(i), i)
        rest = {key: value for key, value in expected.items() if value[1] >= RESTLESS}
        assert found == rest
        assert sum(page.copied for page in client.copy_collection("source", "target", resume=True)) <= RESTLESS
