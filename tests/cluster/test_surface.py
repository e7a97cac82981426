"""The public surface, call by call, on a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from lookalike import AsyncClient, Client, CodeSpace, Record
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, InvalidRequest, NotFound
from lookalike.transport.channels import open_channel
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.conftest import Cluster, running_cluster, second_coordinator


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def test_a_record_is_read_as_it_was_written(client: Client, collection: str) -> None:
    attributes = {"label": "cat", "n": 3, "nested": {"a": [1, 2.5, None, True]}, "text": "naïve \u0001 🙂"}
    client.upsert([Record("é/🙂", code=code(5), attributes=attributes)], collection=collection)
    (record,) = client.get(["é/🙂", "missing"], collection=collection)
    assert (record.key, record.code, record.attributes) == ("é/🙂", code(5), attributes)
    assert record.version > 0


def test_the_last_write_of_a_key_wins(client: Client, collection: str) -> None:
    client.upsert([Record("a", code=code(1)), Record("a", code=code(2))], collection=collection)
    client.upsert([Record("a", code=code(3), attributes={"n": 1})], collection=collection)
    (record,) = client.get(["a"], collection=collection)
    assert record.code == code(3)
    hits = client.search(code=code(3), k=5, collection=collection).hits
    assert [(hit.key, hit.distance, hit.score, hit.attributes) for hit in hits] == [("a", 0, 1.0, {"n": 1})]


def test_a_deleted_record_can_be_written_again(client: Client, collection: str) -> None:
    client.upsert([Record("a", code=code(1)), Record("b", code=code(2))], collection=collection)
    assert client.delete(["a", "never"], collection=collection) == 1
    assert client.delete(["a"], collection=collection) == 0
    assert client.get(["a"], collection=collection) == []
    assert [hit.key for hit in client.search(code=code(1), collection=collection).hits] == ["b"]
    client.upsert([Record("a", code=code(9))], collection=collection)
    assert client.get(["a"], collection=collection)[0].code == code(9)


def test_more_like_this_excludes_the_record_itself(client: Client, collection: str) -> None:
    client.upsert([Record(f"k{i}", code=code(i)) for i in range(8)], collection=collection)
    hits = client.search(key="k0", k=3, collection=collection).hits
    assert len(hits) == 3
    assert "k0" not in {hit.key for hit in hits}
    assert [hit.distance for hit in hits] == [1, 1, 1]


def test_a_batch_mixes_codes_and_keys(client: Client, collection: str) -> None:
    client.upsert([Record(f"k{i}", code=code(i)) for i in range(8)], collection=collection)
    by_code, by_key = client.search_batch(codes=[code(3)], keys=["k3"], k=1, collection=collection)
    assert by_code.hits[0].key == "k3"
    assert by_key.hits[0].key != "k3"


def test_max_distance_and_filter_restrict_the_result(client: Client, collection: str) -> None:
    client.upsert(
        [Record(f"k{i}", code=code(2**i - 1), attributes={"n": i, "odd": bool(i % 2)}) for i in range(10)],
        collection=collection,
    )

    def keys(**options: object) -> list[str]:
        return [hit.key for hit in client.search(code=code(0), collection=collection, **options).hits]

    assert keys(max_distance=2) == ["k0", "k1", "k2"]
    assert keys(filter={"odd": True, "n": {"$lt": 6}}) == ["k1", "k3", "k5"]
    assert keys(filter={"$or": [{"n": 0}, {"n": {"$in": [7, 8]}}]}) == ["k0", "k7", "k8"]
    assert keys(filter={"$not": {"n": {"$gte": 2}}}) == ["k0", "k1"]
    assert keys(filter={"absent": {"$exists": True}}) == []
    assert keys(filter={"n": 99}) == []


def test_attributes_come_only_when_asked_for(client: Client, collection: str) -> None:
    client.upsert([Record("a", code=code(1), attributes={"n": 1})], collection=collection)
    assert client.search(code=code(1), collection=collection).hits[0].attributes == {"n": 1}
    bare = client.search(code=code(1), collection=collection, include_attributes=False)
    assert bare.hits[0].attributes == {}


def test_ingest_returns_one_outcome_per_record_in_order(client: Client, collection: str) -> None:
    def records():
        for i in range(1_000):
            yield Record(f"k{i}", code=code(i) if i % 100 else b"short")

    outcomes = list(client.ingest(records(), collection=collection))
    assert [outcome.key for outcome in outcomes] == [f"k{i}" for i in range(1_000)]
    assert [i for i, outcome in enumerate(outcomes) if not outcome.ok] == list(range(0, 1_000, 100))
    assert all(isinstance(outcome.error, InvalidRequest) for outcome in outcomes if not outcome.ok)
    assert client.get_collection(collection).rows == 990


async def test_the_async_client_mirrors_the_sync_one(cluster: Cluster) -> None:
    async with AsyncClient(cluster.address) as client:
        await client.create_collection("mirrored", bits=64)
        assert await client.upsert([Record("a", code=code(1))], collection="mirrored") == 1
        outcomes = [outcome async for outcome in client.ingest([Record("b", code=code(2))], collection="mirrored")]
        assert [outcome.ok for outcome in outcomes] == [True]
        result = await client.search(code=code(1), k=1, collection="mirrored")
        assert result.hits[0].key == "a"
        (batch,) = await client.search_batch(keys=["a"], collection="mirrored")
        assert [hit.key for hit in batch.hits] == ["b"]
        assert [record.key for record in await client.get(["b"], collection="mirrored")] == ["b"]
        assert await client.delete(["a", "b"], collection="mirrored") == 2
        assert "mirrored" in {found.name for found in await client.list_collections()}
        assert (await client.get_collection("mirrored")).rows == 0
        await client.drop_collection("mirrored")
        assert (await client.status()).cluster == "throwaway"
        with pytest.raises(NotFound):
            await client.get_collection("mirrored")


def test_a_closed_client_raises_an_error(cluster: Cluster, collection: str) -> None:
    client = cluster.client()
    outcomes = client.ingest((Record(f"k{i}", code=bytes(8)) for i in itertools.count()), collection=collection)
    assert next(outcomes).ok
    client.close()
    with pytest.raises(InvalidRequest, match="client: is closed"):
        client.status()
    with pytest.raises(InvalidRequest, match="client: is closed"):
        list(outcomes)
    client.close()


def test_an_async_client_may_be_created_before_its_loop_and_is_bound_to_one(cluster: Cluster) -> None:
    client = AsyncClient(cluster.address)

    async def partitions() -> int:
        return len((await client.status()).partitions)

    async def call_twice_then_close() -> None:
        assert await partitions() == await partitions() == 3
        await client.close()
        with pytest.raises(InvalidRequest, match="client: is closed"):
            await partitions()

    asyncio.run(call_twice_then_close())
    with pytest.raises(
        InvalidRequest, match="client: belongs to another event loop; create an AsyncClient in each"
    ):
        asyncio.run(partitions())


def test_collections_are_created_listed_and_dropped(client: Client) -> None:
    space = CodeSpace(128, backbone="mine", hash_method="lsh", hash_digest="seed 1")
    made = client.create_collection("spaced", code_space=space)
    assert made.code_space == space
    with pytest.raises(AlreadyExists, match="exists"):
        client.create_collection("spaced", code_space=space)
    with pytest.raises(AlreadyExists, match="exists in code space"):
        client.create_collection("spaced", bits=128)
    assert client.get_collection("spaced").code_space.fingerprint == space.fingerprint
    client.drop_collection("spaced")
    with pytest.raises(NotFound):
        client.drop_collection("spaced")
    assert "spaced" not in {found.name for found in client.list_collections()}


def test_a_collection_recreated_in_a_different_space_is_noticed(cluster: Cluster, client: Client) -> None:
    """The coordinator and the client remember the old space; neither may mix the two."""
    client.create_collection("recreated", bits=64)
    client.upsert([Record("a", code=code(1))], collection="recreated")
    with cluster.client() as other:
        other.drop_collection("recreated")
        other.create_collection("recreated", code_space=CodeSpace(64, hash_digest="another seed"))
    with pytest.raises(CodeSpaceMismatch, match="encode again"):
        client.search(code=code(1), collection="recreated")
    assert client.search(code=code(1), collection="recreated").hits == []


def test_status_reports_partitions_rows_and_collections(client: Client, collection: str) -> None:
    client.upsert([Record(f"k{i}", code=code(i)) for i in range(50)], collection=collection)
    status = client.status()
    assert [partition.partition for partition in status.partitions] == [0, 1, 2]
    assert sum(partition.slots for partition in status.partitions) == 1_024
    assert {replica.state for partition in status.partitions for replica in partition.replicas} == {"serving"}
    assert status.encoder.state == "none"
    assert next(found.rows for found in status.collections if found.name == collection) == 50


def test_every_server_has_health_and_reflection(cluster: Cluster) -> None:
    for address, service in [
        (cluster.address, "lookalike.v1.SearchService"),
        (cluster.config.shard_address(1), "lookalike.v1.ShardService"),
    ]:
        with grpc.insecure_channel(address) as channel:
            for name in ("", service):
                request = health_pb2.HealthCheckRequest(service=name)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert service in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_the_web_port_serves_health_and_status(cluster: Cluster) -> None:
    base = f"http://{cluster.config.coordinator.web}"
    assert urllib.request.urlopen(f"{base}/healthz", timeout=5).read() == b"ok\n"
    with urllib.request.urlopen(f"{base}/v1/status", timeout=5) as response:
        assert len(json.load(response)["partitions"]) == 3


def test_writes_follow_a_recreated_collection(cluster: Cluster) -> None:
    """A second coordinator remembers the old code space; correct writes through it must not be refused."""
    with second_coordinator(cluster) as address, Client(address) as late, cluster.client() as client:
        client.create_collection("moved", bits=64)
        late.upsert([Record("a", code=code(1))], collection="moved")
        client.drop_collection("moved")
        space = CodeSpace(64, hash_digest="another seed")
        client.create_collection("moved", code_space=space)
        fresh = Record("b", code=code(2), fingerprint=space.fingerprint)
        assert late.upsert([fresh], collection="moved") == 1
        assert late.delete(["b"], collection="moved") == 1
        with pytest.raises(CodeSpaceMismatch):
            late.upsert([Record("c", code=code(3), fingerprint=CodeSpace(64).fingerprint)], collection="moved")


def test_the_later_write_through_two_coordinators_wins(cluster: Cluster, collection: str) -> None:
    with second_coordinator(cluster) as address, Client(address) as other, cluster.client() as client:
        for value in range(1, 30):
            writer = client if value % 2 else other
            writer.upsert([Record("a", code=code(value))], collection=collection)
            assert client.get(["a"], collection=collection)[0].code == code(value)


def test_an_error_in_the_input_iterator_is_raised_after_the_outcomes(client: Client, collection: str) -> None:
    def records() -> Iterator[Record]:
        for i in range(300):
            yield Record(f"k{i}", code=code(i))
        raise ZeroDivisionError("mine")

    stream = client.ingest(records(), collection=collection)
    assert [next(stream).key for _ in range(256)] == [f"k{i}" for i in range(256)]
    with pytest.raises(ZeroDivisionError, match="mine"):
        next(stream)
    with pytest.raises(InvalidRequest, match="attributes: are not JSON"):
        list(client.ingest([Record("x", code=code(1), attributes={"n": float("nan")})], collection=collection))


def test_many_concurrent_large_responses_all_succeed(client: Client, collection: str, cluster: Cluster) -> None:
    """Each answer fits into a message, but all answers of one RPC together would not."""
    text = "x" * 50_000
    client.upsert(
        [Record(f"k{i}", code=code(i), attributes={"text": text}) for i in range(600)], collection=collection
    )

    async def ask_at_once() -> None:
        async with AsyncClient(cluster.address, timeout=120) as many:
            results = await asyncio.gather(
                *(many.search(code=code(i), k=300, collection=collection) for i in range(12))
            )
            assert [len(result.hits) for result in results] == [300] * 12

    asyncio.run(ask_at_once())
    many = pb.SearchBatchRequest(
        collection=collection, queries=[pb.Query(key="k0")] * 21, options=pb.SearchOptions(k=10_000)
    )
    with (
        open_channel(grpc, cluster.address) as channel,
        pytest.raises(grpc.RpcError, match="over 200,000 in all"),
    ):
        SearchServiceStub(channel).SearchBatch(many)


def test_a_shard_that_missed_a_drop_does_not_revive_the_collection(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as own, own.client(timeout=4) as client:
        client.create_collection("c", bits=64)
        client.upsert([Record(f"k{i}", code=code(i)) for i in range(100)], collection="c")
        own.kill("shard-r0-1", signal.SIGSTOP)
        client.drop_collection("c")
        own.kill("shard-r0-1", signal.SIGCONT)
        with pytest.raises(NotFound):
            client.search(code=code(0), collection="c")
        client.create_collection("c", bits=64)
        assert client.search(code=code(0), collection="c").hits == []
        assert client.get_collection("c").rows == 0


def test_concurrent_create_and_drop_leave_a_consistent_state(cluster: Cluster, client: Client) -> None:
    def drop_repeatedly() -> None:
        with cluster.client() as other:
            for _ in range(30):
                with contextlib.suppress(NotFound, AlreadyExists):
                    other.drop_collection("contested")

    thread = threading.Thread(target=drop_repeatedly)
    thread.start()
    for _ in range(30):
        with contextlib.suppress(NotFound, AlreadyExists):
            client.create_collection("contested", bits=64)
    thread.join()
    with contextlib.suppress(AlreadyExists):
        client.create_collection("contested", bits=64)
    client.upsert([Record(f"k{i}", code=code(i)) for i in range(50)], collection="contested")
    assert client.search(code=code(0), k=50, collection="contested").coverage.rows_searched == 50
    client.drop_collection("contested")
