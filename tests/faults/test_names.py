"""Names and TTLs survive restarts, the loss of the registrar's disk, and resharding; a change that too few shards
store is an error."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from lookalike import Client, Record, Ttl
from lookalike.model.errors import DeadlineExceeded, NotFound, PartitionUnavailable
from tests.conftest import running_cluster, second_coordinator, wait_until
from tests.faults.test_resharding import is_balanced

ROWS = 300


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def set_up(client: Client) -> None:
    for name in ("blue", "green"):
        client.create_collection(name, bits=64, ttl=Ttl(age_seconds=86_400) if name == "blue" else None)
        client.upsert([Record(f"{name} {i}", code=code(i)) for i in range(ROWS)], collection=name)
    client.create_alias("live", "blue")
    client.rename_collection("green", "lime")
    client.create_collection("green", bits=64)
    client.upsert([Record("second", code=code(1))], collection="green")


def require_set_up(client: Client) -> None:
    rows = {found.name: (found.rows, found.aliases) for found in client.list_collections()}
    assert rows == {"blue": (ROWS, ("live",)), "green": (1, ()), "lime": (ROWS, ())}
    assert client.get_collection("live").ttl == Ttl(age_seconds=86_400)
    for name, expected in (("live", "blue 1"), ("lime", "green 1"), ("green", "second")):
        assert client.search(code=code(1), k=1, collection=name).hits[0].key == expected


def test_names_survive_restarts_lost_disks_and_resharding(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client() as client:
        set_up(client)
        require_set_up(client)
        for name in ("shard-r0-0", "shard-r1-0", "shard-r0-1", "shard-r1-1", "coordinator"):
            cluster.wait_restarted(name, cluster.kill(name))
        require_set_up(client)
        old = cluster.kill("shard-r0-0")
        (cluster.data / "r0-0").rename(cluster.data / "gone")
        cluster.wait_restarted("shard-r0-0", old)
        wait_until(lambda: client.get_collection("lime").rows == ROWS, 30)
        require_set_up(client)
        client.switch_alias("live", "lime")
        client.switch_alias("live", "blue")
        cluster.reload(cluster.config.model_copy(update={"partitions": 3}))
        wait_until(lambda: is_balanced(client, 3), 60)
        require_set_up(client)
        with pytest.raises(NotFound):
            client.get_collection("nobody")


def test_a_coordinator_that_was_stopped_during_a_switch_sees_the_new_target(tmp_path: Path) -> None:
    with (
        running_cluster(tmp_path, partitions=2, replicas=2) as cluster,
        second_coordinator(cluster) as address,
        Client(address) as other,
        cluster.client() as client,
    ):
        set_up(client)
        assert client.get_collection("live").name == "blue"
        cluster.kill("coordinator", signal.SIGSTOP)
        try:
            other.switch_alias("live", "lime")
        finally:
            cluster.kill("coordinator", signal.SIGCONT)
        assert client.search(code=code(1), k=1, collection="live").hits[0].key == "green 1"
        assert client.get_collection("live").name == "lime"


def test_a_change_needs_the_registrar_and_a_write_quorum(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2, replicas=2) as cluster, cluster.client(timeout=8) as client:
        set_up(client)
        for name, text in (("shard-r0-0", "partition 0"), ("shard-r1-1", "partition 1")):
            cluster.kill(name, signal.SIGSTOP)
            try:
                with pytest.raises((PartitionUnavailable, DeadlineExceeded), match=text):
                    client.switch_alias("live", "lime")
                # Reads through the alias go on, before and after its copy in the coordinator is too old.
                for pause in (0.0, 3.5):
                    time.sleep(pause)
                    hits = client.search(code=code(1), k=1, collection="live").hits
                    assert hits[0].key in {"blue 1", "green 1"}
            finally:
                cluster.kill(name, signal.SIGCONT)
        wait_until(lambda: all(replica.state == "serving" for part in client.status().partitions
                               for replica in part.replicas), 30)  # fmt: skip
        client.switch_alias("live", "lime")
        assert client.search(code=code(1), k=1, collection="live").hits[0].key == "green 1"
