"""Owns the baseline of the benchmark `system`: a hand-written cluster of FAISS's IndexBinaryFlat behind gRPC, with
four shards and a coordinator. It stores nothing and reads its codes from a .npy file.

A shard is a process with an index and the keys of its rows. The coordinator sends every Search and SearchBatch to
all shards, one unary call each, and merges by (distance, id), where the id is the row's number. Channels are
created once, searches do not block the event loop, and messages and event loop are the same as Lookalike's."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import grpc
import numpy as np
import numpy.typing as npt
import psutil
import uvloop

from lookalike.server.config import ClusterConfig
from lookalike.server.lifecycle import until_stopped
from lookalike.transport.rpc import CHANNEL_OPTIONS, SERVER_OPTIONS
from lookalike.v1.record_pb2 import Hit
from lookalike.v1.search_pb2 import (
    Hits,
    Query,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchRequest,
    SearchResponse,
)
from lookalike.v1.shard_pb2 import ScanGroup, ScanHits

SEARCH_THREADS = 2
START_SECONDS = 120.0
STOP_SECONDS = 10.0
_DISTANCE, _ID = np.dtype("<u2"), np.dtype("<u8")

Codes = npt.NDArray[np.uint8]
Context = grpc.aio.ServicerContext[Any, Any]


class Shard:
    """An index of the rows of a code file from `first` on, and a key per row."""

    service = "faiss.Shard"

    def __init__(self, codes: Codes, first: int) -> None:
        self._code_bytes = codes.shape[1]
        self._index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
        self._index.add(codes)
        self._first = first
        self._keys = [f"k{row}" for row in range(first, first + len(codes))]
        # OpenMP's number of threads is per calling thread.
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, initializer=faiss.omp_set_num_threads, initargs=(1,))

    def methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {"Scan": method(self.scan, ScanGroup, ScanHits)}

    async def scan(self, request: ScanGroup, context: Context) -> ScanHits:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._scan, request)

    def _scan(self, request: ScanGroup) -> ScanHits:
        codes = np.frombuffer(request.codes, np.uint8).reshape(-1, self._code_bytes)
        distances, rows = self._index.search(codes, min(request.k, len(self._keys)))
        return ScanHits(
            counts=[rows.shape[1]] * len(rows),
            distances=distances.astype(_DISTANCE).tobytes(),
            ids=(rows + self._first).astype(_ID).tobytes(),
            keys=[self._keys[row] for row in rows.ravel().tolist()],
        )


class Coordinator:
    """Sends queries to the shards at `addresses` and merges their hits."""

    service = "lookalike.v1.SearchService"

    def __init__(self, addresses: Sequence[str], bits: int) -> None:
        self._bits = bits
        channels = [grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for address in addresses]
        self._scans = [
            channel.unary_unary(f"/{Shard.service}/Scan", ScanGroup.SerializeToString, ScanHits.FromString)
            for channel in channels
        ]

    def methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "Search": method(self.search, SearchRequest, SearchResponse),
            "SearchBatch": method(self.search_batch, SearchBatchRequest, SearchBatchResponse),
        }

    async def search(self, request: SearchRequest, context: Context) -> SearchResponse:
        (hits,) = await self._search([request.query], request.options.k)
        return SearchResponse(hits=hits)

    async def search_batch(self, request: SearchBatchRequest, context: Context) -> SearchBatchResponse:
        results = await self._search(request.queries, request.options.k)
        return SearchBatchResponse(results=[Hits(hits=hits) for hits in results])

    async def _search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        request = ScanGroup(codes=b"".join(query.code for query in queries), k=k)
        answers = await asyncio.gather(*(scan(request) for scan in self._scans))
        parts = [_rows(answer) for answer in answers]
        return [
            [
                Hit(key=key, distance=distance, score=1 - distance / self._bits)
                for distance, _, key in heapq.nsmallest(k, (row for part in parts for row in part[q]))
            ]
            for q in range(len(queries))
        ]


def _rows(answer: ScanHits) -> list[list[tuple[int, int, str]]]:
    """Returns the rows (distance, id, key) of each query of one shard's answer."""
    distances = np.frombuffer(answer.distances, _DISTANCE).tolist()
    ids = np.frombuffer(answer.ids, _ID).tolist()
    rows = iter(zip(distances, ids, answer.keys, strict=True))
    return [[next(rows) for _ in range(count)] for count in answer.counts]


@contextlib.contextmanager
def running(
    config: ClusterConfig, code_file: Path, module: str = __name__
) -> Iterator[dict[str, list[psutil.Process]]]:
    """Runs a module's processes at the addresses of a Lookalike config until the block ends. Yields them by kind:
    "coordinator" and "shards"."""
    shards = [config.shard_address(partition) for partition in range(config.partitions)]
    command = [sys.executable, "-m", module, str(code_file)]
    with contextlib.ExitStack() as processes:
        started = [
            processes.enter_context(_process([*command, address, "--shard", str(number), str(len(shards))]))
            for number, address in enumerate(shards)
        ]
        coordinator = [*command, config.coordinator.listen, "--coordinator", *shards]
        kinds = {"coordinator": [processes.enter_context(_process(coordinator))], "shards": started}
        for address in [*shards, config.coordinator.listen]:
            with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                grpc.channel_ready_future(channel).result(START_SECONDS)
        yield kinds


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[psutil.Process]:
    # Linux schedules CPU time per session (autogroup), so the processes of both clusters have one session each.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def method(call: Any, request: Any, response: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns the handler of a unary call with these message types."""
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, response.SerializeToString)


async def _serve(make: Callable[[], Any], address: str) -> None:
    service = make()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.service, service.methods())])
    server.add_insecure_port(address)
    await server.start()
    await until_stopped(watch_stdin=True)
    await server.stop(None)


def main(shard: Callable[[Codes, int], Any], coordinator: Callable[[Sequence[str], int], Any]) -> None:
    """Runs one process of a cluster: a shard or the coordinator.

    Args:
        shard: Makes a shard of codes and the number of its first row.
        coordinator: Makes a coordinator of the shards' addresses and the bits of a code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("code_file", type=Path, help="codes, uint8 (n, bits/8), as .npy")
    parser.add_argument("address", help="HOST:PORT to listen on")
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--shard", type=int, nargs=2, metavar=("NUMBER", "COUNT"))
    role.add_argument("--coordinator", nargs="+", metavar="SHARD_ADDRESS", default=[])
    arguments = parser.parse_args()
    uvloop.run(_serve(lambda: _service(arguments, shard, coordinator), arguments.address))


def _service(arguments: argparse.Namespace, shard: Any, coordinator: Any) -> Any:
    codes = np.load(arguments.code_file, mmap_mode="r")
    if arguments.shard is None:
        return coordinator(arguments.coordinator, codes.shape[1] * 8)
    number, count = arguments.shard
    first, last = (edge * len(codes) // count for edge in (number, number + 1))
    return shard(codes[first:last], first)


if __name__ == "__main__":
    main(Shard, Coordinator)
