"""Owns the connection to one shard: its stub, what is known of how it does, and the translation of its failures
into errors that name the partition."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike import wire
from lookalike.cluster.placement import Target
from lookalike.cluster.scan import ScanGroup, ScanHits, WriteResult
from lookalike.cluster.shard_state import ShardState
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    PartitionUnavailable,
    SlotMoved,
)
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from lookalike.transport import tracing
from lookalike.transport.rpc import call_by, error_of
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub

# A replica that may be further behind than this is asked only when no other is there.
LAG_SECONDS = 10.0
# How long a failure is remembered: doubled with every further one.
_SHUN_SECONDS = 0.25
_SHUN_MAX_SECONDS = 5.0
_WATCH_PAUSE_SECONDS = 0.25


class ShardLink:
    """Calls to one replica of one partition. Deadlines are times of the running loop's clock."""

    def __init__(self, partition: int, replica: int, address: str, peer_channels: PeerChannels) -> None:
        self.partition = partition
        self.replica = replica
        self.address = address
        # Calls on their way.
        self.outstanding = 0
        # It is no longer part of the cluster: every further call raises SlotMoved.
        self.is_let_go = False
        # What it said last, and when; None if it did not answer the last time.
        self.last_state: ShardState | None = None
        self._is_serving = True
        self._is_suspect = False
        self._failures = 0
        self._shunned_until = 0.0
        self._missed_at: float | None = None
        self._connection = peer_channels.connect(address)
        self._scan_seconds = metrics.SHARD_SECONDS.labels(str(partition), str(replica))

    async def close(self) -> None:
        await self._connection.close()

    async def finish(self) -> None:
        """Close, but let calls on their way end: whoever waits for one would be cancelled with it."""
        self.is_let_go = True
        await self._connection.finish()

    @property
    def reluctance(self) -> int:
        """How little it is to be asked: 0 for a replica in order, more for one that lags, failed or does not
        serve."""
        if not self._is_serving:
            return 3
        if self._is_suspect or time.monotonic() < self._shunned_until:
            return 2
        return 1 if self.lags else 0

    @property
    def is_live(self) -> bool:
        """It answers, as far as is known, and has caught up since it started."""
        return self._is_serving and self.last_state is not None and self.last_state.is_ready

    @property
    def lags(self) -> bool:
        """It is known to lack a write, or may be further behind than is borne with."""
        behind = self.last_state is not None and self.last_state.stale_ms > LAG_SECONDS * 1000
        return behind or self._missed_at is not None

    def failed(self, error: LookalikeError) -> None:
        """A call failed for a reason of the replica's own: ask others for a while."""
        if isinstance(error, SlotMoved):
            return
        now = time.monotonic()
        self._shunned_until = now + min(_SHUN_MAX_SECONDS, _SHUN_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)

    def suspect(self) -> None:
        """A call took far too long: ask others until it says something."""
        self._is_suspect = True

    def missed(self, moment: float) -> None:
        """A write that was acknowledged at this time of the monotonic clock is not known to be there."""
        self._missed_at = moment

    async def poll(self, target: Target | None, seconds: float) -> None:
        """Learn what it is now."""
        began = time.monotonic()
        try:
            state = await self.state(asyncio.get_running_loop().time() + seconds, target)
        except LookalikeError:
            self.last_state = None
            return
        self.last_state = state
        self._is_suspect = False
        self._failures = 0
        if self._missed_at is not None and began - state.stale_ms / 1000 > self._missed_at:
            self._missed_at = None

    async def watch(self) -> None:
        """Follow its health as it tells it, until cancelled."""
        while True:
            call = self._connection.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest())
            try:
                async for answer in call:
                    self._is_serving = answer.status == health_pb2.HealthCheckResponse.SERVING
                    if not self._is_serving:
                        # A stream would keep a server from ending.
                        break
            except grpc.RpcError:
                self._is_serving = False
            finally:
                call.cancel()
            await asyncio.sleep(_WATCH_PAUSE_SECONDS)

    async def scan(
        self, groups: Sequence[ScanGroup], slots: bytes, deadline: float
    ) -> list[ScanHits | LookalikeError]:
        """Its answer to each group of queries, over the slots of which a bit is set. Raises when there is none to
        any."""
        request = pb.ScanRequest(groups=[wire.scan_group_to_wire(group) for group in groups], slots=slots)
        began = time.perf_counter()
        try:
            answer = await self._call("Scan", request, deadline)
            self._scan_seconds.observe(time.perf_counter() - began)
        except InvalidRequest as error:
            if len(groups) == 1:
                return [error]
            # Each answer fits into a message, all together may not.
            return [(await self.scan([group], slots, deadline))[0] for group in groups]
        results = [wire.scan_hits_from_wire(hits, answer.stale_ms) for hits in answer.groups]
        return [self._explain(hits) if isinstance(hits, LookalikeError) else hits for hits in results]

    def late(self) -> DeadlineExceeded:
        """What to say when the partition's answer did not come in time."""
        return DeadlineExceeded(f"partition {self.partition} did not answer in time")

    async def write(
        self,
        collection: str,
        fingerprint: str,
        features: str,
        records: Sequence[VersionedRecord],
        deadline: float,
    ) -> WriteResult:
        answer = await self._call(
            "Write",
            pb.WriteRequest(
                collection=collection,
                fingerprint=fingerprint,
                records=[wire.versioned_to_wire(record) for record in records],
                features=features,
            ),
            deadline,
        )
        return WriteResult(
            list(answer.existed),
            dict(zip(answer.superseded, answer.superseded_by, strict=True)),
            answer.newest_version,
            {other.slot: other.partition for other in answer.elsewhere},
            frozenset(answer.refused),
        )

    async def fetch(
        self,
        collection: str,
        keys: Sequence[str],
        deadline: float,
        features: str = "",
        include_deleted: bool = False,
        include_thumbnails: bool = False,
    ) -> list[VersionedRecord]:
        """features: what the collection is thought to keep of them, to have them too."""
        request = pb.FetchRequest(
            collection=collection,
            keys=keys,
            include_features=bool(features),
            features=features,
            include_deleted=include_deleted,
            include_thumbnails=include_thumbnails,
        )
        answer = await self._call("Fetch", request, deadline)
        return [wire.versioned_from_wire(record) for record in answer.records]

    async def open_collection(
        self,
        name: str,
        space: CodeSpace,
        indexing: Indexing,
        incarnation: int,
        keep_present: bool,
        hash_file: bytes,
        deadline: float,
    ) -> tuple[bool, int]:
        """Returns whether the collection was made now, and the incarnation that is there."""
        request = pb.OpenCollectionRequest(
            name=name,
            code_space=wire.space_to_wire(space),
            incarnation=incarnation,
            keep_present=keep_present,
            indexing=wire.indexing_to_wire(indexing),
            hash_file=hash_file,
        )
        answer = await self._call("OpenCollection", request, deadline)
        return answer.created, answer.incarnation

    async def fetch_hash(self, collection: str, deadline: float) -> bytes:
        """The file that the collection's hash came in, or nothing."""
        answer = await self._call("FetchHash", pb.FetchHashRequest(collection=collection), deadline)
        return bytes(answer.hash_file)

    async def dump(self, request: pb.DumpRequest) -> AsyncIterator[pb.DumpPart]:
        """See ShardService.Dump."""
        with self._explained():
            try:
                stub: Any = self._connection.stub(ShardServiceStub)
                async for part in stub.Dump(request):
                    yield part
            except grpc.RpcError as call:
                raise error_of(call) from None

    async def drop_collection(self, name: str, incarnation: int, deadline: float) -> bool:
        """Drop this incarnation or an earlier one. Returns whether there was one."""
        request = pb.DropShardCollectionRequest(name=name, incarnation=incarnation)
        return bool((await self._call("DropShardCollection", request, deadline)).dropped)

    async def state(self, deadline: float, target: Target | None = None, slots: bytes = b"") -> ShardState:
        """What it says of itself, after it was told of the target. slots: over which rows are counted; those that
        it serves, by default."""
        request = pb.ShardStatusRequest(slots=slots)
        if target is not None:
            request.target.CopyFrom(wire.target_to_wire(target))
        state = wire.state_from_wire(await self._call("ShardStatus", request, deadline))
        state.require(self.partition, self.replica)
        return state

    async def _call(self, name: str, request: Any, deadline: float) -> Any:
        span = tracing.span(f"ShardService/{name}", is_call=True, partition=self.partition, replica=self.replica)
        with self._explained(), span:
            return await call_by(getattr(self._connection.stub(ShardServiceStub), name), request, deadline)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The block calls the shard."""
        try:
            if self.is_let_go:
                raise SlotMoved(f"replica {self.replica} is no longer part of the cluster")
            yield
        except LookalikeError as error:
            raise self._explain(error) from None

    def _explain(self, error: LookalikeError) -> LookalikeError:
        """Name the partition in what only its server could not say itself."""
        if type(error) in (PartitionUnavailable, Cancelled):
            return PartitionUnavailable(
                f"partition {self.partition} (replica {self.replica}) at {self.address} does not answer"
            )
        if isinstance(error, DeadlineExceeded):
            return self.late()
        named = f"partition {self.partition}: {error.message}"
        return type(error)(named, retry_after_ms=error.retry_after_ms)
