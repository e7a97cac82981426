"""Owns the translation between the domain's plain data and the generated messages, both ways.

Reading from the wire checks form (types, widths of packed arrays); the rules of the domain are checked by
whoever takes the data in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import errors, features, filters
from lookalike.codespace import CodeSpace
from lookalike.errors import InvalidRequest, LookalikeError
from lookalike.indexing import MIH, SCAN, Indexing
from lookalike.records import (
    MAX_BATCH_HITS,
    MAX_K,
    ClusterStatus,
    Collection,
    Coverage,
    EncoderStatus,
    Hit,
    Outcome,
    PartitionStatus,
    Record,
    ReplicaStatus,
    SearchResult,
    StoredRecord,
    Timings,
    VersionedRecord,
    attributes_text,
    check_k,
    check_key,
    check_oversampling,
)
from lookalike.scan import Inputs, ScanGroup, ScanHits, Scoring
from lookalike.v1 import codespace_pb2, filter_pb2, record_pb2, search_pb2, shard_pb2

_DISTANCE = np.dtype("<u2")
_ID = np.dtype("<u8")
_WEIGHT, _FEATURE, _RANK = np.dtype("<u2"), np.dtype("<f4"), np.dtype("<f8")
_MAX_UINT32 = 2**32 - 1


# Code spaces and collections


def space_to_wire(space: CodeSpace) -> codespace_pb2.CodeSpace:
    return codespace_pb2.CodeSpace(
        backbone=space.backbone,
        weights_digest=space.weights_digest,
        layer=space.layer,
        preprocessing=space.preprocessing,
        hash_method=space.hash_method,
        hash_digest=space.hash_digest,
        bits=space.bits,
        fingerprint=space.fingerprint,
    )


def space_from_wire(message: codespace_pb2.CodeSpace) -> CodeSpace:
    return CodeSpace(
        bits=message.bits,
        backbone=message.backbone,
        weights_digest=message.weights_digest,
        layer=message.layer,
        preprocessing=message.preprocessing,
        hash_method=message.hash_method,
        hash_digest=message.hash_digest,
    )


def collection_to_wire(collection: Collection) -> codespace_pb2.Collection:
    return codespace_pb2.Collection(
        name=collection.name,
        code_space=space_to_wire(collection.code_space),
        rows=collection.rows,
        incarnation=collection.incarnation,
        indexing=indexing_to_wire(collection.indexing),
    )


def collection_from_wire(message: codespace_pb2.Collection) -> Collection:
    return Collection(
        message.name,
        space_from_wire(message.code_space),
        message.rows,
        message.incarnation,
        indexing_from_wire(message.indexing),
    )


_INDEX_KINDS = {SCAN: codespace_pb2.Indexing.KIND_SCAN, MIH: codespace_pb2.Indexing.KIND_MIH}


_FEATURE_KINDS = {
    features.NONE: codespace_pb2.Indexing.FEATURES_NONE,
    features.INT8: codespace_pb2.Indexing.FEATURES_INT8,
    features.FLOAT16: codespace_pb2.Indexing.FEATURES_FLOAT16,
}


def indexing_to_wire(indexing: Indexing) -> codespace_pb2.Indexing:
    return codespace_pb2.Indexing(
        kind=_INDEX_KINDS[indexing.kind],
        attributes=indexing.attributes,
        features=_FEATURE_KINDS[indexing.features],
        feature_width=indexing.feature_width,
    )


def indexing_from_wire(message: codespace_pb2.Indexing) -> Indexing:
    kinds = {number: kind for kind, number in _INDEX_KINDS.items()}
    kinds[codespace_pb2.Indexing.KIND_UNSPECIFIED] = SCAN
    feature_kinds = {number: kind for kind, number in _FEATURE_KINDS.items()}
    feature_kinds[codespace_pb2.Indexing.FEATURES_UNSPECIFIED] = features.NONE
    return Indexing(
        kinds.get(message.kind, str(message.kind)),
        tuple(message.attributes),
        feature_kinds.get(message.features, str(message.features)),
        message.feature_width,
    )


# Filters


def filter_to_wire(condition: filters.Filter) -> filter_pb2.Filter:
    match condition:
        case filters.Equals(field, value):
            return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=_scalar_to_wire(value)))
        case filters.In(field, values):
            scalars = [_scalar_to_wire(value) for value in values]
            message = filter_pb2.Filter()
            getattr(message, "in").CopyFrom(filter_pb2.In(field=field, values=scalars))
            return message
        case filters.Range(field, gt, gte, lt, lte):
            return filter_pb2.Filter(range=filter_pb2.Range(field=field, gt=gt, gte=gte, lt=lt, lte=lte))
        case filters.Exists(field):
            return filter_pb2.Filter(exists=filter_pb2.Exists(field=field))
        case filters.And(parts) | filters.Or(parts):
            joined = filter_pb2.Filters(filters=[filter_to_wire(part) for part in parts])
            message = filter_pb2.Filter()
            getattr(message, "and" if isinstance(condition, filters.And) else "or").CopyFrom(joined)
            return message
        case filters.Not(part):
            message = filter_pb2.Filter()
            getattr(message, "not").CopyFrom(filter_to_wire(part))
            return message


def filter_from_wire(message: filter_pb2.Filter) -> filters.Filter:
    """A checked filter. Raises InvalidRequest when the message describes none, or one of unbearable size,
    before that is read."""
    return filters.check(_filter_from_wire(message, 1, [filters.MAX_CONDITIONS]))


def _filter_from_wire(message: filter_pb2.Filter, depth: int, room: list[int]) -> filters.Filter:
    """room: how many more filters may be read, shared by all of one tree."""
    if depth > filters.MAX_DEPTH:
        raise InvalidRequest(f"filter: is nested over {filters.MAX_DEPTH} deep; flatten it")
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("filter: is empty; set one of its kinds, or leave it out")
    body = getattr(message, kind)
    match kind:
        case "equals":
            return filters.Equals(body.field, _scalar_from_wire(body.field, body.value))
        case "in":
            filters.check_values(body.field, len(body.values))
            return filters.In(body.field, tuple(_scalar_from_wire(body.field, value) for value in body.values))
        case "range":
            bounds = {name: getattr(body, name) for name in ("gt", "gte", "lt", "lte") if body.HasField(name)}
            return filters.Range(body.field, **bounds)
        case "exists":
            return filters.Exists(body.field)
        case "not":
            return filters.Not(_filter_from_wire(body, depth + 1, room))
    room[0] -= len(body.filters)
    if room[0] < 0:
        raise InvalidRequest(f"filter: has over {filters.MAX_CONDITIONS} conditions; use fewer, or $in")
    parts = tuple(_filter_from_wire(part, depth + 1, room) for part in body.filters)
    return filters.And(parts) if kind == "and" else filters.Or(parts)


def _scalar_to_wire(value: filters.Scalar) -> filter_pb2.Scalar:
    match value:
        case bool():
            return filter_pb2.Scalar(boolean=value)
        case int():
            return filter_pb2.Scalar(integer=value)
        case float():
            return filter_pb2.Scalar(number=value)
        case _:
            return filter_pb2.Scalar(text=value)


def _scalar_from_wire(field: str, message: filter_pb2.Scalar) -> filters.Scalar:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(
            f"filter: {field}: has no value to compare with; set text, number, integer or boolean"
        )
    value: filters.Scalar = getattr(message, kind)
    return value


# What a client sends


def image_bytes(image: bytes | str | Path) -> bytes:
    """The encoded image: bytes as they are, a path's contents. Raises InvalidRequest, naming the path."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise InvalidRequest(f"image: is {type(image).__name__}; give an image file's bytes or its path")
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"image: {str(image)!r} cannot be read: {reason}") from None


