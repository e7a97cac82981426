"""Owns what both clients share: how each call's request is built and its answer read, what an error means, and
when a call is tried again."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from lookalike import wire
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    Cancelled,
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.model.indexing import Indexing
from lookalike.model.records import (
    MAX_BATCH_RECORDS,
    ClusterStatus,
    Collection,
    Record,
    SearchResult,
    StoredRecord,
    VersionedRecord,
    check_collection_name,
    check_key,
)
from lookalike.transport.rpc import error_of
from lookalike.v1 import record_pb2
from lookalike.v1 import search_pb2 as pb

DEFAULT_TIMEOUT_SECONDS = 30.0
MAX_TIMEOUT_SECONDS = 86_400.0
_RETRY_BASE_SECONDS = 0.1
_RETRY_MAX_SECONDS = 2.0
# With the waits between them 3.5 to 7 seconds: a coordinator that is started again is back by then.
_ATTEMPTS = 7
_STREAM_RECORDS = 256
_STREAM_BYTES = 8 * 1024 * 1024
_UPSERT_BYTES = 48 * 1024 * 1024

Answer = TypeVar("Answer")
Image = bytes | str | Path
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One unary call: its name in the service, the request, and how to read the answer. is_repeatable: a
    second try after a first one that may have worked gives the same answer."""

    name: str
    request: Any
    read: Callable[[Any], Answer]
    is_repeatable: bool = True


