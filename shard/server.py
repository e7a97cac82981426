"""Owns the shard's gRPC surface: decode, call, encode. Scans run in one thread and share passes over the
codes; writes run in another and share commits; reads by key have threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import numpy as np

from lookalike import wire
from lookalike.cluster.dump import Head
from lookalike.cluster.scan import ScanHits, WriteResult
from lookalike.cluster.shard_state import CollectionDigest, ShardState
from lookalike.cluster.slots import SlotState, no_slots, slots_to_bytes
from lookalike.model.errors import (
    Corruption,
    Internal,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    Recovering,
    SlotMoved,
)
from lookalike.model.features import is_sound
from lookalike.model.indexing import Indexing
from lookalike.model.records import (
    MAX_HASH_BYTES,
    VERSION_LIMIT,
    VersionedRecord,
    check_code,
    check_key,
    parse_attributes,
    record_id,
    slot_of,
)
from lookalike.model.thumbnails import check_thumbnail
from lookalike.server.batcher import Batcher
from lookalike.server.observe import metrics
from lookalike.transport import tracing
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1 import shard_pb2_grpc
from shard import work
from shard.engine import Engine
from shard.kernel import CodeMatrix
from shard.membership import Membership
from shard.node import Node

log = logging.getLogger("shard.server")
MAX_SCAN_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
MAX_COMMIT_BYTES = 16 * 1024 * 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
READ_THREADS = 2
DUMPS_AT_ONCE = 4
# A dump that is not read on for so long is given up: until then the store's log cannot be cleared.
_STALL_SECONDS = 60.0
_FRESH_SECONDS = 60.0
_FRESH_POLL_SECONDS = 0.1
_SCAN_NICENESS = 10

Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]


class ShardServicer(shard_pb2_grpc.ShardServiceServicer):
    """Serves a node. Until `load` is done every call but ShardStatus is answered with Recovering, and reads until
    `set_ready`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loaded = False
        self._unready = "is loading"
        # When this shard last had, for certain, every write acknowledged until then; None for always.
        self._fresh_at: float | None = None
        self._started = time.monotonic()
        self._scan_thread = ThreadPoolExecutor(1, thread_name_prefix="scan", initializer=_step_back)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
        self._dumps: set[ThreadPoolExecutor] = set()
        self._scans: Batcher[work.Scan, ScanHits] = Batcher(
            self._run_scans,
            max_weight=MAX_SCAN_QUERIES,
            max_waiting=MAX_WAITING_QUERIES,
            weigh=lambda scan: scan.group.weight,
        )
        self._writes: Batcher[work.Write, WriteResult] = Batcher(
            self._run_writes,
            max_weight=MAX_COMMIT_BYTES,
            max_waiting=MAX_WAITING_BYTES,
            weigh=lambda write: write.weight,
        )

    async def load(self) -> None:
        """Bring the node's collections into memory."""
        await self._in(self._scan_thread, CodeMatrix(64).warm_up)
        await self._in(self._write_thread, self._node.load)
        self._loaded = True

    def set_ready(self, reason: str = "") -> None:
        """Answer reads from now on; with a reason, no longer."""
        self._unready = reason

    @property
    def is_ready(self) -> bool:
        return not self._unready

    def fresh_at(self, moment: float | None) -> None:
        """All that was acknowledged until this time of the monotonic clock is here; None: it always is."""
        self._fresh_at = moment

    @property
    def stale_ms(self) -> int:
        """At most so old is what reads find."""
        return 0 if self._fresh_at is None else max(0, int((time.monotonic() - self._fresh_at) * 1000))

    async def change(self, step: Callable[[Membership], Membership]) -> Membership:
        """Take a step from one membership to the next, between commits."""
        return await self._in(self._write_thread, lambda: self._node.change(step))

    async def write(self, engine: Engine, records: Sequence[VersionedRecord]) -> WriteResult:
        """Store records that another shard has."""
        return await self._writes.submit(work.Write(engine, records, is_repair=True))

    async def set_aside(self, collection: str, engine: Engine, reason: str) -> None:
        """Take a collection that turned out to be damaged out of service, unless that was done."""

        def set_aside() -> None:
            if self._node.engines().get(collection) is engine:
                self._node.set_aside(collection, reason)

        await self._in(self._write_thread, set_aside)

    async def in_writer(self, call: Callable[[], Result]) -> Result:
        """Run what changes stores, between commits."""
        return await self._in(self._write_thread, call)

    async def in_reader(self, call: Callable[[], Result]) -> Result:
        """Run what reads stores for long."""
        return await self._in(self._read_threads, call)

    def gauges(self) -> Iterator[metrics.Sample]:
        """What its metrics show of it."""
        identity, node, table = self._node.identity, self._node, self._node.table
        place = (str(identity.partition), str(identity.replica))
        yield metrics.QUEUE_WAITING, ("scan",), self._scans.waiting
        yield metrics.QUEUE_WAITING, ("commit",), self._writes.waiting
        for state in SlotState:
            yield metrics.SLOTS, (*place, state.name.lower()), int(table.are(state).sum())
        if not self._loaded:
            return
        yield metrics.STALE_SECONDS, place, self.stale_ms / 1000
        yield metrics.QUARANTINED, place, len(node.damaged())
        engines = node.engines()
        yield (
            metrics.ROWS_LEFT_OVER,
            place,
            sum(int(engine.sums.rows[~table.writable].sum()) for engine in engines.values()),
        )
        for name, engine in metrics.by_collection(engines).items():
            yield metrics.ROWS, (name, *place), sum(int(one.sums.live[table.serving].sum()) for one in engine)
            yield metrics.COLLECTION_BYTES, (name, *place), sum(one.memory_bytes for one in engine)

    async def close(self) -> None:
        await self._scans.close()
        await self._writes.close()
        for thread in list(self._dumps):
            await asyncio.to_thread(thread.shutdown)
        for threads in (self._scan_thread, self._write_thread, self._read_threads):
            threads.shutdown()
        self._node.close()

    async def Scan(self, request: pb.ScanRequest, context: Context) -> pb.ScanResponse:
        self._require_ready()
        stale_ms = self.stale_ms
        if request.slots:
            work.require_served(self._node, wire.slots_from_wire(request.slots))
        answers = await asyncio.gather(*(self._scan_group(group, request.slots) for group in request.groups))
        return pb.ScanResponse(groups=[wire.scan_hits_to_wire(answer) for answer in answers], stale_ms=stale_ms)

    async def _scan_group(self, message: pb.ScanGroup, slots: bytes) -> ScanHits | LookalikeError:
        """One group's answer or error: the groups of an RPC belong to different clients."""
        engine = None
        try:
            engine = self._node.engine(message.collection)
            group = wire.scan_group_from_wire(message, engine.space, engine.indexing)
            return await self._scans.submit(work.Scan(engine, group, slots))
        except Corruption as error:
            if engine is not None:
                await self.set_aside(message.collection, engine, error.message)
            return error
        except LookalikeError as error:
            return error
        except Exception:
            log.exception("a scan of collection %s failed", message.collection)
            return Internal("internal error; see the shard's log")

    async def Write(self, request: pb.WriteRequest, context: Context) -> pb.WriteResponse:
        self._require_loaded()
        engine = self._node.engine(request.collection, to_fill=True)
        engine.space.require(request.fingerprint, "the write")
        engine.indexing.require_features(request.features, "the write")
        records = [wire.versioned_from_wire(message) for message in request.records]
        for record in records:
            check_key(record.key)
            if record.version >= VERSION_LIMIT:
                raise InvalidRequest(f"version: {record.version} is not one that a clock gives; set the clock")
            if record.code is not None:
                check_code(record.code, engine.space, f"record {record.key!r}")
                _check_features(record, engine.indexing)
                check_thumbnail(record.thumbnail)
        # Those of one write are often alike.
        for attributes in {record.attributes for record in records if record.code is not None}:
            parse_attributes(attributes)
        try:
            result = await self._writes.submit(work.Write(engine, records))
        except Corruption as error:
            await self.set_aside(request.collection, engine, error.message)
            raise
        return pb.WriteResponse(
            existed=result.existed,
            superseded=result.superseded.keys(),
            superseded_by=result.superseded.values(),
            newest_version=result.newest_version,
            elsewhere=[
                pb.Elsewhere(slot=slot, partition=partition) for slot, partition in result.elsewhere.items()
            ],
            refused=sorted(result.refused),
        )

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:
        self._require_ready()
        engine = self._node.engine(request.collection)
        if request.include_features:
            engine.indexing.require_features(request.features, "the read")
        slots = no_slots()
        slots[[slot_of(record_id(key)) for key in request.keys]] = True
        work.require_served(self._node, slots)
        records = await self._in(
            self._read_threads,
            lambda: engine.fetch(
                request.keys, request.include_features, request.include_deleted, request.include_thumbnails
            ),
        )
        work.require_served(self._node, slots)
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
        if request.HasField("target"):
            target = wire.target_from_wire(request.target)
            if self._node.membership.is_formed and target.order > self._node.membership.target.order:
                await self.change(lambda before: before.told(target))
        slots = wire.slots_from_wire(request.slots) if request.slots else self._node.table.serving
        return wire.state_to_wire(self.state(slots, request.include_digests))

    def state(self, slots: Any = None, include_digests: bool = False) -> ShardState:
        """What this shard says of itself. slots: over which rows are counted; those served, by default."""
        node, membership = self._node, self._node.membership
        engines = node.engines() if self._loaded else {}
        gone = ~membership.table.writable
        return ShardState(
            cluster=membership.identity.cluster,
            partition=membership.identity.partition,
            replica=membership.identity.replica,
            collections=node.collections(membership.table.serving if slots is None else slots),
            memory_bytes=node.memory_bytes,
            uptime_seconds=time.monotonic() - self._started,
            instance=membership.instance,
            is_formed=membership.is_formed,
            founders=membership.founders,
            target=membership.target,
            table=membership.table,
            is_ready=self.is_ready,
            reason=f"partition {membership.identity.partition} {self._unready}" if self._unready else "",
            stale_ms=self.stale_ms,
            newest_version=max((engine.newest_version for engine in engines.values()), default=0),
            dropped=membership.dropped,
            damaged=node.damaged(),
            rows_left_over=sum(int(engine.sums.rows[gone].sum()) for engine in engines.values()),
            digests=self._digests(engines) if include_digests else {},
        )

    def _digests(self, engines: Mapping[str, Engine]) -> dict[str, CollectionDigest]:
        return {
            name: CollectionDigest(
                self._node.incarnation(name) or 0,
                engine.sums.digests,
                engine.sums.rows,
                engine.horizon,
                self._node.has_hash(name),
            )
            for name, engine in engines.items()
        }

    async def ListRows(self, request: pb.ListRowsRequest, context: Context) -> pb.ListRowsResponse:
        engine = self._engine_of(request.collection, request.incarnation)
        slots = wire.slots_from_wire(request.slots)
        listing = await self._in(self._read_threads, lambda: engine.listing(slots))
        return pb.ListRowsResponse(
            numbers=listing.numbers.astype("<u4").tobytes(),
            ids=listing.rows.ids.astype("<u8").tobytes(),
            versions=listing.rows.versions.astype("<u8").tobytes(),
            deleted=listing.rows.deleted.astype(np.uint8).tobytes(),
        )

    async def ReadRows(self, request: pb.ReadRowsRequest, context: Context) -> pb.ReadRowsResponse:
        engine = self._engine_of(request.collection, request.incarnation)
        numbers = np.frombuffer(request.numbers, "<u4").tolist()
        records, read = await self._in(self._read_threads, lambda: engine.read(numbers))
        return pb.ReadRowsResponse(records=[wire.versioned_to_wire(record) for record in records], read=read)

    def _engine_of(self, collection: str, incarnation: int) -> Engine:
        self._require_loaded()
        engine = self._node.engine(collection, to_fill=True)
        if self._node.incarnation(collection) != incarnation:
            raise NotFound(f"collection: {collection!r} is here in another incarnation")
        return engine

    async def Dump(self, request: pb.DumpRequest, context: Context) -> AsyncIterator[pb.DumpPart]:
        self._require_ready()
        slots = wire.slots_from_wire(request.slots)
        since = [wire.mark_from_wire(mark) for mark in request.since]
        engine = self._node.engine(request.collection)
        incarnation = self._node.incarnation(request.collection) or 0
        await self._wait_fresh(time.monotonic())
        held = work.require_served(self._node, slots)
        identity = self._node.identity
        if len(self._dumps) >= DUMPS_AT_ONCE:
            raise Overloaded(f"{DUMPS_AT_ONCE} dumps are being taken here; come back later", retry_after_ms=5_000)
        # A thread of its own: it holds one state of the store until the last record is taken.
        thread = ThreadPoolExecutor(1, thread_name_prefix="dump")
        self._dumps.add(thread)
        parts = engine.dump(slots, since, (identity.partition, identity.replica))
        try:
            while (part := await self._in(thread, lambda: next(parts, None))) is not None:
                if isinstance(part, list):
                    message = pb.DumpPart(records=[wire.versioned_to_wire(record) for record in part])
                else:
                    if work.require_served(self._node, slots) != held:
                        raise SlotMoved("slots went and came back meanwhile")
                    message = pb.DumpPart(head=wire.head_to_wire(Head(incarnation, *part)))
                with _cancelled_after(_STALL_SECONDS):
                    yield message
        except Corruption as error:
            await self.set_aside(request.collection, engine, error.message)
            raise
        finally:
            # Not awaited: the caller may have left, and then nothing here can be.
            thread.submit(parts.close).add_done_callback(lambda _: self._dumps.discard(thread))
            thread.shutdown(wait=False)

    async def _wait_fresh(self, moment: float) -> None:
        """Until every write acknowledged before that time of the monotonic clock is here."""
        give_up = time.monotonic() + _FRESH_SECONDS
        while self._fresh_at is not None and self._fresh_at < moment:
            if time.monotonic() > give_up:
                raise Recovering(
                    f"partition {self._node.identity.partition} has not caught up; repeat in a moment"
                )
            await asyncio.sleep(_FRESH_POLL_SECONDS)

    async def HandOver(self, request: pb.HandOverRequest, context: Context) -> pb.HandOverResponse:
        self._require_loaded()
        slots = wire.slots_from_wire(request.slots)
        generations = wire.generations_from_wire(request.generations)
        taker, node = request.partition, self._node
        if request.step == pb.HandOverRequest.STEP_SHARE:
            share = await self._in(
                self._write_thread, lambda: node.change_table(lambda old: old.share(slots, taker, generations))
            )
            return pb.HandOverResponse(done=slots_to_bytes(slots & share.shared_with(taker, generations)))
        if request.step != pb.HandOverRequest.STEP_RELEASE:
            raise InvalidRequest(f"step: {request.step} is not known; use a newer shard")
        await self._in(
            self._write_thread, lambda: node.change_table(lambda old: old.release(slots, taker, generations))
        )
        return pb.HandOverResponse(done=slots_to_bytes(slots))

    def _require_loaded(self) -> None:
        if not self._loaded:
            raise Recovering(f"partition {self._node.identity.partition} is loading; repeat in a moment")

    def _require_ready(self) -> None:
        if self._unready:
            raise Recovering(f"partition {self._node.identity.partition} {self._unready}; repeat in a moment")

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
        # What is logged there bears the request's id.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(threads, context.run, call)

    async def _run_scans(self, scans: Sequence[work.Scan]) -> Sequence[ScanHits | Exception]:
        stop = threading.Event()
        queries = sum(len(scan.group.codes) for scan in scans)
        began = time.perf_counter()
        try:
            with tracing.span("scan", queries=queries):
                answers = await self._in(
                    self._scan_thread, lambda: work.scan_together(self._node, scans, stop.is_set)
                )
        except asyncio.CancelledError:
            stop.set()
            raise
        metrics.SCAN_SECONDS.observe(time.perf_counter() - began)
        metrics.SCAN_QUERIES.observe(queries)
        metrics.CODES_COMPARED.inc(
            sum(hits.rows * len(hits.counts) for hits in answers if isinstance(hits, ScanHits))
        )
        return answers

    async def _run_writes(self, writes: Sequence[work.Write]) -> Sequence[WriteResult | Exception]:
        records = sum(len(write.records) for write in writes)
        began = time.perf_counter()
        with tracing.span("commit", records=records):
            # A write that began is finished even if nobody waits any more: its transaction is whole.
            results = await asyncio.shield(
                self._in(self._write_thread, lambda: work.write_together(self._node, writes))
            )
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        metrics.COMMIT_RECORDS.observe(records)
        return results


@contextlib.contextmanager
def _cancelled_after(seconds: float) -> Iterator[None]:
    """Cancel this task if the block takes longer."""
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    try:
        yield
    finally:
        timer.cancel()


def _step_back() -> None:
    """Let whatever gathers the next batch go before a scan: a fuller batch costs the scan little."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _SCAN_NICENESS)


def _check_features(record: VersionedRecord, indexing: Indexing) -> None:
    if len(record.features) != indexing.feature_bytes:
        raise InvalidRequest(
            f"features: record {record.key!r} has {len(record.features):,} bytes of them, the collection keeps"
            f" {indexing.feature_bytes:,}; send them as the collection keeps them"
        )
    if record.features and not is_sound(indexing.features, record.features):
        raise InvalidRequest(f"features: those of record {record.key!r} hold NaN or infinity; send finite numbers")
