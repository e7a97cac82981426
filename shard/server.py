"""Owns the shard's gRPC surface: decode, call, encode. Scans run in one thread and share passes over the
codes; writes run in another and share commits; reads by key have threads of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from lookalike import wire
from lookalike.batcher import Batcher
from lookalike.errors import DeadlineExceeded, Internal, InvalidRequest, LookalikeError, Recovering
from lookalike.features import is_sound
from lookalike.indexing import Indexing
from lookalike.records import (
    MAX_HASH_BYTES,
    VERSION_LIMIT,
    VersionedRecord,
    check_code,
    check_key,
    parse_attributes,
)
from lookalike.scan import ScanGroup, ScanHits, WriteResult
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1 import shard_pb2_grpc
from shard.engine import Engine
from shard.kernel import CodeMatrix, ScanStopped
from shard.node import Node

log = logging.getLogger("shard.server")
MAX_SCAN_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
MAX_COMMIT_BYTES = 16 * 1024 * 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
_RECORD_BYTES = 256
READ_THREADS = 2
_SCAN_NICENESS = 10

Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]
ScanItem = tuple[Engine, ScanGroup]
WriteItem = tuple[Engine, Sequence[VersionedRecord]]


class ShardServicer(shard_pb2_grpc.ShardServiceServicer):
    """Serves a node. Until `load` is done every call is answered with Recovering."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loaded = False
        self._started = time.monotonic()
        self._scan_thread = ThreadPoolExecutor(1, thread_name_prefix="scan", initializer=_step_back)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._scans: Batcher[ScanItem, ScanHits] = Batcher(
            self._run_scans,
            max_weight=MAX_SCAN_QUERIES,
            max_waiting=MAX_WAITING_QUERIES,
            weigh=lambda scan: scan[1].weight,
        )
        self._writes: Batcher[WriteItem, WriteResult] = Batcher(
            self._run_writes,
            max_weight=MAX_COMMIT_BYTES,
            max_waiting=MAX_WAITING_BYTES,
            weigh=lambda write: sum(map(_write_bytes, write[1])),
        )

    async def load(self) -> None:
        """Bring the node's collections into memory."""
        await self._in(self._scan_thread, CodeMatrix(64).warm_up)
        await self._in(self._write_thread, self._node.load)
        self._loaded = True

    async def close(self) -> None:
        await self._scans.close()
        await self._writes.close()
        for threads in (self._scan_thread, self._write_thread, self._read_threads):
            threads.shutdown()
        self._node.close()

    async def Scan(self, request: pb.ScanRequest, context: Context) -> pb.ScanResponse:
        self._require_loaded()
        answers = await asyncio.gather(*(self._scan_group(group) for group in request.groups))
        return pb.ScanResponse(groups=[wire.scan_hits_to_wire(answer) for answer in answers])

    async def _scan_group(self, message: pb.ScanGroup) -> ScanHits | LookalikeError:
        """One group's answer or error: the groups of an RPC belong to different clients."""
        try:
            engine = self._node.engine(message.collection)
            return await self._scans.submit(
                (engine, wire.scan_group_from_wire(message, engine.space, engine.indexing))
            )
        except LookalikeError as error:
            return error
        except Exception:
            log.exception("a scan of collection %s failed", message.collection)
            return Internal("internal error; see the shard's log")

    async def Write(self, request: pb.WriteRequest, context: Context) -> pb.WriteResponse:
        self._require_loaded()
        engine = self._node.engine(request.collection)
        engine.space.require(request.fingerprint, "the write")
        engine.indexing.require_features(request.features, "the write")
        records = [wire.versioned_from_wire(message) for message in request.records]
        for record in records:
            check_key(record.key)
            if record.version >= VERSION_LIMIT:
                raise InvalidRequest(f"version: {record.version} is not one that a clock gives; set the clock")
            if record.code is not None:
                parse_attributes(record.attributes)
                check_code(record.code, engine.space, f"record {record.key!r}")
                _check_features(record, engine.indexing)
        result = await self._writes.submit((engine, records))
        return pb.WriteResponse(
            existed=result.existed,
            superseded=result.superseded.keys(),
            superseded_by=result.superseded.values(),
            newest_version=result.newest_version,
        )

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:
        self._require_loaded()
        engine = self._node.engine(request.collection)
        if request.include_features:
            engine.indexing.require_features(request.features, "the read")
        records = await self._in(self._read_threads, lambda: engine.fetch(request.keys, request.include_features))
        return pb.FetchResponse(records=[wire.versioned_to_wire(record) for record in records])

    async def OpenCollection(
        self, request: pb.OpenCollectionRequest, context: Context
    ) -> pb.OpenCollectionResponse:
        self._require_loaded()
        space = wire.space_from_wire(request.code_space)
        indexing = wire.indexing_from_wire(request.indexing).require_bits(space.bits).require_width()
        if len(request.hash_file) > MAX_HASH_BYTES:
            raise InvalidRequest(
                f"hash_file: has {len(request.hash_file):,} bytes; at most {MAX_HASH_BYTES:,} are kept"
            )
        created, incarnation = await self._in(
            self._write_thread,
            lambda: self._node.open_collection(
                request.name, space, indexing, request.incarnation, request.keep_present, request.hash_file
            ),
        )
        return pb.OpenCollectionResponse(created=created, incarnation=incarnation)

    async def DropShardCollection(
        self, request: pb.DropShardCollectionRequest, context: Context
    ) -> pb.DropShardCollectionResponse:
        self._require_loaded()
        dropped = await self._in(
            self._write_thread, lambda: self._node.drop_collection(request.name, request.incarnation)
        )
        return pb.DropShardCollectionResponse(dropped=dropped)

    async def FetchHash(self, request: pb.FetchHashRequest, context: Context) -> pb.FetchHashResponse:
        self._require_loaded()
        data = await self._in(self._read_threads, lambda: self._node.hash_file(request.collection))
        return pb.FetchHashResponse(hash_file=data)

    async def ShardStatus(self, request: pb.ShardStatusRequest, context: Context) -> pb.ShardStatusResponse:
        self._require_loaded()
        identity = self._node.identity
        return pb.ShardStatusResponse(
            cluster=identity.cluster,
            partition=identity.partition,
            replica=identity.replica,
            collections=[wire.collection_to_wire(collection) for collection in self._node.collections()],
            memory_bytes=self._node.memory_bytes,
            uptime_seconds=time.monotonic() - self._started,
        )

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise Recovering(f"partition {self._node.identity.partition} is loading; repeat in a moment")

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    async def _run_scans(self, scans: Sequence[ScanItem]) -> Sequence[ScanHits | Exception]:
        stop = threading.Event()
        try:
            return await self._in(self._scan_thread, lambda: _scan_together(scans, stop.is_set))
        except asyncio.CancelledError:
            stop.set()
            raise

    async def _run_writes(self, writes: Sequence[WriteItem]) -> Sequence[WriteResult | Exception]:
        # A write that began is finished even if nobody waits any more: its transaction is whole.
        return await asyncio.shield(self._in(self._write_thread, lambda: _write_together(writes)))


