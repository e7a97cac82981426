"""Owns the SDK: `Client` and `AsyncClient`, the same calls in two styles.

What both share stands once in `_Calls`: it builds each request and reads each answer. Failures raise the
classes of `lookalike.errors`. A call that found a server or partition missing is tried again for some seconds,
within its timeout, if a second try gives the same answer: all but create, drop and delete, which say whether
something was there."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from lookalike import wire
from lookalike.codespace import CodeSpace
from lookalike.errors import (
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.records import (
    MAX_BATCH_RECORDS,
    ClusterStatus,
    Collection,
    Outcome,
    Record,
    SearchResult,
    StoredRecord,
    check_collection_name,
    check_key,
)
from lookalike.rpc import CHANNEL_OPTIONS, error_of
from lookalike.v1 import record_pb2
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub

DEFAULT_TIMEOUT_SECONDS = 30.0
MAX_TIMEOUT_SECONDS = 86_400.0
_RETRY_BASE_SECONDS = 0.1
_RETRY_MAX_SECONDS = 2.0
_ATTEMPTS = 6
_STREAM_RECORDS = 256
_STREAM_BYTES = 8 * 1024 * 1024
_UPSERT_BYTES = 48 * 1024 * 1024

Answer = TypeVar("Answer")
Image = bytes | str | Path


@dataclasses.dataclass(frozen=True, slots=True)
class _Call(Generic[Answer]):
    """One unary call: its name in the service, the request, and how to read the answer. is_repeatable: a
    second try after a first one that may have worked gives the same answer."""

    name: str
    request: Any
    read: Callable[[Any], Answer]
    is_repeatable: bool = True


class _Calls:
    """Builds calls. Remembers each collection's fingerprint, for codes that come without their own."""

    def __init__(self, address: str, timeout: float) -> None:
        if (
            isinstance(timeout, bool)
            or not isinstance(timeout, int | float)
            or not 0 < timeout <= MAX_TIMEOUT_SECONDS
        ):
            raise InvalidRequest(
                f"timeout: is {timeout!r}; use seconds, above 0 and at most {MAX_TIMEOUT_SECONDS:,}"
            )
        self._address = address
        self._timeout = timeout
        self._fingerprints: dict[str, str] = {}

    def deadline(self) -> float:
        """When a call that starts now must be done, as a time of the monotonic clock."""
        return time.monotonic() + self._timeout

    def learn(self, collection: Collection) -> Collection:
        self._fingerprints[collection.name] = collection.code_space.fingerprint
        return collection

    def explain(self, call: grpc.RpcError) -> LookalikeError:
        """The error of a failed call. After a mismatch the remembered code spaces may be old ones."""
        error = error_of(call)
        if isinstance(error, CodeSpaceMismatch):
            self._fingerprints.clear()
        if error.request_id is None and isinstance(error, PartitionUnavailable):
            return PartitionUnavailable(f"server: {self._address} does not answer; is the cluster up?")
        if error.request_id is None and isinstance(error, DeadlineExceeded):
            return DeadlineExceeded(f"server: {self._address} did not answer in time; allow more time")
        return error

    def fingerprint(self, collection: str) -> str | None:
        return self._fingerprints.get(collection)

    def search(
        self, collection: str, query: pb.Query, fingerprint: str | None, options: pb.SearchOptions
    ) -> _Call[SearchResult]:
        request = pb.SearchRequest(
            collection=check_collection_name(collection),
            query=query,
            options=options,
            fingerprint=fingerprint or "",
        )
        return _Call("Search", request, lambda answer: wire.result_from_wire(answer.hits, answer))

    def search_batch(
        self, collection: str, queries: Sequence[pb.Query], fingerprint: str | None, options: pb.SearchOptions
    ) -> _Call[list[SearchResult]]:
        request = pb.SearchBatchRequest(
            collection=check_collection_name(collection),
            queries=queries,
            options=options,
            fingerprint=fingerprint or "",
        )
        return _Call(
            "SearchBatch",
            request,
            lambda answer: [wire.result_from_wire(result.hits, answer) for result in answer.results],
        )

    def get(self, keys: Sequence[str], collection: str, consistency: str) -> _Call[list[StoredRecord]]:
        request = pb.GetRequest(
            collection=check_collection_name(collection),
            keys=_checked_keys(keys),
            consistency=wire.consistency_to_wire(consistency),
        )
        return _Call(
            "Get", request, lambda answer: [wire.stored_record_from_wire(record) for record in answer.records]
        )

    def upserts(self, collection: str, records: Sequence[Record], fingerprint: str | None) -> list[_Call[int]]:
        """One call, or as many as the limits on a request ask for."""
        return [
            _Call(
                "Upsert",
                pb.UpsertRequest(collection=collection, records=part, fingerprint=fingerprint or ""),
                lambda answer: int(answer.upserted),
            )
            for part in _messages(records, MAX_BATCH_RECORDS, _UPSERT_BYTES)
        ]

    def delete(self, keys: Sequence[str], collection: str) -> _Call[int]:
        request = pb.DeleteRequest(collection=check_collection_name(collection), keys=_checked_keys(keys))
        return _Call("Delete", request, lambda answer: int(answer.deleted), is_repeatable=False)

    def create_collection(self, name: str, bits: int | None, code_space: CodeSpace | None) -> _Call[Collection]:
        if bits is not None and code_space is not None:
            raise InvalidRequest("create_collection: give bits or a code space, not both")
        request = pb.CreateCollectionRequest(name=check_collection_name(name))
        if bits is not None:
            request.bits = CodeSpace(bits).bits
        if code_space is not None:
            request.code_space.CopyFrom(wire.space_to_wire(code_space))
        return _Call("CreateCollection", request, self._read_collection, is_repeatable=False)

    def get_collection(self, name: str) -> _Call[Collection]:
        return _Call(
            "GetCollection", pb.GetCollectionRequest(name=check_collection_name(name)), self._read_collection
        )

    def list_collections(self) -> _Call[list[Collection]]:
        return _Call(
            "ListCollections",
            pb.ListCollectionsRequest(),
            lambda answer: [wire.collection_from_wire(collection) for collection in answer.collections],
        )

    def drop_collection(self, name: str) -> _Call[None]:
        self._fingerprints.pop(check_collection_name(name), None)
        request = pb.DropCollectionRequest(name=name)
        return _Call("DropCollection", request, lambda answer: None, is_repeatable=False)

    def status(self) -> _Call[ClusterStatus]:
        return _Call("ClusterStatus", pb.ClusterStatusRequest(), wire.status_from_wire)

    def ingest_requests(
        self, records: Sequence[Record], collection: str, fingerprint: str | None
    ) -> Iterator[pb.IngestRequest]:
        """The messages that carry the records over an ingest stream, in order."""
        for part in _messages(records, _STREAM_RECORDS, _STREAM_BYTES):
            yield pb.IngestRequest(collection=collection, records=part, fingerprint=fingerprint or "")

    def _read_collection(self, answer: Any) -> Collection:
        return self.learn(wire.collection_from_wire(answer.collection))


