"""Owns the shard's gRPC server: each handler decodes a request, calls the executor and encodes the result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

import grpc

from lookalike import wire
from lookalike.cluster.dump import Head
from lookalike.cluster.scan import ScanResult
from lookalike.cluster.select import CountOf
from lookalike.cluster.slots import no_slots, slots_to_bytes
from lookalike.model.errors import Corruption, Internal, InvalidRequest, LookalikeError, NotFound, SlotMoved
from lookalike.model.records import MAX_HASH_BYTES, record_id, slot_of
from lookalike.server.admission import Admission
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1 import shard_pb2_grpc
from shard import registrar, work
from shard.engine import Engine
from shard.executor import ShardExecutor
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.scan_stream import ScanStreamServer
from shard.status import ShardStatus

log = logging.getLogger("shard.server")
# A dump whose client reads nothing for this long is cancelled, because SQLite cannot reset its WAL during a dump.
_STALL_SECONDS = 60.0

Context = grpc.aio.ServicerContext[Any, Any]


class ShardServicer(shard_pb2_grpc.ShardServiceServicer):
    """Serves a node. Calls raise Recovering as long as `readiness` requires it."""

    def __init__(
        self,
        node: Node,
        executor: ShardExecutor,
        readiness: ReadinessTracker,
        status: ShardStatus,
        admission: Admission,
    ) -> None:
        self._node = node
        self._executor = executor
        self._readiness = readiness
        self._status = status
        self._streams = ScanStreamServer(self._scan, admission)

    async def Scan(self, request: pb.ScanRequest, context: Context) -> pb.ScanResponse:
        return await self._scan(request)

    async def ScanStream(  # type: ignore[override] # writes its responses to the context
        self, calls: AsyncIterator[pb.ScanCall], context: Context
    ) -> None:
        await self._streams.serve(calls, context)

    def drain(self) -> None:
        """Ends each stream of scans once the scans that it has read are answered."""
        self._streams.drain()

    async def _scan(self, request: pb.ScanRequest) -> pb.ScanResponse:
        self._readiness.require_ready()
        stale_ms = self._readiness.stale_ms
        if request.slots:
            work.served(self._node.table, request.slots)
        if len(request.groups) == 1:
            answers = [await self._scan_group(request.groups[0], request.slots)]
        else:
            answers = await asyncio.gather(*(self._scan_group(group, request.slots) for group in request.groups))
        return pb.ScanResponse(groups=[wire.scan_result_to_wire(answer) for answer in answers], stale_ms=stale_ms)

    async def _scan_group(self, message: pb.ScanGroup, slots: bytes) -> ScanResult | LookalikeError:
        """Returns one group's hits or its error: the groups of an RPC belong to different clients."""
        try:
            engine = self._node.engine(message.collection)
            group = wire.scan_group_from_wire(message, engine.space, engine.indexing)
            async with self._quarantining(message.collection, engine):
                return await self._executor.scan(work.Scan(engine, group, slots))
        except LookalikeError as error:
            return error
        except Exception:
            log.exception("a scan of collection %s failed", message.collection)
            return Internal("internal error; see the shard's log")

    async def Write(self, request: pb.WriteRequest, context: Context) -> pb.WriteResponse:
        self._readiness.require_loaded()
        engine = self._node.engine(request.collection, include_filling=True)
        records = wire.write_from_wire(request, engine.space, engine.indexing)
        bases = wire.bases_from_wire(request)
        async with self._quarantining(request.collection, engine):
            write = work.Write(
                engine, records, bases=bases, is_reserved=request.reserved, is_release=request.release
            )
            result = await self._executor.write(write)
        return wire.write_result_to_wire(result)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:
        self._readiness.require_ready()
        engine = self._node.engine(request.collection)
        if request.include_features:
            engine.indexing.require_features(request.features, "the read")
        slots = no_slots()
        slots[[slot_of(record_id(key)) for key in request.keys]] = True
        work.require_served(self._node, slots)
        async with self._quarantining(request.collection, engine):
            records = await self._executor.read(
                lambda: engine.fetch(
                    request.keys, request.include_features, request.include_deleted, request.include_thumbnails
                )
            )
        work.require_served(self._node, slots)
        encode = wire.bare_to_wire if request.omit_content else wire.versioned_to_wire
        return pb.FetchResponse(records=[encode(record) for record in records])

    async def Select(self, request: pb.SelectRequest, context: Context) -> pb.SelectResponse:
        self._readiness.require_ready()
        stale_ms = self._readiness.stale_ms
        engine = self._node.engine(request.collection)
        question = wire.question_from_wire(request)
        slots = wire.slots_from_wire(request.slots) if request.slots else self._node.table.serving
        async with self._quarantining(request.collection, engine):
            answer = await self._executor.select(
                lambda should_stop: work.select(self._node, engine, question, slots, should_stop)
            )
        as_columns = request.list.columns
        if as_columns or isinstance(question.kind, CountOf):
            # Encoding takes less time than another thread.
            return wire.selected_to_wire(answer, as_columns, stale_ms)
        return await self._executor.read(lambda: wire.selected_to_wire(answer, as_columns, stale_ms))

    async def OpenCollection(
        self, request: pb.OpenCollectionRequest, context: Context
    ) -> pb.OpenCollectionResponse:
        self._readiness.require_loaded()
        space = wire.space_from_wire(request.code_space)
        indexing = wire.indexing_from_wire(request.indexing).require_bits(space.bits).require_width()
        if len(request.hash_file) > MAX_HASH_BYTES:
            raise InvalidRequest(
                f"hash_file: has {len(request.hash_file):,} bytes; the limit is {MAX_HASH_BYTES:,}"
            )
        created, incarnation = await self._executor.mutate(
            lambda: self._node.open_collection(
                request.name, space, indexing, request.incarnation, request.keep_present, request.hash_file
            )
        )
        return pb.OpenCollectionResponse(created=created, incarnation=incarnation)

    async def DropShardCollection(
        self, request: pb.DropShardCollectionRequest, context: Context
    ) -> pb.DropShardCollectionResponse:
        self._readiness.require_loaded()
        drop = registrar.drop_unless_aliased if request.unless_aliased else Node.drop_collection
        dropped = await self._executor.mutate(lambda: drop(self._node, request.name, request.incarnation))
        directory = wire.directory_to_wire(self._node.membership.directory) if request.unless_aliased else None
        return pb.DropShardCollectionResponse(dropped=dropped, directory=directory)

    async def ChangeDirectory(
        self, request: pb.ChangeDirectoryRequest, context: Context
    ) -> pb.ChangeDirectoryResponse:
        self._readiness.require_ready()
        change = wire.change_from_wire(request)
        known = wire.directory_from_wire(request.known)
        directory = await self._executor.mutate(lambda: registrar.change_directory(self._node, change, known))
        return pb.ChangeDirectoryResponse(directory=wire.directory_to_wire(directory))

    async def FetchHash(self, request: pb.FetchHashRequest, context: Context) -> pb.FetchHashResponse:
        self._readiness.require_loaded()
        data = await self._executor.read(lambda: self._node.hash_file(request.collection))
        return pb.FetchHashResponse(hash_file=data)

    async def ShardStatus(self, request: pb.ShardStatusRequest, context: Context) -> pb.ShardStatusResponse:
        if request.HasField("target"):
            target = wire.target_from_wire(request.target)
            if self._node.membership.is_formed and target.order > self._node.membership.target.order:
                await self._executor.mutate(lambda: self._node.change(lambda before: before.with_target(target)))
        if request.HasField("directory"):
            directory = wire.directory_from_wire(request.directory)
            if directory.version > self._node.membership.directory.version:
                await self._executor.mutate(lambda: self._node.adopt_directory(directory))
        slots = wire.slots_from_wire(request.slots) if request.slots else self._node.table.serving
        return wire.state_to_wire(self._status.state(slots, request.include_digests))

    async def ListRows(self, request: pb.ListRowsRequest, context: Context) -> pb.ListRowsResponse:
        engine = self._engine_of(request.collection, request.incarnation)
        slots = wire.slots_from_wire(request.slots)
        async with self._quarantining(request.collection, engine):
            listing = await self._executor.read(lambda: engine.listing(slots))
        return wire.listing_to_wire(listing)

    async def ReadRows(self, request: pb.ReadRowsRequest, context: Context) -> pb.ReadRowsResponse:
        engine = self._engine_of(request.collection, request.incarnation)
        numbers = wire.numbers_from_wire(request.numbers)
        async with self._quarantining(request.collection, engine):
            records, read = await self._executor.read(lambda: engine.read(numbers))
        return pb.ReadRowsResponse(records=[wire.versioned_to_wire(record) for record in records], read=read)

    def _quarantining(self, collection: str, engine: Engine) -> _Quarantining:
        """Takes the collection out of service if the block finds it damaged."""
        return _Quarantining(self._executor, collection, engine)

    def _engine_of(self, collection: str, incarnation: int) -> Engine:
        self._readiness.require_loaded()
        engine = self._node.engine(collection, include_filling=True)
        if self._node.incarnation(collection) != incarnation:
            raise NotFound(f"collection: {collection!r} exists here in another incarnation")
        return engine

    async def Dump(self, request: pb.DumpRequest, context: Context) -> AsyncIterator[pb.DumpPart]:
        self._readiness.require_ready()
        slots = wire.slots_from_wire(request.slots)
        since = [wire.mark_from_wire(mark) for mark in request.since]
        engine = self._node.engine(request.collection)
        incarnation = self._node.incarnation(request.collection) or 0
        await self._readiness.wait_fresh(time.monotonic())
        held = work.require_served(self._node, slots)
        identity = self._node.identity
        parts = engine.dump(slots, since, (identity.partition, identity.replica))
        with self._executor.dumping(parts) as next_part:
            async with self._quarantining(request.collection, engine):
                while (part := await next_part()) is not None:
                    if isinstance(part, list):
                        message = pb.DumpPart(records=[wire.versioned_to_wire(record) for record in part])
                    else:
                        if work.require_served(self._node, slots) != held:
                            raise SlotMoved("slots moved away and back while the dump began")
                        message = pb.DumpPart(head=wire.head_to_wire(Head(incarnation, *part)))
                    with _cancelled_after(_STALL_SECONDS):
                        yield message

    async def HandOver(self, request: pb.HandOverRequest, context: Context) -> pb.HandOverResponse:
        self._readiness.require_loaded()
        request_step = wire.hand_over_from_wire(request)
        done = await self._executor.mutate(lambda: self._node.hand_over(request_step))
        return pb.HandOverResponse(done=slots_to_bytes(done))


class _Quarantining:  # a plain class, because contextlib's generators are slow and every scan makes one
    __slots__ = ("_collection", "_engine", "_executor")

    def __init__(self, executor: ShardExecutor, collection: str, engine: Engine) -> None:
        self._executor, self._collection, self._engine = executor, collection, engine

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(failure, Corruption):
            await self._executor.quarantine(self._collection, self._engine, failure.message)


@contextlib.contextmanager
def _cancelled_after(seconds: float) -> Iterator[None]:
    """Cancels this task if the block takes longer."""
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    finally:
        timer.cancel()
