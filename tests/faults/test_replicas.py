"""Replicas are killed, stopped, restarted and damaged: no call fails, and no record is lost."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike import Client, Record
from tests.conftest import Cluster, running_cluster, wait_until
from tests.faults.test_resharding import User

ROWS = 2_000


def code(i: int) -> bytes:
    return np.random.default_rng(i).integers(0, 256, 8, np.uint8).tobytes()


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two partitions of two replicas. Every test leaves all four shards serving all rows."""
    with running_cluster(tmp_path_factory.mktemp("replicated"), partitions=2, replicas=2) as running:
        yield running


@pytest.fixture
def client(replicated: Cluster) -> Iterator[Client]:
    """A client of `replicated`, in which collection "c" exists while the test runs."""
    with replicated.client() as client:
        fill(client)
        yield client
        client.drop_collection("c")


def fill(client: Client) -> None:
    client.create_collection("c", bits=64)
    client.upsert([Record(f"k{i}", code=code(i)) for i in range(ROWS)], collection="c")


def search(client: Client, choice: random.Random) -> None:
    i = choice.randrange(ROWS)
    answer = client.search(code=code(i), k=3, collection="c")
    assert answer.hits[0].key == f"k{i}"
    assert answer.exact
    assert answer.coverage.rows_searched == ROWS


def test_no_search_fails_when_a_replica_is_killed(replicated: Cluster, client: Client) -> None:
    users = [User(replicated, search, seed) for seed in range(2)]
    try:
        for name in ("shard-r0-0", "shard-r1-1"):
            old = replicated.kill(name)
            replicated.wait_restarted(name, old)
    finally:
        for user in users:
            user.stop()
    assert [user.failures[:3] for user in users] == [[], []]


def test_no_search_fails_when_a_replica_hangs(replicated: Cluster, client: Client) -> None:
    users = [User(replicated, search, seed) for seed in range(2)]
    replicated.kill("shard-r1-0", signal.SIGSTOP)
    try:
        before = [user.calls for user in users]
        wait_until(lambda: all(user.calls > b + 100 for user, b in zip(users, before, strict=True)), 20)
    finally:
        replicated.kill("shard-r1-0", signal.SIGCONT)
        for user in users:
            user.stop()
    assert [user.failures[:3] for user in users] == [[], []]


def test_no_call_fails_during_a_rolling_restart(replicated: Cluster, client: Client) -> None:
    def write(client: Client, choice: random.Random) -> None:
        i = choice.randrange(ROWS)
        client.upsert([Record(f"k{i}", code=code(i))], collection="c")

    users = [User(replicated, call, seed) for seed, call in enumerate((search, write))]
    try:
        for name in ("shard-r0-0", "shard-r1-0", "shard-r0-1", "shard-r1-1", "coordinator"):
            began = time.monotonic()
            old = replicated.kill(name, signal.SIGTERM)
            replicated.wait_restarted(name, old)
            # A client retries for at least 3.5 seconds, and may need one of them to find a restarted server. A
            # coordinator that takes longer to restart was starved of CPU.
            was_slow = time.monotonic() - began > 2
    finally:
        for user in users:
            user.stop()
    failures = [
        failure
        for user in users
        for failure in user.failures
        if not (was_slow and failure.startswith("PartitionUnavailable('server:"))
    ]
    assert failures == []
    assert all(user.calls > 5 for user in users)


@pytest.mark.parametrize("damage", ["row", "cut"])
def test_a_damaged_store_is_detected_and_refilled(replicated: Cluster, client: Client, damage: str) -> None:
    folder = replicated.data / "r1-0" / "collections"
    # The collections of earlier tests are gone once their drops have reached this replica.
    wait_until(lambda: len(list(folder.glob("c@*"))) == 1, 30)
    store = next(folder.glob("c@*")) / "records.sqlite"
    set_aside = set(folder.glob(".damaged-c@*"))
    rows = client.status().partitions[0].replicas[0].rows
    assert 0 < rows < ROWS
    old = replicated.kill("shard-r1-0")
    if damage == "row":
        with sqlite3.connect(store) as connection:
            connection.execute("UPDATE records SET head = zeroblob(length(head)) WHERE number = 7")
        connection.close()
    else:
        data = store.read_bytes()
        store.with_name("records.sqlite-wal").unlink(missing_ok=True)
        store.write_bytes(data[: len(data) // 2])
    replicated.wait_restarted("shard-r1-0", old)
    wait_until(lambda: set(folder.glob(".damaged-c@*")) > set_aside, 60)
    wait_until(lambda: not client.status().partitions[0].replicas[1].damaged, 60)
    wait_until(lambda: client.status().partitions[0].replicas[1].rows == rows, 60)
    # Without its sibling, it serves all records.
    replicated.kill("shard-r0-0", signal.SIGSTOP)
    try:
        time.sleep(0.1)
        for i in range(0, ROWS, 100):
            assert client.search(code=code(i), k=1, collection="c").hits[0].distance == 0
    finally:
        replicated.kill("shard-r0-0", signal.SIGCONT)


def test_a_replica_with_a_new_disk_serves_only_what_it_has_fetched(replicated: Cluster, client: Client) -> None:
    old = replicated.kill("shard-r0-1")
    (replicated.data / "r0-1").rename(replicated.data / "gone")
    replicated.wait_restarted("shard-r0-1", old)
    wait_until(lambda: same_rows(client), 30)


def same_rows(client: Client) -> bool:
    return all(part.replicas[0].rows == part.replicas[1].rows > 0 for part in client.status().partitions)


def test_a_lone_shard_with_a_new_disk_does_not_count_as_empty(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as cluster, cluster.client(timeout=8) as client:
        fill(client)
        lose_disk(cluster, tmp_path)
        answer = client.search(code=code(1), k=3, collection="c", allow_partial=True)
        assert not answer.coverage.complete
        assert list(answer.coverage.missing) == [1]


def lose_disk(cluster: Cluster, data: Path) -> None:
    old = cluster.kill("shard-r0-1")
    (data / "r0-1").rename(data / "gone")
    cluster.wait_restarted("shard-r0-1", old)
