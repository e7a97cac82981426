"""Owns `AsyncClient`, the SDK for asyncio: the calls of `Client`, awaited."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc

from lookalike import wire
from lookalike.client.calls import (
    DEFAULT_TIMEOUT_SECONDS,
    Answer,
    Call,
    Calls,
    Floats,
    Image,
    has_codes,
    listed,
    one_fingerprint,
    portions,
    queries_of,
    seconds_until,
    wait_seconds,
    was_never_sent,
)
from lookalike.client.endpoints import Coordinator, Coordinators
from lookalike.client.keywords import shows_search_options
from lookalike.client.resend_buffer import AsyncUnanswered
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.features import NONE
from lookalike.model.indexing import SCAN, Indexing
from lookalike.model.records import (
    ClusterStatus,
    Collection,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
    VersionedRecord,
    check_collection_name,
)
from lookalike.model.search_options import SearchKeywords, SearchOptions
from lookalike.transport import tracing
from lookalike.transport.tls import Tls
from lookalike.v1 import search_pb2 as pb


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; `ingest` is an asynchronous iterator. Made anywhere,
    it belongs to the event loop of its first call."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        api_key: str | None = None,
        tls: Tls | bool = False,
    ) -> None:
        self._calls = Calls(timeout)
        self._coordinators = Coordinators(grpc.aio, address, api_key, tls)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for channel in self._coordinators.end():
            await channel.close()

    @shows_search_options
    async def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: bytes | None = None,
        key: str | None = None,
        options: SearchOptions | None = None,
        projections: Floats | None = None,
        features: Floats | None = None,
        fingerprint: str | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> SearchResult:
        """See `Client.search`."""
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        query = wire.query_to_wire(image, code, key, projections, features)
        deadline = self._calls.deadline()
        if code is not None:
            fingerprint = fingerprint or await self._fingerprint(collection, deadline)
        return await self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    @shows_search_options
    async def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[bytes] = (),
        keys: Sequence[str] = (),
        options: SearchOptions | None = None,
        projections: Sequence[Floats] = (),
        features: Sequence[Floats] = (),
        fingerprint: str | None = None,
        **keywords: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """See `Client.search_batch`."""
        options = dataclasses.replace(options or SearchOptions(), **keywords)
        queries = queries_of(images, codes, keys, projections, features)
        deadline = self._calls.deadline()
        if len(codes):
            fingerprint = fingerprint or await self._fingerprint(collection, deadline)
        return await self._run(self._calls.search_batch(collection, queries, fingerprint, options), deadline)

    async def get(
        self,
        keys: Sequence[str],
        *,
        collection: str,
        consistency: str = "one",
        include_thumbnails: bool = False,
    ) -> list[StoredRecord]:
        """See `Client.get`."""
        return await self._run(self._calls.get(keys, collection, consistency, include_thumbnails))

    async def upsert(self, records: Iterable[Record], *, collection: str) -> int:
        """See `Client.upsert`."""
        given = listed("records", records)
        fingerprint = one_fingerprint(given)
        if fingerprint is None and has_codes(given):
            fingerprint = await self._fingerprint(collection, self._calls.deadline())
        calls = self._calls.upserts(collection, given, fingerprint)
        return sum([await self._run(call) for call in calls])

    async def ingest(
        self,
        records: Iterable[Record] | AsyncIterable[Sequence[Record]],
        *,
        collection: str,
        timeout: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """See `Client.ingest`. `records` may also be an asynchronous iterator over portions of records."""
        fingerprint = await self._fingerprint(collection, self._calls.deadline())

        failures: list[Exception] = []

        async def requests() -> AsyncIterator[pb.IngestRequest]:
            try:
                async for portion in async_portions(records):
                    own = one_fingerprint(portion) or fingerprint
                    for request in self._calls.ingest_requests(portion, collection, own):
                        yield request
            except Exception as error:  # gRPC would take it for a cancellation
                failures.append(error)

        unanswered = AsyncUnanswered(requests())
        deadline = give_up = math.inf if timeout is None else time.monotonic() + timeout
        attempt = 0
        try:
            while True:
                coordinator = self._next()
                try:
                    with tracing.calling("Ingest") as metadata:
                        stream = coordinator.stub.Ingest(
                            unanswered.stream(), timeout=seconds_until(deadline), metadata=metadata
                        )
                        async for answer in stream:
                            attempt = 0
                            unanswered.answered()
                            for outcome in answer.outcomes:
                                yield wire.outcome_from_wire(outcome)
                    break
                except grpc.RpcError as failure:
                    error = self._calls.explain(failure, coordinator.address)
                if self._coordinators.failed(coordinator, error):
                    continue
                if attempt == 0:
                    give_up = min(deadline, self._calls.deadline())
                wait = wait_seconds(error, attempt := attempt + 1, give_up - time.monotonic(), attempts=None)
                if wait is None:
                    raise error
                await asyncio.sleep(wait)
        finally:
            await unanswered.close()
        if failures:
            raise failures[0]

    async def delete(self, keys: Sequence[str], *, collection: str) -> int:
        """See `Client.delete`."""
        return await self._run(self._calls.delete(keys, collection))

    async def create_collection(
        self,
        name: str,
        *,
        bits: int | None = None,
        code_space: CodeSpace | None = None,
        index: str = SCAN,
        index_attributes: Sequence[str] = (),
        features: str = NONE,
        feature_width: int = 0,
        hash_file: bytes = b"",
    ) -> Collection:
        """See `Client.create_collection`."""
        indexing = Indexing(index, tuple(index_attributes), features, feature_width)
        return await self._run(self._calls.create_collection(name, bits, code_space, indexing, hash_file))

    async def get_collection(self, name: str) -> Collection:
        return await self._run(self._calls.get_collection(name))

    async def get_hash_file(self, name: str) -> bytes:
        """See `Client.get_hash_file`."""
        return await self._run(self._calls.get_hash_file(name))

    async def list_collections(self) -> list[Collection]:
        return await self._run(self._calls.list_collections())

    async def drop_collection(self, name: str) -> None:
        """See `Client.drop_collection`."""
        await self._run(self._calls.drop_collection(name))

    async def drain(self, partition: int, *, undo: bool = False) -> int:
        """See `Client.drain`."""
        return await self._run(self._calls.drain(partition, undo))

    async def backup(
        self, collection: str, slots: SlotSet, since: Sequence[Mark] = ()
    ) -> AsyncIterator[Head | list[VersionedRecord]]:
        """See `Client.backup`."""
        coordinator = self._next()
        try:
            async for part in coordinator.stub.Backup(wire.dump_request_to_wire(collection, slots, since)):
                for found in wire.dump_part_from_wire(part):
                    yield found
        except grpc.RpcError as failure:
            error = self._calls.explain(failure, coordinator.address)
            self._coordinators.failed(coordinator, error)
            raise error from None

    async def restore(
        self, records: Sequence[VersionedRecord], collection: str, fingerprint: str, features: str
    ) -> int:
        """See `Client.restore`."""
        return await self._run(self._calls.restore(records, collection, fingerprint, features))

    async def status(self) -> ClusterStatus:
        return await self._run(self._calls.status())

    async def _fingerprint(self, collection: str, deadline: float) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return (await self._run(self._calls.get_collection(collection), deadline)).code_space.fingerprint

    def _next(self) -> Coordinator:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise InvalidRequest("client: is of another event loop; make an AsyncClient in each")
        self._loop = loop
        return self._coordinators.next()

    async def _run(self, call: Call[Answer], deadline: float | None = None) -> Answer:
        with tracing.calling(call.name) as metadata:
            return await self._repeated(call, deadline or self._calls.deadline(), metadata)

    async def _repeated(self, call: Call[Answer], deadline: float, metadata: tracing.Metadata | None) -> Answer:
        attempt = 0
        while True:
            coordinator = self._next()
            remaining = deadline - time.monotonic()
            try:
                sent = getattr(coordinator.stub, call.name)(call.request, timeout=remaining, metadata=metadata)
                return call.read(await sent)
            except grpc.RpcError as failure:
                error = self._calls.explain(failure, coordinator.address)
                is_harmless = call.is_repeatable or was_never_sent(failure)
            if self._coordinators.failed(coordinator, error) and is_harmless:
                continue
            wait = wait_seconds(error, attempt := attempt + 1, deadline - time.monotonic())
            if wait is None or not call.is_repeatable:
                raise error
            await asyncio.sleep(wait)


async def async_portions(
    records: Iterable[Record] | AsyncIterable[Sequence[Record]],
) -> AsyncIterator[Sequence[Record]]:
    """The caller's own portions, or those of `portions`."""
    if isinstance(records, AsyncIterable):
        async for portion in records:
            yield portion
    else:
        for portion in portions(records):
            yield portion
