"""Owns the lower limit of the benchmark `system`: what one query costs at least, if four shards and a coordinator
in Python exchange gRPC messages.

A shard scans with Lookalike's kernel, and a stream from the coordinator to each shard stays open, but neither
checks anything, looks up keys or measures itself. The coordinator answers one Search at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np

from benchmarks import faiss_cluster
from benchmarks.faiss_cluster import Codes, Context
from lookalike.transport.rpc import CHANNEL_OPTIONS
from lookalike.v1.record_pb2 import Hit
from lookalike.v1.search_pb2 import SearchRequest, SearchResponse
from shard.kernel import CodeMatrix

K = 10
_HIT = np.dtype([("distance", "<u2"), ("id", "<u8")])
Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class Shard:
    """The codes of a part of a code file, with their row numbers as ids."""

    service = "bare.Shard"

    def __init__(self, codes: Codes, first: int) -> None:
        self._matrix = CodeMatrix(codes.shape[1] * 8)
        self._matrix.append(codes, np.arange(first, first + len(codes), dtype=np.uint64))
        self._matrix.warm_up()

    def methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {"Scan": grpc.stream_stream_rpc_method_handler(self.scan)}

    async def scan(self, codes: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for code in codes:
            matches = self._matrix.scan(np.frombuffer(code, np.uint8).reshape(1, -1), K)
            hits = np.empty(matches.counts[0], _HIT)
            hits["distance"], hits["id"] = matches.distances[0], matches.ids[0]
            yield hits.tobytes()


class Coordinator:
    """Sends the query's code to the shards at `addresses` and merges their hits."""

    service = faiss_cluster.Coordinator.service

    def __init__(self, addresses: Sequence[str], bits: int) -> None:
        self._bits = bits
        self._addresses = addresses
        self._streams: list[Stream] = []
        self._is_free = asyncio.Lock()

    def methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {"Search": faiss_cluster.method(self.search, SearchRequest, SearchResponse)}

    async def search(self, request: SearchRequest, context: Context) -> SearchResponse:
        async with self._is_free:
            if not self._streams:
                self._streams = [_open(address) for address in self._addresses]
            for stream in self._streams:
                await stream.write(request.query.code)
            parts = [np.frombuffer(await stream.read(), _HIT) for stream in self._streams]
        nearest = np.sort(np.concatenate(parts))[:K].tolist()
        return SearchResponse(
            hits=[
                Hit(key=f"k{row}", distance=distance, score=1 - distance / self._bits) for distance, row in nearest
            ]
        )


def _open(address: str) -> Stream:
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return channel.stream_stream(f"/{Shard.service}/Scan")()


if __name__ == "__main__":
    faiss_cluster.main(Shard, Coordinator)
