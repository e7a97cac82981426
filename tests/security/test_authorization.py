"""Authorization of API keys on a coordinator: missing, unknown, insufficient and sufficient keys."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike import AsyncClient, Client, Record
from lookalike.cluster.slots import all_slots
from lookalike.model.errors import (
    InvalidRequest,
    PermissionDenied,
    Unauthenticated,
)
from lookalike.v1 import search_pb2
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.security.conftest import BITS, SecuredCluster

pytestmark = pytest.mark.usefixtures("photos")


CALLS: dict[str, Callable[[Client], object]] = {
    "search": lambda client: client.search(code=bytes(8), k=1, collection="photos"),
    "search_batch": lambda client: client.search_batch(codes=[bytes(8)], k=1, collection="photos"),
    "get": lambda client: client.get(["a"], collection="photos"),
    "collection": lambda client: client.get_collection("photos"),
    "upsert": lambda client: client.upsert([Record("x", code=bytes(8))], collection="photos"),
    "ingest": lambda client: list(
        client.ingest([Record("x", code=bytes(8), fingerprint="0" * 64)], collection="photos")
    ),
    "delete": lambda client: client.delete(["x"], collection="photos"),
    "create": lambda client: client.create_collection("photos", bits=BITS),
    "drop": lambda client: client.drop_collection("photos"),
    "backup": lambda client: list(client.backup("photos", all_slots())),
}


def test_each_role_permits_its_calls(secured: SecuredCluster) -> None:
    with secured.client("search") as client:
        assert client.search(code=bytes(8), k=1, collection="photos").hits[0].key == "a"
    with secured.client("write") as client:
        assert client.upsert([Record("c", code=b"\x01" * 8)], collection="photos") == 1
        assert [outcome.ok for outcome in client.ingest([Record("d", code=b"\x02" * 8)], collection="photos")] == [
            True
        ]
        assert client.delete(["c", "d"], collection="photos") == 2


async def test_the_async_client_sends_its_key(secured: SecuredCluster) -> None:
    address = secured.cluster.address
    async with AsyncClient(address, api_key=secured.keys["search"], tls=secured.tls) as client:
        assert (await client.search(code=bytes(8), k=1, collection="photos")).hits
    async with AsyncClient(address, tls=secured.tls) as client:
        with pytest.raises(Unauthenticated):
            await client.search(code=bytes(8), k=1, collection="photos")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_a_key_is_rejected(secured: SecuredCluster, name: str) -> None:
    with (
        Client(secured.cluster.address, tls=secured.tls) as client,
        pytest.raises(Unauthenticated, match="API key"),
    ):
        CALLS[name](client)


@pytest.mark.parametrize("name", CALLS)
def test_a_key_for_another_collection_is_denied(secured: SecuredCluster, name: str) -> None:
    with secured.client("other") as client, pytest.raises(PermissionDenied, match="key 'other'"):
        CALLS[name](client)


@pytest.mark.parametrize("name", ["upsert", "ingest", "delete", "create", "drop", "backup"])
def test_the_search_role_cannot_write(secured: SecuredCluster, name: str) -> None:
    with secured.client("search") as client, pytest.raises(PermissionDenied, match="needs role"):
        CALLS[name](client)
    with secured.client() as client:
        assert client.get_collection("photos").rows == 2


def test_unknown_keys_are_rejected(secured: SecuredCluster) -> None:
    real = secured.keys["search"]
    for key in ("x", "lk_" + "0" * 12 + "_" + "A" * 43, real[:-1], real[:16] + secrets.token_urlsafe(32)):
        with (
            Client(secured.cluster.address, api_key=key, tls=secured.tls) as client,
            pytest.raises(Unauthenticated, match="unknown or expired"),
        ):
            client.status()


def test_the_client_rejects_a_key_that_is_not_one_line_of_ascii(secured: SecuredCluster) -> None:
    for key in ("two\nlines", "schlüssel"):
        with pytest.raises(InvalidRequest, match="api_key: is not a line of ASCII"):
            Client(secured.cluster.address, api_key=key)


def test_a_call_without_a_key_is_rejected_before_its_message_is_read(secured: SecuredCluster) -> None:
    silence = threading.Event()

    def never() -> Iterator[bytes]:
        silence.wait(20)
        yield b""

    with secured.channel(secured.cluster.address) as channel:
        call = channel.stream_unary("/lookalike.v1.SearchService/Upsert")
        with pytest.raises(grpc.RpcError) as rejected:
            call(never(), timeout=5)
        silence.set()
    assert rejected.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_bearer_scheme_is_case_insensitive_and_optional(secured: SecuredCluster) -> None:
    with secured.channel(secured.cluster.address) as channel:
        for scheme in ("Bearer ", "bearer ", "BEARER ", ""):
            metadata = [("authorization", scheme + secured.keys["search"])]
            listed = SearchServiceStub(channel).ListCollections(
                search_pb2.ListCollectionsRequest(), timeout=5, metadata=metadata
            )
            assert [collection.name for collection in listed.collections] == ["photos"]


def test_a_key_lists_only_the_collections_that_it_may_search(secured: SecuredCluster) -> None:
    with secured.client("other") as client:
        assert [collection.name for collection in client.list_collections()] == ["others"]
        assert [collection.name for collection in client.status().collections] == ["others"]
    with secured.client() as client:
        assert {"photos", "others"} <= {collection.name for collection in client.list_collections()}


def test_health_needs_no_key(secured: SecuredCluster) -> None:
    with secured.channel(secured.cluster.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
