"""Scrolls during resharding, and changes while replicas are killed: what docs/CONSISTENCY.md promises of both."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from lookalike import Client, Record
from lookalike.model.errors import DeadlineExceeded, PartitionUnavailable
from lookalike.model.records import record_id
from tests.conftest import running_cluster, wait_until
from tests.faults.test_resharding import User, is_balanced

ROWS = 4_000


def code(i: int) -> bytes:
    return i.to_bytes(8, "big")


def test_a_scroll_is_exact_during_resharding_and_writes(tmp_path: Path) -> None:
    """Records with even numbers are never changed; the others are written and deleted all the time."""
    steady = {f"k{i}" for i in range(0, ROWS, 2)}
    restless = [f"k{i}" for i in range(1, ROWS, 2)]

    def scroll(client: Client, choice: random.Random) -> None:
        consistency = choice.choice(["one", "quorum"])
        found = client.scroll(
            collection="c", page_size=choice.choice([150, 1_200]), consistency=consistency, include_codes=True
        )
        records = list(found)
        keys = [record.key for record in records]
        assert len(set(keys)) == len(keys)
        assert keys == sorted(keys, key=record_id)
        assert steady <= set(keys), f"{len(steady - set(keys))} are missing"
        assert all(record.code == code(int(record.key[1:])) for record in records)

    keys = sorted(steady) + [f"never{i}" for i in range(100)]

    def ask(client: Client, choice: random.Random) -> None:
        consistency = choice.choice(["one", "quorum"])
        there = client.exists(keys, collection="c", consistency=consistency)
        assert there == [key in steady for key in keys]
        records = client.get(keys, collection="c", consistency=consistency)
        assert [record.key for record in records] == sorted(steady)
        assert all(record.code == code(int(record.key[1:])) for record in records)
        matching = client.scroll_columns(collection="c", filter={"steady": True}, consistency=consistency)
        assert sorted(key for page in matching for key in page.keys) == sorted(steady)
        found = client.count(collection="c", filter={"steady": True})
        assert found.count == len(steady), found.coverage
        facets = client.facets("steady", collection="c").facets
        assert {facet.value: facet.count for facet in facets}[True] == len(steady)

    def write(client: Client, choice: random.Random) -> None:
        part = choice.sample(restless, 30)
        client.upsert(
            [Record(key, code=code(int(key[1:])), attributes={"steady": False}) for key in part[:20]],
            collection="c",
        )
        client.delete(part[20:], collection="c")
        assert client.set_attributes({"touched": choice.random()}, collection="c", keys=part[:5]) <= 5

    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert(
            [Record(f"k{i}", code=code(i), attributes={"steady": i % 2 == 0}) for i in range(ROWS)],
            collection="c",
        )
        users = [User(cluster, call, seed) for seed, call in enumerate((scroll, scroll, ask, write))]
        try:
            for partitions in (3, 2):
                cluster.reload(cluster.config.model_copy(update={"partitions": partitions}))
                wait_until(lambda partitions=partitions: is_balanced(client, partitions), 60)
        finally:
            for user in users:
                user.stop()
        assert [user.failures for user in users] == [[]] * 4
        assert all(user.calls > 0 for user in users), [user.calls for user in users]


def test_changes_survive_killed_replicas(tmp_path: Path) -> None:
    """Every change that was acknowledged is there on a majority, and touched nothing else."""
    done: dict[str, int] = {}

    def change(client: Client, choice: random.Random) -> None:
        key, value = f"k{choice.randrange(40)}", choice.randrange(10**6)
        assert client.set_attributes({"value": value}, collection="c", keys=[key]) == 1
        (record,) = client.get([key], collection="c", consistency="quorum")
        assert record.attributes["value"] == value
        done[key] = value

    with running_cluster(tmp_path, partitions=2, replicas=3) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert(
            [Record(f"k{i}", code=code(i), attributes={"value": -1, "keep": i}) for i in range(ROWS)],
            collection="c",
        )
        user = User(cluster, change, 1)
        try:
            for name in ("shard-r0-0", "shard-r1-1", "shard-r2-0"):
                cluster.wait_restarted(name, cluster.kill(name))
                doomed = {"keep": {"$gte": ROWS - 500}, "value": -1}
                client.delete_by_filter(doomed, collection="c")
                client.set_attributes({"value": -2}, collection="c", filter={"value": -1, "keep": {"$gte": 3_000}})
        finally:
            user.stop()
        assert user.failures == []
        assert user.calls > 20
        left = list(client.scroll(collection="c", include_codes=True, consistency="quorum"))
        assert {record.key for record in left} == {f"k{i}" for i in range(ROWS - 500)}
        for record in left:
            i = int(record.key[1:])
            assert (record.code, record.attributes["keep"]) == (code(i), i)
            expected = done.get(record.key, -2 if i >= 3_000 else -1)
            assert record.attributes["value"] == expected, record


def test_a_missing_partition_is_an_error_unless_a_partial_count_is_allowed(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as cluster, cluster.client(timeout=3) as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(f"k{i}", code=code(i), attributes={"n": i % 2}) for i in range(600)], collection="c")
        whole = client.count(collection="c", filter={"n": 1})
        assert whole.count == 300
        first = client.scroll_page(collection="c", limit=100)
        cluster.kill("shard-r0-1", signal.SIGSTOP)
        try:
            with pytest.raises((PartitionUnavailable, DeadlineExceeded), match="partition 1"):
                client.count(collection="c", filter={"n": 1})
            with pytest.raises((PartitionUnavailable, DeadlineExceeded), match="partition 1"):
                client.scroll_page(collection="c", limit=100, cursor=first.cursor)
            part = client.count(collection="c", filter={"n": 1}, allow_partial=True)
            assert 0 < part.count < 300
            assert (part.coverage.complete, list(part.coverage.missing)) == (False, [1])
            assert part.coverage.rows_searched < part.coverage.rows_known == 600
            facets = client.facets("n", collection="c", allow_partial=True)
            assert sum(facet.count for facet in facets.facets) == facets.coverage.rows_searched
        finally:
            cluster.kill("shard-r0-1", signal.SIGCONT)
        for name in ("shard-r0-0", "shard-r0-1"):
            cluster.wait_restarted(name, cluster.kill(name))
        rest = client.scroll(collection="c", cursor=first.cursor)
        keys = [record.key for record in (*first.records, *rest)]
        assert keys == sorted((f"k{i}" for i in range(600)), key=record_id)
