"""Owns what the sync and the async client share: builds the request of each call, decodes its response, and
explains its errors."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import grpc
from more_itertools import constrained_batches

from lookalike import wire
from lookalike.client.arguments import STREAM_RECORDS, checked_keys, checked_names
from lookalike.client.column_page import ColumnPage
from lookalike.client.connecting import explain_failed_connection
from lookalike.cluster.columns import CodeColumns
from lookalike.cluster.select import MAX_FACETS
from lookalike.model import filter_language, filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    Cancelled,
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    PartitionUnavailable,
    UnknownFieldWarning,
)
from lookalike.model.filters import GivenFilter
from lookalike.model.indexing import Indexing
from lookalike.model.records import (
    MAX_BATCH_RECORDS,
    MAX_PAGE_RECORDS,
    Collection,
    CopiedPage,
    CountResult,
    FacetsResult,
    Record,
    VersionedRecord,
    attributes_text,
    check_collection_name,
    check_limit,
)
from lookalike.model.results import SearchResult, StoredRecords
from lookalike.model.search_options import SearchOptions
from lookalike.model.status import ClusterStatus
from lookalike.model.ttl import Ttl
from lookalike.transport.rpc import error_of
from lookalike.v1 import filter_pb2, record_pb2
from lookalike.v1 import search_pb2 as pb

DEFAULT_TIMEOUT_SECONDS = 30.0
MAX_TIMEOUT_SECONDS = 86_400.0
_STREAM_BYTES = 8 * 1024 * 1024
_UPSERT_BYTES = 48 * 1024 * 1024

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One unary call.

    Args:
        name: The RPC's name.
        request: The request message.
        read: Decodes the response.
        is_repeatable: Whether a second attempt has the same result even if the first one was applied.
    """

    name: str
    request: Any
    read: Callable[[Any], Answer]
    is_repeatable: bool = True


