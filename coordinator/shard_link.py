"""Owns the connection to one shard: its stub, and the translation of its failures into errors that name the
partition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import grpc

from lookalike import wire
from lookalike.codespace import CodeSpace
from lookalike.errors import DeadlineExceeded, InvalidRequest, LookalikeError, PartitionUnavailable
from lookalike.indexing import Indexing
from lookalike.records import Collection, VersionedRecord
from lookalike.rpc import CHANNEL_OPTIONS, call_by
from lookalike.scan import ScanGroup, ScanHits, WriteResult
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub


@dataclasses.dataclass(frozen=True, slots=True)
class ShardState:
    """What a shard says of itself."""

    collections: list[Collection]
    memory_bytes: int
    uptime_seconds: float


class ShardLink:
    """Calls to one replica of one partition. Deadlines are times of the running loop's clock."""

    def __init__(self, partition: int, replica: int, address: str) -> None:
        self.partition = partition
        self.replica = replica
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = ShardServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def scan(self, groups: Sequence[ScanGroup], deadline: float) -> list[ScanHits | LookalikeError]:
        """The partition's answer to each group of queries, or why there is none."""
        request = pb.ScanRequest(groups=[wire.scan_group_to_wire(group) for group in groups])
        try:
            answer = await self._call("Scan", request, deadline)
        except InvalidRequest as error:
            if len(groups) == 1:
                return [error]
            # Each answer fits into a message, all together may not.
            return [(await self.scan([group], deadline))[0] for group in groups]
        except LookalikeError as error:
            return [error] * len(groups)
        results = [wire.scan_hits_from_wire(hits) for hits in answer.groups]
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
        superseded = dict(zip(answer.superseded, answer.superseded_by, strict=True))
        return WriteResult(list(answer.existed), superseded, answer.newest_version)

    async def fetch(
        self, collection: str, keys: Sequence[str], deadline: float, features: str = ""
    ) -> list[VersionedRecord]:
        """features: what the collection is thought to keep of them, to have them too."""
        request = pb.FetchRequest(
            collection=collection, keys=keys, include_features=bool(features), features=features
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

    async def drop_collection(self, name: str, incarnation: int, deadline: float) -> bool:
        """Drop this incarnation or an earlier one. Returns whether there was one."""
        request = pb.DropShardCollectionRequest(name=name, incarnation=incarnation)
        return bool((await self._call("DropShardCollection", request, deadline)).dropped)

    async def state(self, deadline: float) -> ShardState:
        answer = await self._call("ShardStatus", pb.ShardStatusRequest(), deadline)
        collections = [wire.collection_from_wire(message) for message in answer.collections]
        return ShardState(collections, answer.memory_bytes, answer.uptime_seconds)

    async def state_or_error(self, deadline: float) -> ShardState | LookalikeError:
        """What the shard says of itself, or why it does not."""
        try:
            return await self.state(deadline)
        except LookalikeError as error:
            return error

    async def _call(self, name: str, request: Any, deadline: float) -> Any:
        try:
            return await call_by(getattr(self._stub, name), request, deadline)
        except LookalikeError as error:
            raise self._explain(error) from None

    def _explain(self, error: LookalikeError) -> LookalikeError:
        """Name the partition in what only its server could not say itself."""
        if type(error) is PartitionUnavailable:
            return PartitionUnavailable(
                f"partition {self.partition} (replica {self.replica}) at {self.address} does not answer"
            )
        if isinstance(error, DeadlineExceeded):
            return self.late()
        named = f"partition {self.partition}: {error.message}"
        return type(error)(named, retry_after_ms=error.retry_after_ms)
