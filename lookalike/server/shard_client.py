"""Owns the calls to one shard, for coordinators and for other shards: messages, deadlines, and errors that name
the partition. Which replica to call, and when to retry, is up to the caller."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike import wire
from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.directory import Change, Directory
from lookalike.cluster.placement import Target
from lookalike.cluster.rows import Listing
from lookalike.cluster.scan import ScanGroup, ScanResult, WriteResult
from lookalike.cluster.select import Question, Selected
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotSet, slots_from_bytes, slots_to_bytes
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
from lookalike.server.observe.later import later
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.scan_stream import NotSupported, ScanStreamClient
from lookalike.transport import tracing
from lookalike.transport.rpc import call_by, error_of
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub

# Default timeouts: STATE_SECONDS of status calls and steps of a slot move, READ_SECONDS of reading rows and files.
STATE_SECONDS = 1.5
READ_SECONDS = 30.0
_WATCH_PAUSE_SECONDS = 0.25


class ShardClient:
    """Calls to one replica of one partition.

    Deadlines are times of the running loop's clock. A call that fails raises a LookalikeError: SlotMoved after
    `retire`, PartitionUnavailable or DeadlineExceeded if the shard does not answer, or the shard's own error.
    """

    def __init__(self, partition: int, replica: int, address: str, peer_channels: PeerChannels) -> None:
        self.partition = partition
        self.replica = replica
        self.address = address
        # Whether the replica is no longer part of the cluster.
        self.is_retired = False
        self._connection = peer_channels.connect(address)
        self._streams = ScanStreamClient(self._connection)
        # Whether the shard is too old to have a stream.
        self._is_unary = False
        self._scan_seconds = metrics.SHARD_SECONDS.labels(str(partition), str(replica))

    async def close(self) -> None:
        self._streams.close()
        await self._connection.close()

    async def retire(self) -> None:
        """Rejects further calls, and closes the connection once the calls in flight have ended: closing it now
        would cancel them."""
        self.is_retired = True
        self._streams.finish()
        await self._connection.finish()

    async def state(
        self,
        target: Target | None = None,
        *,
        slots: bytes = b"",
        include_digests: bool = False,
        directory: Directory | None = None,
        deadline: float | None = None,
    ) -> ShardState:
        """Returns what the shard reports about itself.

        Args:
            target: A target for the shard to adopt first, if it is newer than the shard's own.
            slots: A bitmap of the slots whose rows to count; empty for the slots that the shard serves.
            include_digests: Whether to return the collections' digests.
            directory: A directory for the shard to adopt first, if it is newer than the shard's own.
            deadline: When to give up; by default after `STATE_SECONDS`.

        Raises:
            PartitionUnavailable: If the shard does not answer, or the address belongs to another shard.
        """
        request = pb.ShardStatusRequest(slots=slots, include_digests=include_digests)
        if target is not None:
            request.target.CopyFrom(wire.target_to_wire(target))
        if directory is not None:
            request.directory.CopyFrom(wire.directory_to_wire(directory))
        answer = await self._call("ShardStatus", request, _by(deadline, STATE_SECONDS))
        state = wire.state_from_wire(answer)
        state.require(self.partition, self.replica)
        return state

    async def watch_serving(self) -> AsyncIterator[bool]:
        """Yields whether the shard is serving, at each change, until cancelled."""
        while True:
            call = self._connection.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest())
            try:
                async for answer in call:
                    is_serving = answer.status == health_pb2.HealthCheckResponse.SERVING
                    yield is_serving
                    if not is_serving:
                        # An open stream would keep the server from stopping.
                        break
            except grpc.RpcError:
                yield False
            finally:
                call.cancel()
            await asyncio.sleep(_WATCH_PAUSE_SECONDS)

    async def scan(
        self, groups: Sequence[ScanGroup], slots: bytes, deadline: float
    ) -> list[ScanResult | LookalikeError]:
        """Scans the slots whose bits are set in `slots`, for every group.

        Returns:
            The answer to each group, or the error of that group.
        """
        request = pb.ScanRequest(groups=[wire.scan_group_to_wire(group) for group in groups], slots=slots)
        began = time.perf_counter()
        try:
            answer = await self._scan(request, deadline)
            later(self._scan_seconds.observe, time.perf_counter() - began)
        except InvalidRequest as error:
            if len(groups) == 1:
                return [error]
            # Each group's answer fits into a message, but all answers together may not.
            return [(await self.scan([group], slots, deadline))[0] for group in groups]
        results = [wire.scan_result_from_wire(result, answer.stale_ms) for result in answer.groups]
        return [self._explain(result) if isinstance(result, LookalikeError) else result for result in results]

    async def write(
        self,
        collection: str,
        fingerprint: str,
        features: str,
        records: Sequence[VersionedRecord] | VersionedColumns,
        deadline: float,
        bases: Sequence[int] | None = None,
        is_reserved: bool = False,
    ) -> WriteResult:
        """Stores the records that are newer than the stored versions.

        Args:
            collection: The collection's name.
            fingerprint: The code space of the codes. If it is not the collection's, the shard rejects the write.
            features: How the collection stores features, such as "int8 1280". If this is wrong, the shard rejects
                the write.
            records: Records and tombstones, or live records as columns.
            deadline: When to give up.
            bases: If given, nothing is stored. The shard reserves each record's key for the record's version,
                unless a version above the record's base is stored.
            is_reserved: Whether to store only records whose keys are reserved for their versions.
        """
        request = wire.write_to_wire(collection, fingerprint, features, records, bases)
        request.reserved = is_reserved
        return wire.write_result_from_wire(await self._call("Write", request, deadline))

    async def unreserve(
        self, collection: str, fingerprint: str, features: str, records: Sequence[VersionedRecord], deadline: float
    ) -> None:
        """Ends the reservations of these records' keys for their versions."""
        bases = [0] * len(records)
        request = wire.write_to_wire(collection, fingerprint, features, records, bases)
        request.release = True
        await self._call("Write", request, deadline)

    async def fetch(
        self,
        collection: str,
        keys: Sequence[str],
        deadline: float,
        features: str = "",
        include_deleted: bool = False,
        include_thumbnails: bool = False,
        omit_content: bool = False,
    ) -> list[VersionedRecord]:
        """Returns the records that exist under `keys`.

        Args:
            collection: The collection's name.
            keys: The keys to look up.
            deadline: When to give up.
            features: How the collection stores features, such as "int8 1280", to include them; empty to omit them.
            include_deleted: Whether to return tombstones too.
            include_thumbnails: Whether to include thumbnails.
            omit_content: Whether to return keys and versions only.
        """
        request = pb.FetchRequest(
            collection=collection,
            keys=keys,
            include_features=bool(features),
            features=features,
            include_deleted=include_deleted,
            include_thumbnails=include_thumbnails,
            omit_content=omit_content,
        )
        answer = await self._call("Fetch", request, deadline)
        return [wire.versioned_from_wire(record) for record in answer.records]

    async def select(self, question: Question, slots: bytes, deadline: float) -> Selected:
        """Answers a question about the records in the slots whose bits are set in `slots`."""
        answer = await self._call("Select", wire.question_to_wire(question, slots), deadline)
        return wire.selected_from_wire(answer)

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
        """Creates the collection unless it exists.

        Args:
            incarnation: The incarnation to create. An earlier one is dropped first.
            keep_present: Keep the incarnation that exists, whichever it is; `incarnation` is then used for a new
                collection only.

        Returns:
            Whether the collection was created now, and the incarnation that exists.
        """
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

    async def drop_collection(self, name: str, incarnation: int, deadline: float) -> bool:
        """Drops the collection if its incarnation is this one or an earlier one. Returns whether it existed."""
        request = pb.DropShardCollectionRequest(name=name, incarnation=incarnation)
        return bool((await self._call("DropShardCollection", request, deadline)).dropped)

    async def drop_unless_aliased(self, name: str, incarnation: int, deadline: float) -> tuple[bool, Directory]:
        """As `drop_collection`, for the registrar. Returns the directory afterwards, too. Raises InvalidRequest if
        the collection has aliases."""
        request = pb.DropShardCollectionRequest(name=name, incarnation=incarnation, unless_aliased=True)
        answer = await self._call("DropShardCollection", request, deadline)
        return bool(answer.dropped), wire.directory_from_wire(answer.directory)

    async def change_directory(self, change: Change, known: Directory, deadline: float) -> Directory:
        """Has the registrar change the directory. Returns the directory afterwards."""
        answer = await self._call("ChangeDirectory", wire.change_to_wire(change, known), deadline)
        return wire.directory_from_wire(answer.directory)

    async def fetch_hash(self, collection: str, deadline: float | None = None) -> bytes:
        """Returns the collection's hash file; empty if it was created without one."""
        request = pb.FetchHashRequest(collection=collection)
        return bytes((await self._call("FetchHash", request, _by(deadline, READ_SECONDS))).hash_file)

    async def list_rows(self, collection: str, incarnation: int, slots: SlotSet) -> Listing:
        """Lists the rows of these slots, tombstones included."""
        request = pb.ListRowsRequest(collection=collection, incarnation=incarnation, slots=slots_to_bytes(slots))
        return wire.listing_from_wire(await self._call("ListRows", request, _by(None, READ_SECONDS)))

    async def read_rows(
        self, collection: str, incarnation: int, numbers: npt.NDArray[np.uint32]
    ) -> tuple[Sequence[VersionedRecord], int]:
        """Reads rows by the numbers that `list_rows` returned, as many as fit into a message.

        Returns:
            The records of the rows that were read, without rows that no longer exist; and how many of the first
            `numbers` were read.
        """
        request = pb.ReadRowsRequest(
            collection=collection, incarnation=incarnation, numbers=wire.numbers_to_wire(numbers)
        )
        answer = await self._call("ReadRows", request, _by(None, READ_SECONDS))
        return [wire.versioned_from_wire(record) for record in answer.records], answer.read

    async def dump(self, request: pb.DumpRequest) -> AsyncIterator[pb.DumpPart]:
        """Streams a dump: see ShardService.Dump."""
        with self._explained():
            try:
                stub: Any = self._connection.stub(ShardServiceStub)
                async for part in stub.Dump(request):
                    yield part
            except grpc.RpcError as call:
                raise error_of(call) from None

    async def share(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.uint32]) -> SlotSet:
        """Makes the shard tell writers to store records of these slots on the partition `taker` as well. Returns
        the slots for which the shard does so."""
        return await self._hand_over(pb.HandOverRequest.STEP_SHARE, slots, taker, generations)

    async def release(self, slots: SlotSet, taker: int, generations: npt.NDArray[np.uint32]) -> SlotSet:
        """Makes the shard stop serving these slots. Returns the slots that it has stopped serving."""
        return await self._hand_over(pb.HandOverRequest.STEP_RELEASE, slots, taker, generations)

    async def _hand_over(
        self,
        step: pb.HandOverRequest.Step.ValueType,
        slots: SlotSet,
        taker: int,
        generations: npt.NDArray[np.uint32],
    ) -> SlotSet:
        request = pb.HandOverRequest(
            step=step,
            slots=slots_to_bytes(slots),
            partition=taker,
            generations=wire.generations_to_wire(generations),
        )
        return slots_from_bytes((await self._call("HandOver", request, _by(None, STATE_SECONDS))).done)

    async def _scan(self, request: pb.ScanRequest, deadline: float) -> pb.ScanResponse:
        if self._is_unary:
            response: pb.ScanResponse = await self._call("Scan", request, deadline)
            return response
        span = tracing.span("ShardService/Scan", is_call=True, partition=self.partition, replica=self.replica)
        try:
            self._require_member()
            with span:
                return await self._streams.scan(request, deadline)
        except NotSupported:
            self._is_unary = True
            return await self._scan(request, deadline)
        except LookalikeError as error:
            raise self._explain(error) from None

    async def _call(self, name: str, request: Any, deadline: float) -> Any:
        span = tracing.span(f"ShardService/{name}", is_call=True, partition=self.partition, replica=self.replica)
        with self._explained(), span:
            return await call_by(getattr(self._connection.stub(ShardServiceStub), name), request, deadline)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds the partition to the errors that the block raises while it calls the shard."""
        try:
            self._require_member()
            yield
        except LookalikeError as error:
            raise self._explain(error) from None

    def _require_member(self) -> None:
        if self.is_retired:
            raise SlotMoved(f"replica {self.replica} is no longer part of the cluster")

    def _explain(self, error: LookalikeError) -> LookalikeError:
        if type(error) in (PartitionUnavailable, Cancelled):
            return PartitionUnavailable(
                f"partition {self.partition} (replica {self.replica}) at {self.address} does not answer"
            )
        if isinstance(error, DeadlineExceeded):
            return DeadlineExceeded(f"partition {self.partition} did not answer in time")
        named = f"partition {self.partition}: {error.message}"
        return type(error)(named, retry_after_ms=error.retry_after_ms)


def _by(deadline: float | None, seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds if deadline is None else deadline