class Calls:
    """Builds calls. Remembers each collection's fingerprint, for codes that come without their own."""

    def __init__(self, timeout: float) -> None:
        if (
            isinstance(timeout, bool)
            or not isinstance(timeout, int | float)
            or not 0 < timeout <= MAX_TIMEOUT_SECONDS
        ):
            raise InvalidRequest(
                f"timeout: is {timeout!r}; use seconds, above 0 and at most {MAX_TIMEOUT_SECONDS:,}"
            )
        self._timeout = timeout
        self._fingerprints: dict[str, str] = {}

    def deadline(self) -> float:
        """When a call that starts now must be done, as a time of the monotonic clock."""
        return time.monotonic() + self._timeout

    def learn(self, collection: Collection) -> Collection:
        self._fingerprints[collection.name] = collection.code_space.fingerprint
        return collection

    def explain(self, call: grpc.RpcError, address: str) -> LookalikeError:
        """The error of a failed call to a coordinator. After a mismatch the remembered code spaces may be old."""
        error = error_of(call)
        if isinstance(error, CodeSpaceMismatch):
            self._fingerprints.clear()
        if error.request_id is None and "handshake failed" in error.message:
            return PartitionUnavailable(
                f"server: {address} and this client do not agree on TLS ({error.message[-160:]}); check the"
                " certificates, the CA and the name that they are made out to"
            )
        # A call that nobody here cancelled was on its way when its coordinator stopped.
        if error.request_id is None and isinstance(error, PartitionUnavailable | Cancelled):
            return PartitionUnavailable(f"server: {address} does not answer; is the cluster up?")
        if error.request_id is None and isinstance(error, DeadlineExceeded):
            return DeadlineExceeded(f"server: {address} did not answer in time; allow more time")
        if error.request_id is None and call.code() is grpc.StatusCode.UNIMPLEMENTED:
            return InvalidRequest(
                f"server: {address} is no coordinator, or an older one; name a coordinator's address"
            )
        return error

    def fingerprint(self, collection: str) -> str | None:
        return self._fingerprints.get(collection)

    def search(
        self, collection: str, query: pb.Query, fingerprint: str | None, options: pb.SearchOptions
    ) -> Call[SearchResult]:
        request = pb.SearchRequest(
            collection=check_collection_name(collection),
            query=query,
            options=options,
            fingerprint=fingerprint or "",
        )
        return Call("Search", request, lambda answer: wire.result_from_wire(answer.hits, answer))

    def search_batch(
        self, collection: str, queries: Sequence[pb.Query], fingerprint: str | None, options: pb.SearchOptions
    ) -> Call[list[SearchResult]]:
        request = pb.SearchBatchRequest(
            collection=check_collection_name(collection),
            queries=queries,
            options=options,
            fingerprint=fingerprint or "",
        )
        return Call(
            "SearchBatch",
            request,
            lambda answer: [wire.result_from_wire(result.hits, answer) for result in answer.results],
        )

    def get(
        self, keys: Sequence[str], collection: str, consistency: str, include_thumbnails: bool
    ) -> Call[list[StoredRecord]]:
        request = pb.GetRequest(
            collection=check_collection_name(collection),
            keys=_checked_keys(keys),
            consistency=wire.consistency_to_wire(consistency),
            include_thumbnails=include_thumbnails,
        )
        return Call(
            "Get", request, lambda answer: [wire.stored_record_from_wire(record) for record in answer.records]
        )

    def upserts(self, collection: str, records: Sequence[Record], fingerprint: str | None) -> list[Call[int]]:
        """One call, or as many as the limits on a request ask for."""
        return [
            Call(
                "Upsert",
                pb.UpsertRequest(collection=collection, records=part, fingerprint=fingerprint or ""),
                lambda answer: int(answer.upserted),
            )
            for part in _messages(records, MAX_BATCH_RECORDS, _UPSERT_BYTES)
        ]

    def delete(self, keys: Sequence[str], collection: str) -> Call[int]:
        request = pb.DeleteRequest(collection=check_collection_name(collection), keys=_checked_keys(keys))
        return Call("Delete", request, lambda answer: int(answer.deleted))

    def create_collection(
        self,
        name: str,
        bits: int | None,
        code_space: CodeSpace | None,
        indexing: Indexing,
        hash_file: bytes,
    ) -> Call[Collection]:
        if bits is not None and code_space is not None:
            raise InvalidRequest("create_collection: give bits or a code space, not both")
        if hash_file and code_space is None:
            raise InvalidRequest("hash_file: comes with a code space; the encoder's own is kept by itself")
        request = pb.CreateCollectionRequest(
            name=check_collection_name(name), indexing=wire.indexing_to_wire(indexing), hash_file=hash_file
        )
        if bits is not None:
            request.bits = CodeSpace(bits).bits
        if code_space is not None:
            request.code_space.CopyFrom(wire.space_to_wire(code_space))
        return Call("CreateCollection", request, self._read_collection, is_repeatable=False)

    def get_collection(self, name: str) -> Call[Collection]:
        return Call(
            "GetCollection", pb.GetCollectionRequest(name=check_collection_name(name)), self._read_collection
        )

    def get_hash_file(self, name: str) -> Call[bytes]:
        request = pb.GetCollectionRequest(name=check_collection_name(name), include_hash=True)
        return Call("GetCollection", request, lambda answer: bytes(answer.hash_file))

    def list_collections(self) -> Call[list[Collection]]:
        return Call(
            "ListCollections",
            pb.ListCollectionsRequest(),
            lambda answer: [wire.collection_from_wire(collection) for collection in answer.collections],
        )

    def drop_collection(self, name: str) -> Call[None]:
        self._fingerprints.pop(check_collection_name(name), None)
        request = pb.DropCollectionRequest(name=name)
        return Call("DropCollection", request, lambda answer: None, is_repeatable=False)

    def status(self) -> Call[ClusterStatus]:
        return Call("ClusterStatus", pb.ClusterStatusRequest(), wire.status_from_wire)

    def restore(
        self, records: Sequence[VersionedRecord], collection: str, fingerprint: str, features: str
    ) -> Call[int]:
        request = pb.RestoreRequest(
            collection=check_collection_name(collection),
            fingerprint=fingerprint,
            features=features,
            records=[wire.versioned_to_wire(record) for record in records],
        )
        return Call("Restore", request, lambda answer: int(answer.restored))

    def drain(self, partition: int, undo: bool) -> Call[int]:
        if isinstance(partition, bool) or not isinstance(partition, int) or partition < 0:
            raise InvalidRequest(f"partition: is {partition!r}; use its number, from 0")
        request = pb.DrainRequest(partition=partition, undo=undo)
        return Call("Drain", request, lambda answer: int(answer.slots))

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
        own = message.ByteSize()
        if part and (len(part) == max_records or size + own > max_bytes):
            yield part
            part, size = [], 0
        part.append(message)
        size += own
    if part:
        yield part


