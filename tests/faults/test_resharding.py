"""Partitions are added and removed under load: every search is exact and complete, and no write fails."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console, RenderableType

from lookalike import Client, Record
from lookalike.cli.view import rebalance_view
from lookalike.local.supervisor import TAKE_OVER_SECONDS
from tests.cluster.scraping import config_with_metrics, running, scrape
from tests.conftest import Cluster, running_cluster, wait_until
from tests.oracle import nearest_keys

ROWS = 6_000
K = 10


class User:
    """Repeats a call in its own thread until stopped; keeps what went wrong."""

    def __init__(self, cluster: Cluster, call: Callable[[Client, random.Random], None], seed: int) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self._cluster, self._call, self._random = cluster, call, random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._cluster.client() as client:
            while not self._stopped.is_set():
                try:
                    self._call(client, self._random)
                    self.calls += 1
                except Exception as error:
                    self.failures.append(repr(error))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def test_searches_are_exact_during_resharding(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records = {f"k{i}": rng.integers(0, 256, 8, np.uint8).tobytes() for i in range(ROWS)}
    queries = [rng.integers(0, 256, 8, np.uint8).tobytes() for _ in range(20)]
    expected = {query: nearest_keys(records, query, K) for query in queries}
    keys = list(records)

    def search(client: Client, choice: random.Random) -> None:
        query = choice.choice(queries)
        consistency = choice.choice(["one", "quorum"])
        answer = client.search(code=query, k=K, collection="c", consistency=consistency)
        assert [(hit.distance, hit.key) for hit in answer.hits] == expected[query], answer.coverage
        assert answer.exact
        assert answer.coverage.rows_searched == ROWS, answer.coverage

    def write(client: Client, choice: random.Random) -> None:
        part = choice.sample(keys, 20)
        client.upsert([Record(key, code=records[key]) for key in part], collection="c")

    def read(client: Client, choice: random.Random) -> None:
        part = choice.sample(keys, 20)
        found = {record.key: record.code for record in client.get(part, collection="c")}
        assert found == {key: records[key] for key in part}

    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(key, code=code) for key, code in records.items()], collection="c")
        users = [User(cluster, call, seed) for seed, call in enumerate((search, search, write, read))]
        try:
            for partitions in (3, 5, 4):
                cluster.reload(cluster.config.model_copy(update={"partitions": partitions}))
                wait_until(lambda count=partitions: is_balanced(client, count), 60)  # type: ignore[misc]
        finally:
            for user in users:
                user.stop()
        assert [user.failures[:3] for user in users] == [[], [], [], []]
        assert all(user.calls > 20 for user in users)
        # The emptied partition is stopped, and the others hold all records.
        wait_until(lambda: len(client.status().partitions) == 4, 30)
        rows = [replica.rows for part in client.status().partitions for replica in part.replicas]
        assert sum(rows) == 2 * ROWS


def is_balanced(client: Client, partitions: int) -> bool:
    found = client.status().rebalance
    return (found.partitions, found.slots_to_move, found.slots_unserved) == (partitions, 0, 0)


def test_a_drained_partition_is_emptied_and_refilled_after_undo(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=3) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(600)], collection="c")
        before = client.status().partitions[1].slots
        assert client.drain(1) <= before
        wait_until(lambda: client.status().partitions[1].removable, 30)
        assert client.status().rebalance.drained == [1]
        assert len(client.search(code=bytes(8), k=1_000, collection="c").hits) == 600
        client.drain(1, undo=True)
        wait_until(lambda: client.status().partitions[1].slots == before, 30)
        assert len(client.search(code=bytes(8), k=1_000, collection="c").hits) == 600


def test_blocked_slots_stay_in_the_status_but_not_in_the_log(tmp_path: Path) -> None:
    config = config_with_metrics(tmp_path, partitions=2, replicas=2)
    with running(config, tmp_path) as cluster, cluster.client() as client:
        stored = tmp_path / "r1-1" / "shard.json"
        content = stored.read_text()
        stored.write_text("damaged")
        cluster.kill("shard-r1-1")
        client.drain(1)
        waited_for = f"waits for replica 1 at {config.shard_address(1, 1)}"
        wait_until(lambda: waited_for in text_of(rebalance_view(client.status())), 60)
        asked = ("lookalike_rpc_seconds_count", (("code", "OK"), ("rpc", "HandOver")))
        wait_until(lambda: scrape(config.shard_metrics(1, 0)).get(asked, 0) >= 30, 60)
        lines = (tmp_path / "logs" / "shard-r0-0.log").read_text().splitlines()
        assert 1 <= sum("slots wait for partition 1, replica 1: " in line for line in lines) <= 5
        stored.write_text(content)
        wait_until(lambda: client.status().partitions[1].removable, 60)


def text_of(view: RenderableType) -> str:
    out = Console(width=200)
    with out.capture() as capture:
        out.print(view)
    return capture.get()


def test_a_new_partition_starts_once_its_port_is_free(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=1) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(200)], collection="c")
        host, _, port = cluster.config.shard_address(1).rpartition(":")
        with socket.create_server((host, int(port))):
            cluster.reload(cluster.config.model_copy(update={"partitions": 2}))
            wait_until(lambda: len(cluster.reports) == 1, 30)
            time.sleep(2 * TAKE_OVER_SECONDS)
            assert f"{host}:{port} cannot be bound" in "".join(cluster.reports)
            assert len(cluster.reports) == 1
        wait_until(lambda: is_balanced(client, 2), 60)
        assert len(client.search(code=bytes(8), k=1_000, collection="c").hits) == 200


def test_partitions_and_replicas_can_change_together(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(200)], collection="c")
        # The removed partition gets the new replica, too: all its replicas must confirm that a slot has moved.
        cluster.reload(cluster.config.model_copy(update={"partitions": 1, "replicas": 2}))
        wait_until(lambda: is_balanced(client, 1) and len(client.status().partitions) == 1, 60)
        assert [replica.state for replica in client.status().partitions[0].replicas] == ["serving"] * 2
        cluster.reload(cluster.config.model_copy(update={"replicas": 1}))
        wait_until(lambda: not (tmp_path / "run" / "shard-r1-0.pid").exists(), 30)
        wait_until(lambda: len(client.status().partitions[0].replicas) == 1, 30)
        assert len(client.search(code=bytes(8), k=1_000, collection="c").hits) == 200
    assert not [report for report in cluster.reports if "ended: " in report]