class Calls:
    """Builds calls. Caches the fingerprint of each collection's code space, for requests whose codes come without
    a fingerprint."""

    def __init__(self, timeout: float) -> None:
        self._timeout = _checked_timeout(timeout)
        self._fingerprints: dict[str, str] = {}

    def deadline(self, timeout: float | None = None) -> float:
        """The deadline of a call that starts now, in seconds of the monotonic clock. timeout: the call's own, in
        seconds; the client's if None. Raises InvalidRequest."""
        return time.monotonic() + (self._timeout if timeout is None else _checked_timeout(timeout))

    def limit(self, timeout: float | None) -> float | None:
        """The deadline of a call of several requests; None if each of them has the client's timeout. Raises
        InvalidRequest."""
        return None if timeout is None else self.deadline(timeout)

    def learn(self, collection: Collection) -> Collection:
        self._fingerprints[collection.name] = collection.code_space.fingerprint
        return collection

    def explain(self, call: grpc.RpcError, address: str) -> LookalikeError:
        """Decodes the error of a failed call to a coordinator."""
        error = error_of(call)
        # A cached fingerprint may be outdated: collections can be recreated with another code space.
        if isinstance(error, CodeSpaceMismatch):
            self._fingerprints.clear()
        if error.request_id is None and (cause := explain_failed_connection(address, error.message)):
            return PartitionUnavailable(cause)
        # `Cancelled` means that the coordinator stopped during the call; this client did not cancel the call.
        if error.request_id is None and isinstance(error, PartitionUnavailable | Cancelled):
            return PartitionUnavailable(f"server: {address} does not answer; is the cluster up?")
        if error.request_id is None and isinstance(error, DeadlineExceeded):
            return DeadlineExceeded(f"server: {address} did not answer in time; allow more time")
        if error.request_id is None and call.code() is grpc.StatusCode.UNIMPLEMENTED:
            return InvalidRequest(
                f"server: {address} is not a coordinator, or its version is too old; give a coordinator's address"
            )
        return error

    def fingerprint(self, collection: str) -> str | None:
        return self._fingerprints.get(collection)

    def search(
        self, collection: str, query: pb.Query, fingerprint: str | None, options: SearchOptions
    ) -> Call[SearchResult]:
        request = pb.SearchRequest(
            collection=check_collection_name(collection),
            query=query,
            options=wire.options_to_wire(options),
            fingerprint=fingerprint or "",
        )
        return Call("Search", request, lambda answer: wire.result_from_wire(answer, answer))

    def search_batch(
        self, collection: str, queries: Sequence[pb.Query], fingerprint: str | None, options: SearchOptions
    ) -> Call[list[SearchResult]]:
        request = pb.SearchBatchRequest(
            collection=check_collection_name(collection),
            queries=queries,
            options=wire.options_to_wire(options),
            fingerprint=fingerprint or "",
        )
        return Call(
            "SearchBatch",
            request,
            lambda answer: [wire.result_from_wire(result, answer) for result in answer.results],
        )

    def get(
        self, keys: Sequence[str], collection: str, consistency: str, include_thumbnails: bool
    ) -> Call[StoredRecords]:
        request = pb.GetRequest(
            collection=check_collection_name(collection),
            keys=keys,
            consistency=wire.consistency_to_wire(consistency),
            include_thumbnails=include_thumbnails,
        )
        return Call(
            "Get", request, lambda answer: StoredRecords(map(wire.stored_record_from_wire, answer.records))
        )

    def exists(self, keys: Sequence[str], collection: str, consistency: str) -> Call[list[bool]]:
        request = pb.ExistsRequest(
            collection=check_collection_name(collection),
            keys=keys,
            consistency=wire.consistency_to_wire(consistency),
        )
        return Call("Exists", request, lambda answer: list(answer.exists))

    def count(
        self, collection: str, condition: GivenFilter, allow_partial: bool, consistency: str
    ) -> Call[CountResult]:
        request = pb.CountRequest(
            collection=check_collection_name(collection),
            filter=_filter_to_wire(condition),
            allow_partial=allow_partial,
            consistency=wire.consistency_to_wire(consistency),
        )
        return Call("Count", request, wire.count_from_wire)

    def scroll(
        self,
        collection: str,
        condition: GivenFilter,
        include_attributes: bool,
        include_codes: bool,
        include_thumbnails: bool,
        limit: int,
        cursor: str,
        consistency: str,
    ) -> Call[ColumnPage]:
        request = pb.ScrollRequest(
            collection=check_collection_name(collection),
            filter=_filter_to_wire(condition),
            limit=check_limit(limit, MAX_PAGE_RECORDS),
            cursor=cursor,
            include_attributes=include_attributes,
            include_codes=include_codes,
            include_thumbnails=include_thumbnails,
            consistency=wire.consistency_to_wire(consistency),
            columns=True,
        )
        return Call("Scroll", request, lambda answer: ColumnPage(*wire.page_from_wire(answer)))

    def facets(
        self, attribute: str, collection: str, condition: GivenFilter, limit: int, allow_partial: bool
    ) -> Call[FacetsResult]:
        filters.check_field(attribute, "attribute")
        request = pb.FacetsRequest(
            collection=check_collection_name(collection),
            attribute=attribute,
            filter=_filter_to_wire(condition),
            limit=check_limit(limit, MAX_FACETS),
            allow_partial=allow_partial,
        )
        return Call("Facets", request, wire.facets_from_wire)

    def set_attributes(
        self,
        collection: str,
        keys: Sequence[str],
        condition: GivenFilter,
        attributes: Mapping[str, Any],
        remove: Sequence[str],
        cursor: str,
        if_versions: Sequence[int] = (),
    ) -> Call[tuple[int, str]]:
        request = pb.SetAttributesRequest(
            collection=check_collection_name(collection),
            keys=keys,
            filter=_filter_to_wire(condition),
            attributes=attributes_text(attributes),
            remove=checked_names(remove),
            cursor=cursor,
            if_versions=[wire.check_version("if_versions", version, 1) for version in if_versions],
        )
        return Call(
            "SetAttributes",
            request,
            lambda answer: _changed(answer.changed, answer),
            is_repeatable=not if_versions,
        )

    def delete_by_filter(self, collection: str, condition: GivenFilter, cursor: str) -> Call[tuple[int, str]]:
        request = pb.DeleteByFilterRequest(
            collection=check_collection_name(collection), filter=_filter_to_wire(condition), cursor=cursor
        )
        return Call("DeleteByFilter", request, lambda answer: _changed(answer.deleted, answer))

    def upserts(self, collection: str, records: Sequence[Record], fingerprint: str | None) -> list[Call[int]]:
        """Returns one call, or several if the records exceed the limits on a request."""
        return [
            Call(
                "Upsert",
                pb.UpsertRequest(collection=collection, records=part, fingerprint=fingerprint or ""),
                lambda answer: int(answer.upserted),
                is_repeatable=not any(record.HasField("if_version") for record in part),
            )
            for part in _messages(records, MAX_BATCH_RECORDS, _UPSERT_BYTES)
        ]

    def delete(self, keys: Sequence[str], collection: str, if_versions: Sequence[int] = ()) -> Call[int]:
        request = pb.DeleteRequest(
            collection=check_collection_name(collection),
            keys=checked_keys(keys),
            if_versions=[wire.check_version("if_versions", version, 1) for version in if_versions],
        )
        return Call("Delete", request, lambda answer: int(answer.deleted), is_repeatable=not if_versions)

    def create_collection(
        self,
        name: str,
        bits: int | None,
        code_space: CodeSpace | None,
        indexing: Indexing,
        hash_file: bytes,
        encoder: str | None,
        ttl: Ttl | None = None,
    ) -> Call[Collection]:
        if bits is not None and code_space is not None:
            raise InvalidRequest("create_collection: give bits or a code space, not both")
        if hash_file and code_space is None:
            raise InvalidRequest("hash_file: needs a code space; the encoder's own hash is stored automatically")
        if encoder is not None and not (isinstance(encoder, str) and encoder):
            raise InvalidRequest(f"encoder: {encoder!r} is not a name; give a string, or leave it out")
        request = pb.CreateCollectionRequest(
            name=check_collection_name(name),
            indexing=wire.indexing_to_wire(indexing),
            hash_file=hash_file,
            encoder=encoder or "",
        )
        if bits is not None:
            request.bits = CodeSpace(bits).bits
        if code_space is not None:
            request.code_space.CopyFrom(wire.space_to_wire(code_space))
        if ttl is not None:
            request.ttl.CopyFrom(wire.ttl_to_wire(ttl))
        return Call("CreateCollection", request, self._read_collection, is_repeatable=False)

    def get_collection(self, name: str) -> Call[Collection]:
        def read(answer: Any) -> Collection:
            collection = self._read_collection(answer)
            # The name may be an alias.
            self._fingerprints[name] = collection.code_space.fingerprint
            return collection

        return Call("GetCollection", pb.GetCollectionRequest(name=check_collection_name(name)), read)

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

    def create_alias(self, alias: str, collection: str) -> Call[None]:
        request = pb.CreateAliasRequest(
            alias=check_collection_name(alias), collection=check_collection_name(collection)
        )
        return Call("CreateAlias", request, self._forget_fingerprints, is_repeatable=False)

    def switch_alias(self, alias: str, collection: str) -> Call[None]:
        request = pb.SwitchAliasRequest(
            alias=check_collection_name(alias), collection=check_collection_name(collection)
        )
        return Call("SwitchAlias", request, self._forget_fingerprints)

    def delete_alias(self, alias: str) -> Call[None]:
        request = pb.DeleteAliasRequest(alias=check_collection_name(alias))
        return Call("DeleteAlias", request, self._forget_fingerprints, is_repeatable=False)

    def list_aliases(self) -> Call[dict[str, str]]:
        return Call(
            "ListAliases",
            pb.ListAliasesRequest(),
            lambda answer: {found.alias: found.collection for found in answer.aliases},
        )

    def rename_collection(self, name: str, new_name: str) -> Call[Collection]:
        self._fingerprints.pop(check_collection_name(name), None)
        request = pb.RenameCollectionRequest(name=name, new_name=check_collection_name(new_name))
        return Call("RenameCollection", request, self._read_collection, is_repeatable=False)

    def set_ttl(self, name: str, ttl: Ttl | None) -> Call[Collection]:
        request = pb.SetTtlRequest(
            name=check_collection_name(name), ttl=None if ttl is None else wire.ttl_to_wire(ttl)
        )
        return Call("SetTtl", request, self._read_collection)

    def copy_records(
        self, collection: str, target: str, condition: GivenFilter, limit: int, cursor: str
    ) -> Call[CopiedPage]:
        request = pb.CopyRecordsRequest(
            collection=check_collection_name(collection),
            target=check_collection_name(target),
            filter=_filter_to_wire(condition),
            limit=check_limit(limit, MAX_BATCH_RECORDS),
            cursor=cursor,
        )
        return Call(
            "CopyRecords",
            request,
            lambda answer: CopiedPage(int(answer.records), int(answer.copied), answer.cursor),
        )

    def _forget_fingerprints(self, answer: Any) -> None:
        self._fingerprints.clear()

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
            raise InvalidRequest(f"partition: is {partition!r}; use the partition's number, from 0")
        request = pb.DrainRequest(partition=partition, undo=undo)
        return Call("Drain", request, lambda answer: int(answer.slots))

    def ingest_requests(
        self, records: Sequence[Record], collection: str, fingerprint: str | None
    ) -> Iterator[pb.IngestRequest]:
        """Encodes the records as messages of an ingest stream, in order."""
        for part in _messages(records, STREAM_RECORDS, _STREAM_BYTES):
            yield pb.IngestRequest(collection=collection, records=part, fingerprint=fingerprint or "")

    def ingest_columns(self, columns: CodeColumns, collection: str, fingerprint: str) -> pb.IngestRequest:
        """Encodes columns as a message of an ingest stream."""
        return pb.IngestRequest(
            collection=collection, columns=wire.columns_to_wire(columns), fingerprint=fingerprint
        )

    def _read_collection(self, answer: Any) -> Collection:
        return self.learn(wire.collection_from_wire(answer.collection))


