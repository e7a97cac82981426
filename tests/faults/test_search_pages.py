"""Pages of a search and groups during resharding and writes: what docs/CONSISTENCY.md promises of both."""

from __future__ import annotations

import random
from pathlib import Path

from lookalike import Client, Record
from lookalike.model.records import record_id
from tests.conftest import running_cluster, wait_until
from tests.faults.test_resharding import User, is_balanced

ROWS = 4_000
QUERY = bytes(8)


def code(i: int) -> bytes:
    """Few different distances to the query."""
    return (2 ** (i % 8) - 1).to_bytes(8, "big")


def test_pages_and_groups_are_exact_during_resharding_and_writes(tmp_path: Path) -> None:
    """Records with even numbers are never changed; the others are written and deleted all the time, with codes
    that put them elsewhere in the order."""
    steady = {f"k{i}": i % 8 for i in range(0, ROWS, 2)}
    restless = [f"k{i}" for i in range(1, ROWS, 2)]
    nearest = sorted((distance, record_id(key), key) for key, distance in steady.items())

    def page(client: Client, choice: random.Random) -> None:
        found = list(
            client.search_all(
                code=QUERY, collection="c", page_size=choice.choice([450, 1_300]),
                consistency=choice.choice(["one", "quorum"]),
            )
        )  # fmt: skip
        places = [(hit.distance, record_id(hit.key), hit.key) for hit in found]
        assert places == sorted(places)
        assert len(set(places)) == len(places)
        assert [place for place in places if place[2] in steady] == nearest

    def exclude(client: Client, choice: random.Random) -> None:
        without = {key for _, _, key in nearest if choice.random() < 0.2}
        found = client.search(
            code=QUERY, collection="c", exclude_keys=[*without, *restless], k=100, include_attributes=False
        )
        expected = [key for _, _, key in nearest if key not in without]
        assert [hit.key for hit in found.hits] == expected[:100]

    def group(client: Client, choice: random.Random) -> None:
        size = choice.randrange(1, 5)
        found = client.search(
            code=QUERY, collection="c", group_by="group", group_size=size, k=20, filter={"steady": True}
        )
        members: dict[int, list[str]] = {}
        for _, _, key in nearest:
            members.setdefault(int(key[1:]) % 50, []).append(key)
        expected = [(value, keys[:size]) for value, keys in list(members.items())[:20]]
        assert [(one.value, [hit.key for hit in one.hits]) for one in found.groups] == expected

    def write(client: Client, choice: random.Random) -> None:
        part = choice.sample(restless, 30)
        client.upsert(
            [
                Record(
                    key,
                    code=code(choice.randrange(8)),
                    attributes={"steady": False, "group": int(key[1:]) % 50},
                )
                for key in part[:20]
            ],
            collection="c",
        )
        client.delete(part[20:], collection="c")

    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert(
            [
                Record(f"k{i}", code=code(i), attributes={"steady": i % 2 == 0, "group": i % 50})
                for i in range(ROWS)
            ],
            collection="c",
        )
        users = [User(cluster, call, seed) for seed, call in enumerate((page, page, exclude, group, write))]
        try:
            for partitions in (3, 2):
                cluster.reload(cluster.config.model_copy(update={"partitions": partitions}))
                wait_until(lambda partitions=partitions: is_balanced(client, partitions), 60)
        finally:
            for user in users:
                user.stop()
        assert [user.failures for user in users] == [[]] * 5
        assert all(user.calls > 0 for user in users), [user.calls for user in users]