def wait_seconds(
    error: LookalikeError, attempt: int, remaining: float, attempts: int | None = _ATTEMPTS
) -> float | None:
    """How long to wait before the next attempt at what may be repeated, or None to give up: after so many
    attempts, or when it would be too late."""
    if not isinstance(error, PartitionUnavailable | Overloaded):
        return None
    if attempts is not None and attempt >= attempts:
        return None
    backoff = min(_RETRY_MAX_SECONDS, _RETRY_BASE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
    wait = max(backoff, (error.retry_after_ms or 0) / 1000)
    return wait if wait < remaining else None


def was_never_sent(call: grpc.RpcError) -> bool:
    """Whether gRPC says that it found no connection, so that the server cannot have seen the failed call."""
    text = (call.details() or "").lower()
    return call.code() is grpc.StatusCode.UNAVAILABLE and ("failed to connect" in text or "resolving" in text)


def seconds_until(deadline: float) -> float | None:
    """What gRPC takes for a timeout; None if the deadline, a time of the monotonic clock, is infinite."""
    return None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())


def listed(field: str, values: Iterable[Answer]) -> list[Answer]:
    """A list of what was given; text and single objects are no lists, though text can be walked through."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{field}: is one {type(values).__name__}; give a list")
    return list(values)


def _checked_keys(keys: Iterable[str]) -> list[str]:
    return [check_key(key) for key in listed("keys", keys)]


def one_fingerprint(records: Sequence[Record]) -> str | None:
    """Of the code space that the records name; None if none does. Raises InvalidRequest if they name several."""
    given = {record.fingerprint for record in records if isinstance(record, Record) and record.fingerprint}
    if len(given) > 1:
        raise InvalidRequest("fingerprint: the records are of several code spaces; send each space on its own")
    return given.pop() if given else None


def has_codes(records: Sequence[Record]) -> bool:
    """Whether any brings a code, so that the collection's code space must be known."""
    return any(isinstance(record, Record) and record.code is not None for record in records)


def portions(records: Iterable[Record] | Iterable[Sequence[Record]]) -> Iterator[Sequence[Record]]:
    """The caller's own batches; or of single records as many at once as an ingest stream takes in one message."""
    portion: list[Record] = []
    for record in records:
        if isinstance(record, Sequence):
            yield record
            continue
        portion.append(record)
        if len(portion) == _STREAM_RECORDS:
            yield portion
            portion = []
    if portion:
        yield portion


def queries_of(
    images: Sequence[Image],
    codes: Sequence[bytes],
    keys: Sequence[str],
    projections: Sequence[Floats],
    features: Sequence[Floats],
) -> list[pb.Query]:
    """The queries of a batch. projections and features: one per code, or none."""
    for field, rows in (("projections", projections), ("features", features)):
        if len(rows) not in (0, len(codes)):
            raise InvalidRequest(
                f"{field}: are {len(rows)}, the codes {len(codes)}; give one for each code, or none"
            )
    nothing = [None] * len(codes)
    given = zip(
        listed("codes", codes),
        projections if len(projections) else nothing,
        features if len(features) else nothing,
        strict=True,
    )
    return [
        *(wire.query_to_wire(image, None, None) for image in listed("images", images)),
        *(wire.query_to_wire(None, code, None, own, vector) for code, own, vector in given),
        *(wire.query_to_wire(None, None, key) for key in listed("keys", keys)),
    ]