def record_to_wire(record: Record) -> record_pb2.Record:
    """Raises InvalidRequest for a record that no cluster would take."""
    if not isinstance(record, Record):
        raise InvalidRequest(f"record: is {type(record).__name__}; give lookalike.Record objects")
    key = check_key(record.key)
    text = attributes_text(record.attributes)
    if (record.image is None) == (record.code is None):
        raise InvalidRequest(f"record {key!r}: needs an image or a code, exactly one of them")
    if record.image is not None:
        if record.features is not None:
            raise InvalidRequest(f"record {key!r}: features: come with a code; those of an image are made from it")
        return record_pb2.Record(key=key, image=image_bytes(record.image), attributes=text)
    return record_pb2.Record(
        key=key, code=_code_bytes(record.code), attributes=text, features=_floats("features", record.features)
    )


def query_to_wire(
    image: bytes | str | Path | None,
    code: bytes | None,
    key: str | None,
    projections: Any = None,
    query_features: Any = None,
) -> search_pb2.Query:
    """Raises InvalidRequest unless exactly one of the first three is given, and the others with a code only."""
    if sum(part is not None for part in (image, code, key)) != 1:
        raise InvalidRequest("query: give exactly one of image, code and key")
    if code is None and (projections is not None or query_features is not None):
        raise InvalidRequest(
            "query: projections and features come with a code; those of an image are made from it"
        )
    if image is not None:
        return search_pb2.Query(image=image_bytes(image))
    if code is not None:
        return search_pb2.Query(
            code=_code_bytes(code),
            projections=_floats("projections", projections),
            features=_floats("features", query_features),
        )
    return search_pb2.Query(key=check_key(key))