def _messages(records: Sequence[Record], max_records: int, max_bytes: int) -> Iterator[list[record_pb2.Record]]:
    """Cut records into portions that a request can carry."""
    part: list[record_pb2.Record] = []
    size = 0
    for record in records:
        message = wire.record_to_wire(record)
        if part and (len(part) == max_records or size + message.ByteSize() > max_bytes):
            yield part
            part, size = [], 0
        part.append(message)
        size += message.ByteSize()
    if part:
        yield part


def _wait_seconds(call: _Call[Any], error: LookalikeError, attempt: int, remaining: float) -> float | None:
    """How long to wait before the next attempt, or None to give up."""
    is_transient = isinstance(error, PartitionUnavailable | Overloaded)
    if not is_transient or not call.is_repeatable or attempt >= _ATTEMPTS:
        return None
    backoff = min(_RETRY_MAX_SECONDS, _RETRY_BASE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
    wait = max(backoff, (error.retry_after_ms or 0) / 1000)
    return wait if wait < remaining else None


def _listed(field: str, values: Iterable[Answer]) -> list[Answer]:
    """A list of what was given; text and single objects are no lists, though text can be walked through."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{field}: is one {type(values).__name__}; give a list")
    return list(values)


def _checked_keys(keys: Iterable[str]) -> list[str]:
    return [check_key(key) for key in _listed("keys", keys)]


def _one_fingerprint(records: Sequence[Record]) -> str | None:
    given = {record.fingerprint for record in records if isinstance(record, Record) and record.fingerprint}
    if len(given) > 1:
        raise InvalidRequest("fingerprint: the records are of several code spaces; send each space on its own")
    return given.pop() if given else None


def _has_codes(records: Sequence[Record]) -> bool:
    return any(isinstance(record, Record) and record.code is not None for record in records)


def _portions(records: Iterable[Record]) -> Iterator[list[Record]]:
    portion: list[Record] = []
    for record in records:
        portion.append(record)
        if len(portion) == _STREAM_RECORDS:
            yield portion
            portion = []
    if portion:
        yield portion


class Client:
    """A connection to a cluster: `Client("127.0.0.1:7700")`. Safe to share between threads.

    timeout: seconds that a call may take in all, retries included."""

    def __init__(self, address: str, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self._calls = _Calls(address, timeout)
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = SearchServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: bytes | None = None,
        key: str | None = None,
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        fingerprint: str | None = None,
    ) -> SearchResult:
        """The k nearest records to an image (bytes or a path), a code, or a stored record's key.

        max_distance: bits; leaves out what is further away. filter: see `lookalike.filters`.
        allow_partial: take an answer that some partitions are missing from (see `coverage`) instead of
        PartitionUnavailable. fingerprint: of the code's code space; the collection's by default.
        Raises InvalidRequest, NotFound, CodeSpaceMismatch, PartitionUnavailable, DeadlineExceeded."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency,
        )  # fmt: skip
        query = wire.query_to_wire(image, code, key)
        deadline = self._calls.deadline()
        if code is not None:
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[bytes] = (),
        keys: Sequence[str] = (),
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        fingerprint: str | None = None,
    ) -> list[SearchResult]:
        """As `search`, for up to 1,024 queries in one scan: a result per image, then per code, then per key."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency,
        )  # fmt: skip
        queries = _queries(images, codes, keys)
        deadline = self._calls.deadline()
        if len(codes):
            fingerprint = fingerprint or self._fingerprint(collection, deadline)
        return self._run(self._calls.search_batch(collection, queries, fingerprint, options), deadline)

    def get(self, keys: Sequence[str], *, collection: str, consistency: str = "one") -> list[StoredRecord]:
        """The records that exist among `keys`, in their order."""
        return self._run(self._calls.get(keys, collection, consistency))

    def upsert(self, records: Iterable[Record], *, collection: str) -> int:
        """Store records; returns how many are stored, durably. Up to 10,000 records and 48 MiB go in one
        request, which stores all of them, or none if one is invalid."""
        given = _listed("records", records)
        fingerprint = _one_fingerprint(given)
        if fingerprint is None and _has_codes(given):
            fingerprint = self._fingerprint(collection, self._calls.deadline())
        calls = self._calls.upserts(collection, given, fingerprint)
        return sum(self._run(call) for call in calls)

    def ingest(
        self, records: Iterable[Record], *, collection: str, timeout: float | None = None
    ) -> Iterator[Outcome]:
        """Stream records to the cluster and yield an outcome for each, in order. The stream is flow
        controlled: `records` is read no faster than the cluster stores. What `records` raises, or a record
        that cannot be sent (see `Record`), ends the stream and is raised after the outcomes before it."""
        fingerprint = self._fingerprint(collection, self._calls.deadline())

        failures: list[Exception] = []

        def requests() -> Iterator[pb.IngestRequest]:
            try:
                for portion in _portions(records):
                    own = _one_fingerprint(portion) or fingerprint
                    yield from self._calls.ingest_requests(portion, collection, own)
            except Exception as error:  # gRPC would bury it in its own thread
                failures.append(error)

        try:
            for answer in self._stub.Ingest(requests(), timeout=timeout):
                yield from (wire.outcome_from_wire(outcome) for outcome in answer.outcomes)
        except grpc.RpcError as error:
            raise self._calls.explain(error) from None
        if failures:
            raise failures[0]

    def delete(self, keys: Sequence[str], *, collection: str) -> int:
        """Delete records. Returns how many existed."""
        return self._run(self._calls.delete(keys, collection))

    def create_collection(
        self, name: str, *, bits: int | None = None, code_space: CodeSpace | None = None
    ) -> Collection:
        """Create a collection in the encoder's code space, or for codes made elsewhere of `bits` bits or of
        `code_space`. Raises AlreadyExists."""
        return self._run(self._calls.create_collection(name, bits, code_space))

    def get_collection(self, name: str) -> Collection:
        return self._run(self._calls.get_collection(name))

    def list_collections(self) -> list[Collection]:
        return self._run(self._calls.list_collections())

    def drop_collection(self, name: str) -> None:
        """Delete a collection and its records. Raises NotFound."""
        self._run(self._calls.drop_collection(name))

    def status(self) -> ClusterStatus:
        return self._run(self._calls.status())

    def _fingerprint(self, collection: str, deadline: float) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return self._run(self._calls.get_collection(collection), deadline).code_space.fingerprint

    def _run(self, call: _Call[Answer], deadline: float | None = None) -> Answer:
        deadline = deadline or self._calls.deadline()
        attempt = 0
        while True:
            remaining = deadline - time.monotonic()
            try:
                return call.read(getattr(self._stub, call.name)(call.request, timeout=remaining))
            except grpc.RpcError as failure:
                error = self._calls.explain(failure)
            wait = _wait_seconds(call, error, attempt := attempt + 1, deadline - time.monotonic())
            if wait is None:
                raise error
            time.sleep(wait)


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; `ingest` is an asynchronous iterator."""

    def __init__(self, address: str, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self._calls = _Calls(address, timeout)
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = SearchServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def search(
        self,
        *,
        collection: str,
        image: Image | None = None,
        code: bytes | None = None,
        key: str | None = None,
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        fingerprint: str | None = None,
    ) -> SearchResult:
        """See `Client.search`."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency,
        )  # fmt: skip
        query = wire.query_to_wire(image, code, key)
        deadline = self._calls.deadline()
        if code is not None:
            fingerprint = fingerprint or await self._fingerprint(collection, deadline)
        return await self._run(self._calls.search(collection, query, fingerprint, options), deadline)

    async def search_batch(
        self,
        *,
        collection: str,
        images: Sequence[Image] = (),
        codes: Sequence[bytes] = (),
        keys: Sequence[str] = (),
        k: int = 10,
        max_distance: int | None = None,
        filter: Mapping[str, Any] | None = None,
        include_attributes: bool = True,
        allow_partial: bool = False,
        rerank: str = "none",
        consistency: str = "one",
        fingerprint: str | None = None,
    ) -> list[SearchResult]:
        """See `Client.search_batch`."""
        options = wire.options_to_wire(
            k=k, max_distance=max_distance, filter=filter, include_attributes=include_attributes,
            allow_partial=allow_partial, rerank=rerank, consistency=consistency,
        )  # fmt: skip
        queries = _queries(images, codes, keys)
        deadline = self._calls.deadline()
        if len(codes):
            fingerprint = fingerprint or await self._fingerprint(collection, deadline)
        return await self._run(self._calls.search_batch(collection, queries, fingerprint, options), deadline)

    async def get(self, keys: Sequence[str], *, collection: str, consistency: str = "one") -> list[StoredRecord]:
        """See `Client.get`."""
        return await self._run(self._calls.get(keys, collection, consistency))

    async def upsert(self, records: Iterable[Record], *, collection: str) -> int:
        """See `Client.upsert`."""
        given = _listed("records", records)
        fingerprint = _one_fingerprint(given)
        if fingerprint is None and _has_codes(given):
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
                async for portion in _async_portions(records):
                    own = _one_fingerprint(portion) or fingerprint
                    for request in self._calls.ingest_requests(portion, collection, own):
                        yield request
            except Exception as error:  # gRPC would take it for a cancellation
                failures.append(error)

        try:
            async for answer in self._stub.Ingest(requests(), timeout=timeout):
                for outcome in answer.outcomes:
                    yield wire.outcome_from_wire(outcome)
        except grpc.RpcError as error:
            raise self._calls.explain(error) from None
        if failures:
            raise failures[0]

    async def delete(self, keys: Sequence[str], *, collection: str) -> int:
        """See `Client.delete`."""
        return await self._run(self._calls.delete(keys, collection))

    async def create_collection(
        self, name: str, *, bits: int | None = None, code_space: CodeSpace | None = None
    ) -> Collection:
        """See `Client.create_collection`."""
        return await self._run(self._calls.create_collection(name, bits, code_space))

    async def get_collection(self, name: str) -> Collection:
        return await self._run(self._calls.get_collection(name))

    async def list_collections(self) -> list[Collection]:
        return await self._run(self._calls.list_collections())

    async def drop_collection(self, name: str) -> None:
        """See `Client.drop_collection`."""
        await self._run(self._calls.drop_collection(name))

    async def status(self) -> ClusterStatus:
        return await self._run(self._calls.status())

    async def _fingerprint(self, collection: str, deadline: float) -> str:
        if known := self._calls.fingerprint(check_collection_name(collection)):
            return known
        return (await self._run(self._calls.get_collection(collection), deadline)).code_space.fingerprint

    async def _run(self, call: _Call[Answer], deadline: float | None = None) -> Answer:
        deadline = deadline or self._calls.deadline()
        attempt = 0
        while True:
            remaining = deadline - time.monotonic()
            try:
                return call.read(await getattr(self._stub, call.name)(call.request, timeout=remaining))
            except grpc.RpcError as failure:
                error = self._calls.explain(failure)
            wait = _wait_seconds(call, error, attempt := attempt + 1, deadline - time.monotonic())
            if wait is None:
                raise error
            await asyncio.sleep(wait)


def _queries(images: Sequence[Image], codes: Sequence[bytes], keys: Sequence[str]) -> list[pb.Query]:
    return [
        *(wire.query_to_wire(image, None, None) for image in _listed("images", images)),
        *(wire.query_to_wire(None, code, None) for code in _listed("codes", codes)),
        *(wire.query_to_wire(None, None, key) for key in _listed("keys", keys)),
    ]


async def _async_portions(
    records: Iterable[Record] | AsyncIterable[Sequence[Record]],
) -> AsyncIterator[Sequence[Record]]:
    if isinstance(records, AsyncIterable):
        async for portion in records:
            yield portion
    else:
        for portion in _portions(records):
            yield portion
