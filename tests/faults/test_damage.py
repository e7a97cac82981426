"""Damage on the disk of a real shard: an error that names the row, no wrong answer, and healing from a replica."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike import Client, Record
from lookalike.model.errors import Corruption, LookalikeError
from tests.conftest import Cluster, running_cluster, wait_until

ROWS = 400


def code(number: int) -> bytes:
    return random.Random(number).randbytes(16)


def fill(client: Client) -> None:
    client.create_collection("c", bits=128)
    client.upsert([Record(f"k{n}", code=code(n), attributes={"n": n}) for n in range(ROWS)], collection="c")


def flip(cluster: Cluster, shard: str) -> str:
    """Flips one bit of a code in the database of a shard, while the shard is down. Returns the record's key."""
    old = cluster.kill(shard, signal.SIGTERM)  # Its log is written to the database.
    cluster.wait_restarted(shard, old)
    (store,) = (cluster.data / shard.removeprefix("shard-") / "collections").glob("c@*/records.sqlite")
    data = bytearray(store.read_bytes())
    number = next(number for number in range(ROWS) if code(number) in data)
    data[data.index(code(number))] ^= 1
    cluster.kill(shard)
    store.write_bytes(data)
    return f"k{number}"


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Cluster]:
    """Two partitions of one replica each."""
    with running_cluster(tmp_path, 2) as cluster:
        yield cluster


@pytest.mark.parametrize("partition", [0, 1])
def test_damage_without_a_replica_stays_an_error(lone: Cluster, partition: int) -> None:
    with lone.client() as client:
        fill(client)
        key = flip(lone, f"shard-r0-{partition}")
        wait_until(lambda: client.status().partitions[partition].replicas[0].damaged, 30)
        # Longer than a shard takes to learn from another partition which collections exist.
        for _ in range(5):
            time.sleep(1)
            (damage,) = client.status().partitions[partition].replicas[0].damaged
            assert re.search(
                rf"c: the row \d+ of key '{key}' is damaged; restore the partition from a backup", damage
            )
            with pytest.raises(Corruption, match="is damaged; restore the partition"):
                client.search(code=code(1), k=3, collection="c")
            with pytest.raises(Corruption):
                client.get([key], collection="c")
            with pytest.raises(LookalikeError, match="damaged"):
                client.upsert([Record(key, code=code(1))], collection="c")
            partial = client.search(code=code(1), k=3, collection="c", allow_partial=True)
            assert list(partial.coverage.missing) == [partition]
            assert not partial.exact
        assert [collection.name for collection in client.list_collections()] == ["c"]


def test_damage_is_healed_from_a_replica(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1, replicas=2) as cluster, cluster.client() as client:
        fill(client)
        flip(cluster, "shard-r0-0")
        for _ in range(3):
            for n in range(0, ROWS, 40):
                assert client.search(code=code(n), k=1, collection="c").hits[0].key == f"k{n}"
        wait_until(
            lambda: all(r.rows == ROWS and not r.damaged for r in client.status().partitions[0].replicas), 60
        )
