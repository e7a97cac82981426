"""Callers of the methods that need no key do not block others, even if they do not read, do not send, or are
many."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.server import health
from lookalike.server.admission import Admission
from lookalike.server.serving import LIVENESS, Server

STATES = health_pb2.HealthCheckResponse
ANY = health_pb2.HealthCheckRequest()
CHECK = "/grpc.health.v1.Health/Check"


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server([], Admission(1))
    port = await server.start("127.0.0.1:0")
    yield server, f"127.0.0.1:{port}"
    await server.grpc.stop(None)


@pytest.fixture
async def stub(server: tuple[Server, str]) -> AsyncIterator[health_pb2_grpc.HealthAsyncStub]:
    async with grpc.aio.insecure_channel(server[1]) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def watch_with_no_window() -> bytes:
    """The HTTP/2 frames of a caller that does not let the server send any byte of an answer."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    no_window = frame(4, 0, 0, struct.pack(">HI", 4, 0))
    call = frame(1, 4, 1, b"".join(header(*one) for one in headers.items())) + frame(0, 1, 1, bytes(5))
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_window + call


async def test_watcher_that_does_not_read_does_not_delay_shutdown(
    server: tuple[Server, str], stub: health_pb2_grpc.HealthAsyncStub
) -> None:
    host, _, port = server[1].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(watch_with_no_window())
    await reader.readuntil(b"application/grpc")  # the answer's headers; its first message is blocked
    async with asyncio.timeout(20):
        watching = stub.Watch(ANY)
        assert (await watching.read()).status == STATES.NOT_SERVING
        await server[0].set_ready()
        assert (await watching.read()).status == STATES.SERVING
    writer.close()


async def test_watcher_gets_not_serving_and_its_stream_ends(
    server: tuple[Server, str], stub: health_pb2_grpc.HealthAsyncStub
) -> None:
    await server[0].set_ready()
    watching = stub.Watch(ANY)
    assert (await watching.read()).status == STATES.SERVING
    await server[0].stop()
    assert (await watching.read()).status == STATES.NOT_SERVING
    assert await watching.read() is grpc.aio.EOF


async def test_unknown_service_is_not_found(stub: health_pb2_grpc.HealthAsyncStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await stub.Check(health_pb2.HealthCheckRequest(service="unknown"))


async def test_list_returns_every_service(
    server: tuple[Server, str], stub: health_pb2_grpc.HealthAsyncStub
) -> None:
    for is_ready, state in ((False, STATES.NOT_SERVING), (True, STATES.SERVING)):
        await server[0].set_ready(is_ready)
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=5)
        assert {name: answer.status for name, answer in listed.statuses.items()} == {
            "": state,
            LIVENESS: STATES.SERVING,
        }


async def test_watchers_over_the_limit_are_refused_and_checks_are_not(
    stub: health_pb2_grpc.HealthAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MAX_STREAMS", 2)
    watching = [stub.Watch(ANY) for _ in range(2)]
    for watcher in watching:
        await watcher.read()
    with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
        await stub.Watch(ANY).read()
    assert (await stub.Check(ANY)).status == STATES.NOT_SERVING
    watching[0].cancel()

    async def is_refused() -> bool:
        try:
            await stub.Watch(ANY).read()
        except grpc.aio.AioRpcError:
            return True
        return False

    async with asyncio.timeout(20):
        while await is_refused():
            pass


async def test_check_without_a_message_ends(server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MESSAGE_SECONDS", 0.1)

    async with grpc.aio.insecure_channel(server[1]) as channel, asyncio.timeout(20):
        with pytest.raises(grpc.aio.AioRpcError, match="did not arrive"):
            await channel.stream_unary(CHECK)()