def _checked_timeout(timeout: float) -> float:
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequest(f"timeout: is {timeout!r}; use seconds, above 0 and at most {MAX_TIMEOUT_SECONDS:,}")
    return timeout


def _changed(count: int, answer: pb.SetAttributesResponse | pb.DeleteByFilterResponse) -> tuple[int, str]:
    warn(answer.warnings)
    return count, answer.cursor


def warn(texts: Iterable[str]) -> None:
    """Issues the warnings of an answer that the SDK returns without its warnings."""
    for text in texts:
        warnings.warn(text, UnknownFieldWarning, stacklevel=2)


def _filter_to_wire(given: GivenFilter) -> filter_pb2.Filter | None:
    condition = filter_language.given(given)
    return None if condition is None else wire.filter_to_wire(condition)


def _messages(
    records: Iterable[Record], max_records: int, max_bytes: int
) -> Iterator[tuple[record_pb2.Record, ...]]:
    """Encodes records and splits them into requests. A record over `max_bytes` gets a separate request."""
    return constrained_batches(
        map(wire.record_to_wire, records), max_bytes, max_records, record_pb2.Record.ByteSize, strict=False
    )


def seconds_until(deadline: float) -> float | None:
    """Converts a deadline of the monotonic clock to a gRPC timeout; None if the deadline is infinite."""
    return None if math.isinf(deadline) else max(0.0, deadline - time.monotonic())