def _floats(field: str, values: Any) -> bytes:
    """A vector of floats as the wire carries it; none is empty."""
    if values is None:
        return b""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
        raise InvalidRequest(f"{field}: are {type(values).__name__}; give a one-dimensional float32 array")
    return values.astype("<f4").tobytes()


def _code_bytes(code: object) -> bytes:
    if isinstance(code, np.ndarray) and code.dtype == np.uint8 and code.ndim == 1:
        return code.tobytes()
    if not isinstance(code, bytes | bytearray | memoryview):
        raise InvalidRequest(f"code: is {type(code).__name__}; give bytes, or a one-dimensional uint8 array")
    return bytes(code)


def options_to_wire(
    *,
    k: int,
    max_distance: int | None,
    filter: Mapping[str, Any] | None,
    include_attributes: bool,
    allow_partial: bool,
    rerank: str,
    consistency: str,
    score: str,
    oversampling: int,
) -> search_pb2.SearchOptions:
    """Raises InvalidRequest for options that no cluster would take."""
    if max_distance is not None and not (isinstance(max_distance, int) and 0 <= max_distance <= _MAX_UINT32):
        raise InvalidRequest(f"max_distance: is {max_distance!r}; use a number of bits, 0 or above")
    check_oversampling(oversampling)
    return search_pb2.SearchOptions(
        k=check_k(k),
        max_distance=max_distance,
        filter=None if filter is None else filter_to_wire(filters.parse(filter)),
        include_attributes=include_attributes,
        allow_partial=allow_partial,
        rerank=_enum(search_pb2.Rerank, "RERANK", "rerank", rerank),
        consistency=consistency_to_wire(consistency),
        score=_enum(search_pb2.Score, "SCORE", "score", score),
        oversampling=oversampling,
    )


def consistency_to_wire(consistency: str) -> search_pb2.Consistency.ValueType:
    value: search_pb2.Consistency.ValueType = _enum(
        search_pb2.Consistency, "CONSISTENCY", "consistency", consistency
    )
    return value


def _enum(enum: Any, prefix: str, field: str, value: str) -> Any:
    names = [name.removeprefix(f"{prefix}_").lower() for name in enum.keys()[1:]]
    if value not in names:
        raise InvalidRequest(f"{field}: is {value!r}; use one of {', '.join(names)}")
    return enum.Value(f"{prefix}_{value.upper()}")


# What a client gets


def result_from_wire(
    hits: Iterable[record_pb2.Hit], answer: search_pb2.SearchResponse | search_pb2.SearchBatchResponse
) -> SearchResult:
    timings = answer.timings
    return SearchResult(
        [Hit(hit.key, hit.distance, hit.score, json.loads(hit.attributes or "{}")) for hit in hits],
        coverage_from_wire(answer.coverage),
        answer.exact,
        Timings(timings.encode_ms, timings.search_ms, timings.merge_ms, timings.total_ms),
    )