def _step_back() -> None:
    """Let whatever gathers the next batch go before a scan: a fuller batch costs the scan little."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _SCAN_NICENESS)


def _scan_together(scans: Sequence[ScanItem], should_stop: Callable[[], bool]) -> list[ScanHits | Exception]:
    """Answer scans that differ only in their codes by one scan of all their codes."""
    results: list[ScanHits | Exception] = [DeadlineExceeded("the scan was stopped")] * len(scans)
    alike: dict[object, list[int]] = {}
    for index, (engine, group) in enumerate(scans):
        alike.setdefault((id(engine), group.options), []).append(index)
    for members in alike.values():
        try:
            for index, hits in zip(members, _scan_joined([scans[i] for i in members], should_stop), strict=True):
                results[index] = hits
        except ScanStopped:
            break
        except Exception as error:
            if len(members) == 1:
                results[members[0]] = error
                continue
            # What is wrong with one of them, or only with all at once, must not fail the others.
            for index in members:
                results[index] = _scan_together([scans[index]], should_stop)[0]
    return results


def _scan_joined(scans: Sequence[ScanItem], should_stop: Callable[[], bool]) -> list[ScanHits]:
    engine, first = scans[0]
    joined = first.joined([group for _, group in scans[1:]])
    return _cut(engine.scan(joined, should_stop), [len(group.codes) for _, group in scans])


def _write_bytes(record: VersionedRecord) -> int:
    """About what a record takes on its way to the disk."""
    return _RECORD_BYTES + len(record.code or b"") + len(record.attributes) + len(record.features)


def _check_features(record: VersionedRecord, indexing: Indexing) -> None:
    if len(record.features) != indexing.feature_bytes:
        raise InvalidRequest(
            f"features: record {record.key!r} has {len(record.features):,} bytes of them, the collection keeps"
            f" {indexing.feature_bytes:,}; send them as the collection keeps them"
        )
    if record.features and not is_sound(indexing.features, record.features):
        raise InvalidRequest(f"features: those of record {record.key!r} hold NaN or infinity; send finite numbers")


def _cut(hits: ScanHits, sizes: Sequence[int]) -> list[ScanHits]:
    """Give each of the joined scans the hits of its own queries."""
    if len(sizes) == 1:
        return [hits]
    parts = []
    query = row = 0
    for size in sizes:
        counts = hits.counts[query : query + size]
        rows = slice(row, row + sum(counts))
        parts.append(
            ScanHits(
                counts,
                hits.distances[rows],
                hits.ids[rows],
                hits.keys[rows],
                hits.attributes[rows],
                hits.rows,
                hits.unknown_fields,
                hits.known_fields,
                hits.ranks[rows],
            )
        )
        query += size
        row = rows.stop
    return parts


def _write_together(writes: Sequence[WriteItem]) -> list[WriteResult | Exception]:
    """Apply the writes to one collection in one commit."""
    results: list[WriteResult | Exception] = [DeadlineExceeded("the write was not tried")] * len(writes)
    by_engine: dict[int, list[int]] = {}
    for index, (engine, _) in enumerate(writes):
        by_engine.setdefault(id(engine), []).append(index)
    for members in by_engine.values():
        engine = writes[members[0]][0]
        try:
            joined = engine.write([record for index in members for record in writes[index][1]])
        except Exception as error:
            for index in members:
                results[index] = error
            continue
        start = 0
        for index in members:
            end = start + len(writes[index][1])
            superseded = {i - start: by for i, by in joined.superseded.items() if start <= i < end}
            results[index] = WriteResult(joined.existed[start:end], superseded, joined.newest_version)
            start = end
    return results
