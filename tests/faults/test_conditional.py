"""Writes under a condition while shards are killed: what docs/CONSISTENCY.md promises of them."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import grpc
import pytest

from lookalike import Client, Record
from lookalike.errors import LookalikeError, VersionConflict
from lookalike.model.records import VERSIONS_PER_MS
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests.conftest import running_cluster
from tests.faults.test_resharding import User


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def test_a_reservation_outlives_the_shard_that_made_it(tmp_path: Path) -> None:
    """A change reserves a key, the shard is killed, and another write takes place before the change is stored."""
    with running_cluster(tmp_path, partitions=1) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record("a", code=code(1))], collection="c")
        (before,) = client.get(["a"], collection="c")
        reserved = before.version + 5_000 * VERSIONS_PER_MS
        fingerprint = client.get_collection("c").code_space.fingerprint

        def write(version: int, **fields: object) -> dict[int, int]:
            """Returns what superseded the record."""
            request = shard_pb2.WriteRequest(collection="c", fingerprint=fingerprint, **fields)
            if not request.reservations:
                request.records.add(key="a", code=code(9), attributes="{}", version=version)
            with grpc.insecure_channel(cluster.config.shard_address(0, 0)) as channel:
                answer = ShardServiceStub(channel).Write(request)
            return dict(zip(answer.superseded, answer.superseded_by, strict=True))

        reservation = shard_pb2.Reservation(key="a", version=reserved, base=before.version)
        assert write(reserved, reservations=[reservation]) == {}
        cluster.wait_restarted("shard-r0-0", cluster.kill("shard-r0-0"))
        assert list(write(reserved - 1)) == [0]
        assert list(write(reserved, reserved=True)) == [0]
        # Other writers, under the condition of the same version or under none, take higher versions.
        client.upsert([Record("a", code=code(2), if_version=before.version)], collection="c")
        client.upsert([Record("b", code=code(3))], collection="c")
        (after,) = client.get(["a"], collection="c")
        assert after.code == code(2)
        assert after.version > reserved
        with pytest.raises(VersionConflict):
            client.upsert([Record("a", code=code(4), if_version=before.version)], collection="c")


def test_no_count_is_lost_while_replicas_are_killed(tmp_path: Path) -> None:
    """Users count up the same records. Every acknowledged count is there in the end, and no version was replaced
    twice."""
    keys = ["a", "b", "c"]
    lock = threading.Lock()
    winners: dict[tuple[str, int], str] = {}
    unknown = dict.fromkeys(keys, 0)
    acknowledged = dict.fromkeys(keys, 0)

    def count_up(client: Client, choice: random.Random) -> None:
        key, by = choice.choice(keys), str(choice.random())
        try:
            (record,) = client.get([key], collection="c", consistency="quorum")
        except LookalikeError:
            return
        count = record.attributes["count"] + 1
        new = Record(key, code=code(0), attributes={"count": count, "by": by}, if_version=record.version)
        try:
            client.upsert([new], collection="c")
        except VersionConflict:
            return
        except LookalikeError:
            with lock:
                unknown[key] += 1
            return
        with lock:
            acknowledged[key] += 1
            assert winners.setdefault((key, count), by) == by, f"{key}: two writers counted to {count}"

    with running_cluster(tmp_path, partitions=2, replicas=3) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(key, code=code(0), attributes={"count": 0}) for key in keys], collection="c")
        users = [User(cluster, count_up, seed) for seed in range(4)]
        try:
            for name in ("shard-r0-0", "shard-r1-1", "shard-r2-0", "shard-r0-1"):
                cluster.wait_restarted(name, cluster.kill(name))
        finally:
            for user in users:
                user.stop()
        assert [user.failures for user in users] == [[]] * 4
        for record in client.get(keys, collection="c", consistency="quorum"):
            done = acknowledged[record.key]
            assert done > 3
            assert done <= record.attributes["count"] <= done + unknown[record.key]