def coverage_to_wire(coverage: Coverage) -> record_pb2.Coverage:
    return record_pb2.Coverage(
        partitions=coverage.partitions,
        answered=coverage.answered,
        rows_searched=coverage.rows_searched,
        rows_known=coverage.rows_known,
        missing=[
            record_pb2.MissingPartition(partition=partition, reason=reason)
            for partition, reason in sorted(coverage.missing.items())
        ],
    )


def coverage_from_wire(message: record_pb2.Coverage) -> Coverage:
    return Coverage(
        message.partitions,
        message.answered,
        message.rows_searched,
        message.rows_known,
        {part.partition: part.reason for part in message.missing},
    )


def stored_record_from_wire(message: record_pb2.Record) -> StoredRecord:
    return StoredRecord(message.key, message.code, json.loads(message.attributes or "{}"), message.version)


def outcome_to_wire(outcome: Outcome) -> record_pb2.Outcome:
    if outcome.error is None:
        return record_pb2.Outcome(key=outcome.key)
    known = outcome.error if isinstance(outcome.error, LookalikeError) else errors.Internal("internal error")
    return record_pb2.Outcome(key=outcome.key, error=errors.name_of(known), message=known.message)


def outcome_from_wire(message: record_pb2.Outcome) -> Outcome:
    return Outcome(message.key, errors.by_name(message.error, message.message) if message.error else None)


def status_to_wire(status: ClusterStatus) -> search_pb2.ClusterStatusResponse:
    encoder = status.encoder
    return search_pb2.ClusterStatusResponse(
        cluster=status.cluster,
        version=status.version,
        partitions=[
            search_pb2.PartitionStatus(
                partition=partition.partition,
                slots=partition.slots,
                replicas=[
                    search_pb2.ReplicaStatus(
                        replica=replica.replica,
                        address=replica.address,
                        state=replica.state,
                        reason=replica.reason,
                        rows=replica.rows,
                        memory_bytes=replica.memory_bytes,
                        uptime_seconds=replica.uptime_seconds,
                    )
                    for replica in partition.replicas
                ],
            )
            for partition in status.partitions
        ],
        encoder=search_pb2.EncoderStatus(
            address=encoder.address,
            state=encoder.state,
            reason=encoder.reason,
            code_space=None if encoder.code_space is None else space_to_wire(encoder.code_space),
        ),
        collections=[collection_to_wire(collection) for collection in status.collections],
    )


def status_from_wire(message: search_pb2.ClusterStatusResponse) -> ClusterStatus:
    encoder = message.encoder
    space = space_from_wire(encoder.code_space) if encoder.HasField("code_space") else None
    return ClusterStatus(
        message.cluster,
        message.version,
        [
            PartitionStatus(
                partition.partition,
                partition.slots,
                [
                    ReplicaStatus(
                        replica.replica,
                        replica.address,
                        replica.state,
                        replica.reason,
                        replica.rows,
                        replica.memory_bytes,
                        replica.uptime_seconds,
                    )
                    for replica in partition.replicas
                ],
            )
            for partition in message.partitions
        ],
        EncoderStatus(encoder.address, encoder.state, encoder.reason, space),
        [collection_from_wire(collection) for collection in message.collections],
    )


# Between coordinator and shard


def scan_group_to_wire(group: ScanGroup) -> shard_pb2.ScanGroup:
    return shard_pb2.ScanGroup(
        collection=group.collection,
        fingerprint=group.fingerprint,
        codes=group.codes.tobytes(),
        k=group.k,
        max_distance=group.max_distance,
        filter=None if group.filter is None else filter_to_wire(group.filter),
        include_attributes=group.include_attributes,
        features=group.features,
        scoring=shard_pb2.Scoring.Value(f"SCORING_{group.scoring.name}"),
        inputs=b"" if group.inputs is None else group.inputs.tobytes(),
    )


