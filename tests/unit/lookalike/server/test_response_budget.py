"""Unread answers take their share of memory and no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from lookalike.server.admission import Admission
from lookalike.server.serving import Server
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1 import record_pb2, search_pb2_grpc
from lookalike.v1 import search_pb2 as pb

MIB = 2**20
GET = "/lookalike.v1.SearchService/Get"
# By default, gRPC's client buffers as much unread data as the connection's estimated bandwidth allows.
SMALL_BUFFER = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
LARGE, SMALL = pb.GetRequest(keys=["large"]), pb.GetRequest(keys=["small"])


class Answers(search_pb2_grpc.SearchServiceServicer):
    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        size = 8 * MIB if request.keys == ["large"] else 1_000
        return pb.GetResponse(records=[record_pb2.Record(attributes="x" * size)])


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = Server([], Admission(50 * MIB))
    search_pb2_grpc.add_SearchServiceServicer_to_server(Answers(), server.services)
    yield f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    await server.grpc.stop(None)


async def refusal(stub: Any) -> str:
    """Requests a large answer. Returns the error, or "" if there is none."""
    try:
        await stub.Get(LARGE)
    except grpc.aio.AioRpcError as refused:
        return f"{refused.code()} {refused.details()} {refused.trailing_metadata()}"
    return ""


async def test_unread_answers_block_only_large_ones_until_their_callers_leave(address: str) -> None:
    async with (
        grpc.aio.insecure_channel(address, options=[*CHANNEL_OPTIONS, *SMALL_BUFFER]) as unreading,
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        asyncio.timeout(30),
    ):
        stub: Any = search_pb2_grpc.SearchServiceStub(channel)
        # Called as a stream, because gRPC reads a stream's answer only when it is requested.
        unread = [unreading.unary_stream(GET)(LARGE.SerializeToString()) for _ in range(6)]
        for call in unread:
            await call.initial_metadata()  # the message follows it
        assert re.search("RESOURCE_EXHAUSTED .* are not read yet.*retry-after-ms", await refusal(stub))
        assert len((await stub.Get(SMALL)).records) == 1
        for call in unread:
            call.cancel()
        while await refusal(stub):
            pass


async def test_answers_that_are_read_are_never_refused(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel, asyncio.timeout(30):
        stub: Any = search_pb2_grpc.SearchServiceStub(channel)
        for _ in range(10):
            assert len((await stub.Get(LARGE)).records) == 1
