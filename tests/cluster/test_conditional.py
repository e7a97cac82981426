"""Writes under a condition (`if_version`) on a real cluster: through the SDK, the command and gRPC."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import grpc
import pytest

from lookalike import Client, Record
from lookalike.errors import InvalidRequest, VersionConflict
from lookalike.v1 import record_pb2, search_pb2
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.command import lookalike
from tests.conftest import Cluster, running_cluster, second_coordinator

THUMBNAIL = b"\xff\xd8\xff\xe0 jpeg"


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


def version_of(client: Client, collection: str, key: str) -> int:
    (record,) = client.get([key], collection=collection, consistency="quorum")
    return record.version


def test_an_upsert_stores_a_record_only_over_the_version_that_it_names(client: Client, collection: str) -> None:
    def upsert(value: int, if_version: int) -> int:
        record = Record("a", code=code(value), attributes={"n": value}, if_version=if_version)
        return client.upsert([record], collection=collection)

    with pytest.raises(VersionConflict, match="record 'a' does not exist, not 7; read again"):
        upsert(0, 7)
    assert upsert(1, 0) == 1
    with pytest.raises(VersionConflict, match=r"record 'a' has version \d+, but must not exist"):
        upsert(2, 0)
    first = version_of(client, collection, "a")
    assert upsert(3, first) == 1
    with pytest.raises(VersionConflict, match=rf"record 'a' has version \d+, not {first}"):
        upsert(4, first)
    (record,) = client.get(["a"], collection=collection)
    assert (record.code, record.attributes) == (code(3), {"n": 3})
    # A deleted record does not exist, whatever its tombstone's version is.
    client.delete(["a"], collection=collection)
    assert upsert(5, 0) == 1


def test_nothing_is_stored_if_one_condition_does_not_hold(client: Client, collection: str) -> None:
    client.upsert([Record("b", code=code(1))], collection=collection)
    records = [Record(key, code=code(9), if_version=0) for key in ("a", "b", "c")]
    with pytest.raises(VersionConflict, match="record 'b' has version"):
        client.upsert(records, collection=collection)
    assert client.exists(["a", "b", "c"], collection=collection) == [False, True, False]
    (record,) = client.get(["b"], collection=collection)
    assert record.code == code(1)


def test_a_delete_and_a_change_name_versions_too(client: Client, collection: str) -> None:
    client.upsert([Record(key, code=code(1), thumbnail=THUMBNAIL) for key in "ab"], collection=collection)
    versions = [version_of(client, collection, key) for key in "ab"]
    changed = client.set_attributes({"n": 1}, collection=collection, keys=["a", "b"], if_versions=versions)
    assert changed == 2
    for call in (
        lambda: client.set_attributes({"n": 2}, collection=collection, keys=["a", "b"], if_versions=versions),
        lambda: client.remove_attributes(["n"], collection=collection, keys=["b"], if_versions=versions[1:]),
        lambda: client.delete(["a", "b"], collection=collection, if_versions=versions),
    ):
        with pytest.raises(VersionConflict):
            call()
    for record in client.get(["a", "b"], collection=collection, include_thumbnails=True):
        assert (record.attributes, record.thumbnail) == ({"n": 1}, THUMBNAIL)
    latest = [version_of(client, collection, key) for key in "ab"]
    assert client.delete(["a", "b"], collection=collection, if_versions=latest) == 2
    with pytest.raises(VersionConflict, match="'a' does not exist"):
        client.delete(["a"], collection=collection, if_versions=latest[:1])


def test_bad_conditions_are_refused(cluster: Cluster, client: Client, collection: str) -> None:
    some = [Record("a", code=code(1), if_version=0), Record("b", code=code(1))]
    for call, message in (
        (lambda: client.upsert(some, collection=collection), "if_version: is given for some records only"),
        (lambda: client.upsert([some[0], some[0]], collection=collection), "key: 'a' occurs twice"),
        (lambda: client.upsert([Record("a", code=code(1), if_version=-1)], collection=collection), "is -1; give"),
        (lambda: client.delete(["a"], collection=collection, if_versions=[0]), "if_versions: is 0; give"),
        (lambda: client.delete(["a"], collection=collection, if_versions=[1, 2]), "if_versions: 2 for 1 keys"),
        (
            lambda: client.set_attributes({"n": 1}, collection=collection, filter={"n": 1}, if_versions=[1]),
            "if_versions: are given with a filter",
        ),
        (lambda: list(client.ingest(some[:1], collection=collection)), "if_version: is for Upsert"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            call()


def test_a_conflict_is_aborted(cluster: Cluster, client: Client, collection: str) -> None:
    space = client.get_collection(collection).code_space
    record = record_pb2.Record(key="a", code=code(1), if_version=5)
    request = search_pb2.UpsertRequest(collection=collection, records=[record], fingerprint=space.fingerprint)
    with grpc.insecure_channel(cluster.address) as channel, pytest.raises(grpc.RpcError) as failure:
        SearchServiceStub(channel).Upsert(request)
    assert failure.value.code() is grpc.StatusCode.ABORTED


def test_the_command_takes_a_version(cluster: Cluster, client: Client, collection: str) -> None:
    client.upsert([Record("a", code=code(1))], collection=collection)
    version = version_of(client, collection, "a")
    place = ["--collection", collection, "--server", cluster.address]
    change = ["set", "a", "-a", '{"n": 1}', *place, "--if-version"]
    status, _, error = lookalike(*change, version - 1)
    assert status == 1
    assert f"record 'a' has version {version}, not {version - 1}" in error
    assert lookalike(*change, version)[0] == 0
    assert lookalike("delete", "a", *place, "--if-version", version)[0] == 1
    assert lookalike("delete", "a", *place, "--if-version", version_of(client, collection, "a"))[0] == 0
    assert json.loads(lookalike("count", *place, "--json")[1])["count"] == 0
    assert "needs exactly one key" in lookalike("delete", "a", "b", *place, "--if-version", 1)[2]


def test_of_concurrent_writers_of_one_version_one_succeeds(tmp_path: Path) -> None:
    """Threads count up one record, reading and writing it under the condition that nobody else wrote it, through
    two coordinators, while others set attributes of it: no count and no attribute may be lost."""
    writers, counts = 3, 8
    with running_cluster(tmp_path, partitions=2, replicas=3) as cluster, second_coordinator(cluster) as second:
        with cluster.client() as client:
            client.create_collection("c", bits=64)
            client.upsert([Record("a", code=code(0), attributes={"count": 0})], collection="c")
        addresses, failures = [cluster.address, second], list[Exception]()

        def count_up(client: Client) -> None:
            done = 0
            while done < counts:
                (record,) = client.get(["a"], collection="c", consistency="quorum")
                attributes = {**record.attributes, "count": record.attributes["count"] + 1}
                new = Record("a", code=code(0), attributes=attributes, if_version=record.version)
                try:
                    done += client.upsert([new], collection="c")
                except VersionConflict:
                    continue

        def set_own(client: Client, name: str) -> None:
            for i in range(counts):
                client.set_attributes({name: i}, collection="c", keys=["a"])

        def in_thread(number: int) -> None:
            try:
                with Client(addresses[number % 2]) as client:
                    if number < writers:
                        count_up(client)
                    else:
                        set_own(client, f"t{number}")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(writers + 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with cluster.client() as client:
            (record,) = client.get(["a"], collection="c", consistency="quorum")
        own = {f"t{number}": counts - 1 for number in range(writers, writers + 2)}
        assert record.attributes == {"count": writers * counts, **own}