def scan_group_from_wire(message: shard_pb2.ScanGroup, space: CodeSpace, indexing: Indexing) -> ScanGroup:
    """A checked group. Raises InvalidRequest or CodeSpaceMismatch."""
    queries = len(message.codes) // space.code_bytes
    if message.k > MAX_K + 1 or queries * message.k > 2 * MAX_BATCH_HITS:
        raise InvalidRequest(f"k: {message.k:,} hits for each of {queries:,} queries are too many; ask for fewer")
    space.require(message.fingerprint, "the query")
    indexing.require_features(message.features, "the query")
    if not message.codes or len(message.codes) % space.code_bytes:
        raise InvalidRequest(
            f"codes: {len(message.codes)} bytes are no whole number of codes of {space.code_bytes} bytes"
        )
    if message.k < 1:
        raise InvalidRequest("k: is 0; use at least 1")
    return ScanGroup(
        message.collection,
        message.fingerprint,
        np.frombuffer(message.codes, np.uint8).reshape(-1, space.code_bytes),
        message.k,
        message.max_distance if message.HasField("max_distance") else None,
        filter_from_wire(message.filter) if message.HasField("filter") else None,
        message.include_attributes,
        message.features,
        *_scoring_from_wire(message, queries, space, indexing),
    )


def _scoring_from_wire(
    message: shard_pb2.ScanGroup, queries: int, space: CodeSpace, indexing: Indexing
) -> tuple[Scoring, Inputs | None]:
    try:
        scoring = Scoring(message.scoring or shard_pb2.SCORING_HAMMING)
    except ValueError:
        raise InvalidRequest(f"scoring: {message.scoring} is not known; use a newer shard") from None
    if scoring is Scoring.HAMMING:
        return scoring, None
    kind: np.dtype[Any]
    if scoring is Scoring.RERANK_FEATURES:
        if not indexing.keeps_features:
            raise InvalidRequest(
                "rerank: this collection keeps no features; make it with features int8 or float16"
            )
        kind, width = _FEATURE, indexing.feature_width
    else:
        kind, width = _WEIGHT, space.bits
    if len(message.inputs) != queries * width * kind.itemsize:
        raise InvalidRequest(f"inputs: have {len(message.inputs)} bytes; send {width:,} values for each query")
    inputs: Any = np.frombuffer(message.inputs, kind).reshape(queries, width)
    if kind is _FEATURE and not np.isfinite(inputs).all():
        raise InvalidRequest("inputs: hold NaN or infinity; send finite numbers")
    return scoring, inputs


def scan_hits_to_wire(hits: ScanHits | LookalikeError) -> shard_pb2.ScanHits:
    if isinstance(hits, LookalikeError):
        return shard_pb2.ScanHits(error=errors.name_of(hits), message=hits.message)
    return shard_pb2.ScanHits(
        counts=hits.counts,
        distances=hits.distances.astype(_DISTANCE, copy=False).tobytes(),
        ids=hits.ids.astype(_ID, copy=False).tobytes(),
        keys=hits.keys,
        attributes=hits.attributes,
        rows=hits.rows,
        unknown_fields=hits.unknown_fields,
        known_fields=hits.known_fields,
        ranks=hits.ranks.astype(_RANK, copy=False).tobytes(),
    )


def scan_hits_from_wire(message: shard_pb2.ScanHits) -> ScanHits | LookalikeError:
    if message.error:
        return errors.by_name(message.error, message.message)
    return ScanHits(
        list(message.counts),
        np.frombuffer(message.distances, _DISTANCE),
        np.frombuffer(message.ids, _ID),
        list(message.keys),
        list(message.attributes),
        message.rows,
        list(message.unknown_fields),
        list(message.known_fields),
        np.frombuffer(message.ranks, _RANK),
    )


def versioned_to_wire(record: VersionedRecord) -> shard_pb2.ShardRecord:
    return shard_pb2.ShardRecord(
        key=record.key,
        code=record.code or b"",
        attributes=record.attributes,
        version=record.version,
        deleted=record.code is None,
        features=record.features,
    )


def versioned_from_wire(message: shard_pb2.ShardRecord) -> VersionedRecord:
    if message.deleted:
        return VersionedRecord(message.key, None, "", message.version)
    return VersionedRecord(
        message.key, message.code, message.attributes or "{}", message.version, message.features
    )


def stored_record_to_wire(record: VersionedRecord) -> record_pb2.Record:
    return record_pb2.Record(
        key=record.key, code=record.code or b"", attributes=record.attributes, version=record.version
    )


def outcomes_to_wire(outcomes: Sequence[Outcome]) -> search_pb2.IngestResponse:
    return search_pb2.IngestResponse(outcomes=[outcome_to_wire(outcome) for outcome in outcomes])
