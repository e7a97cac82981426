"""Streams of scans between a real shard and the coordinator's client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike.cluster.scan import ScanGroup, ScanResult
from lookalike.model.errors import DeadlineExceeded, NotFound, Overloaded, PartitionUnavailable, SlotMoved
from lookalike.server.shard_client import ShardClient
from lookalike.v1 import shard_pb2 as pb
from tests.unit.shard.replicas import SPACE, Shard, shards, until

KEYS = [f"k{number}" for number in range(5)]


def group(collection: str = "c", k: int = 1, key: str = "k3") -> ScanGroup:
    code = np.frombuffer(key.encode().ljust(8), np.uint8).reshape(1, -1)
    return ScanGroup(collection, SPACE.fingerprint, code, k)


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def keys_of(client: ShardClient, k: int = 1, key: str = "k3") -> list[str]:
    (result,) = await client.scan([group(k=k, key=key)], b"", soon())
    assert isinstance(result, ScanResult), result
    return list(result.hits.keys)


@pytest.fixture
async def shard() -> AsyncIterator[Shard]:
    async with shards() as cluster:
        started = await cluster.start(0)
        started.replicate()
        await until(lambda: started.readiness.is_ready)
        await started.write(*KEYS)
        yield started


@pytest.fixture
async def client(shard: Shard) -> AsyncIterator[ShardClient]:
    client = ShardClient(0, 0, shard.config.shard_address(0, 0), shard.peer_channels)
    yield client
    await client.close()


class Held:
    """Lets a shard's scans wait until `release`."""

    def __init__(self, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = self.cancelled = 0
        self.released = asyncio.Event()
        self._scan: Callable[[Any], Awaitable[ScanResult]] = shard.executor.scan
        monkeypatch.setattr(shard.executor, "scan", self._held)

    async def _held(self, scan: Any) -> ScanResult:
        self.began += 1
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self._scan(scan)


async def test_answers_reach_their_requests_whatever_their_order(client: ShardClient) -> None:
    found = await asyncio.gather(*(keys_of(client, key=key) for key in KEYS * 20))
    assert found == [[key] for key in KEYS * 20]


async def test_an_error_is_that_of_its_request_only(client: ShardClient) -> None:
    missing, found = await asyncio.gather(client.scan([group("absent")], b"", soon()), keys_of(client))
    assert found == ["k3"]
    assert isinstance(missing[0], NotFound)
    assert missing[0].message.startswith("partition 0: collection: 'absent' does not exist")


async def test_a_caller_that_leaves_cancels_its_scan_and_no_other(
    shard: Shard, client: ShardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(shard, monkeypatch)
    leaving, staying = (asyncio.create_task(keys_of(client)) for _ in range(2))
    await until(lambda: held.began == 2)
    leaving.cancel()
    await until(lambda: held.cancelled == 1)
    held.released.set()
    assert await staying == ["k3"]
    assert held.cancelled == 1


async def test_a_request_that_is_late_fails_and_cancels_its_scan(
    shard: Shard, client: ShardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(shard, monkeypatch)
    with pytest.raises(DeadlineExceeded, match="partition 0 did not answer in time"):
        await client.scan([group()], b"", soon(0.2))
    await until(lambda: held.cancelled == 1)
    held.released.set()
    assert await keys_of(client) == ["k3"]


async def test_a_shard_without_room_refuses_a_request(shard: Shard, client: ShardClient) -> None:
    with shard.admission.admit(shard.admission.limit - 5_000), pytest.raises(Overloaded, match="are in flight"):
        await client.scan([group()], b"", soon())
    assert await keys_of(client) == ["k3"]
    assert shard.admission.taken == 0


async def test_a_retired_client_finishes_its_scans(
    shard: Shard, client: ShardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(shard, monkeypatch)
    running = asyncio.create_task(keys_of(client))
    await until(lambda: held.began == 1)
    retiring = asyncio.create_task(client.retire())
    await asyncio.sleep(0.1)
    held.released.set()
    assert await running == ["k3"]
    await retiring
    with pytest.raises(SlotMoved):
        await keys_of(client)


async def test_requests_on_a_stream_that_breaks_fail_as_the_replica_does(
    shard: Shard, client: ShardClient
) -> None:
    assert await keys_of(client) == ["k3"]
    await shard.server.grpc.stop(None)
    for _ in range(2):  # on the open stream, and on a new one
        with pytest.raises(PartitionUnavailable, match="does not answer"):
            await client.scan([group()], b"", soon())


async def test_a_stopping_shard_answers_what_it_has_read(
    shard: Shard, client: ShardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(shard, monkeypatch)
    running = asyncio.create_task(keys_of(client))
    await until(lambda: held.began == 1)
    shard.servicer.drain()
    stopping = asyncio.create_task(shard.server.grpc.stop(10.0))
    await asyncio.sleep(0.1)
    held.released.set()
    assert await running == ["k3"]
    await asyncio.wait_for(stopping, 5.0)  # it does not wait for the open stream


async def test_a_shard_without_streams_is_asked_by_calls(shard: Shard) -> None:
    calls = 0

    async def scan(request: pb.ScanRequest, context: Any) -> pb.ScanResponse:
        nonlocal calls
        calls += 1
        return await shard.servicer.Scan(request, context)

    handler = grpc.unary_unary_rpc_method_handler(
        scan, pb.ScanRequest.FromString, pb.ScanResponse.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["ShardService"].full_name
    older = grpc.aio.server()
    older.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Scan": handler})])
    port = older.add_insecure_port("127.0.0.1:0")
    await older.start()
    client = ShardClient(0, 0, f"127.0.0.1:{port}", shard.peer_channels)
    assert [await keys_of(client) for _ in range(2)] == [["k3"], ["k3"]]
    assert calls == 2
    await client.close()
    await older.stop(None)
