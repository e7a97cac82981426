"""Owns the conversion of scans, their results and versioned records to and from messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import MAX_SCAN_K, Inputs, Place, ScanGroup, ScanResult, Scoring
from lookalike.model import errors
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.indexing import Indexing
from lookalike.model.records import MAX_BATCH_HITS, MAX_BATCH_RECORDS, VersionedRecord, check_key
from lookalike.v1 import shard_pb2
from lookalike.wire.public.filters import filter_from_wire, filter_to_wire

_DISTANCE, _ID = np.dtype("<u2"), np.dtype("<u8")
_WEIGHT, _FEATURE, _RANK = np.dtype("<u2"), np.dtype("<f4"), np.dtype("<f8")


def scan_group_to_wire(group: ScanGroup) -> shard_pb2.ScanGroup:
    after = group.after
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
        include_versions=group.include_versions,
        after=None if after is None else shard_pb2.Place(value=after.value, key=after.key),
        exclude_keys=group.exclude_keys,
    )


def scan_group_from_wire(message: shard_pb2.ScanGroup, space: CodeSpace, indexing: Indexing) -> ScanGroup:
    """Decodes and checks a scan group.

    Args:
        message: The group.
        space: The collection's code space.
        indexing: The collection's indexes and the format of its features.

    Raises:
        CodeSpaceMismatch: If the codes belong to another code space, or the features are stored in another way.
        InvalidRequest: If the group is malformed or asks for too many hits.
    """
    # Reading a field of a message is slow, so each is read once.
    codes, k, code_bytes = message.codes, message.k, space.code_bytes
    fingerprint, features = message.fingerprint, message.features
    queries = len(codes) // code_bytes
    if k > MAX_SCAN_K or queries * k > 2 * MAX_BATCH_HITS:
        raise InvalidRequest(f"k: {k:,} hits for each of {queries:,} queries are too many; request fewer")
    space.require(fingerprint, "the query")
    indexing.require_features(features, "the query")
    if not codes or len(codes) % code_bytes:
        raise InvalidRequest(f"codes: {len(codes)} bytes are not a multiple of a code's {code_bytes} bytes")
    if k < 1:
        raise InvalidRequest("k: is 0; use at least 1")
    return ScanGroup(
        message.collection,
        fingerprint,
        np.frombuffer(codes, np.uint8).reshape(-1, code_bytes),
        k,
        message.max_distance if message.HasField("max_distance") else None,
        filter_from_wire(message.filter) if message.HasField("filter") else None,
        message.include_attributes,
        features,
        *_scoring_from_wire(message, queries, space, indexing),
        message.include_versions,
        Place(message.after.value, check_key(message.after.key)) if message.HasField("after") else None,
        excluded_from_wire(message.exclude_keys),
    )


def excluded_from_wire(keys: Sequence[str]) -> tuple[str, ...]:
    """Decodes keys to leave out. Raises InvalidRequest if they are too many."""
    if len(keys) > MAX_BATCH_RECORDS + 1:
        raise InvalidRequest(f"exclude_keys: {len(keys):,} in one request; send at most {MAX_BATCH_RECORDS:,}")
    return tuple(keys)


def _scoring_from_wire(
    message: shard_pb2.ScanGroup, queries: int, space: CodeSpace, indexing: Indexing
) -> tuple[Scoring, Inputs | None]:
    try:
        scoring = Scoring(message.scoring or shard_pb2.SCORING_HAMMING)
    except ValueError:
        raise InvalidRequest(f"scoring: unknown value {message.scoring}; use a newer shard") from None
    if scoring is Scoring.HAMMING:
        return scoring, None
    kind: np.dtype[Any]
    if scoring is Scoring.RERANK_FEATURES:
        if not indexing.keeps_features:
            raise InvalidRequest(
                "rerank: this collection stores no features; create one with features int8 or float16"
            )
        kind, width = _FEATURE, indexing.feature_width
    else:
        kind, width = _WEIGHT, space.bits
    if len(message.inputs) != queries * width * kind.itemsize:
        raise InvalidRequest(f"inputs: have {len(message.inputs)} bytes; send {width:,} values for each query")
    inputs: Any = np.frombuffer(message.inputs, kind).reshape(queries, width)
    if kind is _FEATURE and not np.isfinite(inputs).all():
        raise InvalidRequest("inputs: contain NaN or infinity; send finite numbers")
    return scoring, inputs


def scan_result_to_wire(result: ScanResult | LookalikeError) -> shard_pb2.ScanHits:
    """Encodes a group's answer or its error; `stale_ms` is in the enclosing response."""
    if isinstance(result, LookalikeError):
        return shard_pb2.ScanHits(error=errors.name_of(result), message=result.message)
    hits = result.hits
    message = shard_pb2.ScanHits(
        counts=hits.counts.tolist(),
        distances=hits.distances.astype(_DISTANCE, copy=False).tobytes(),
        ids=hits.ids.astype(_ID, copy=False).tobytes(),
        keys=hits.keys.tolist(),
        rows=result.rows,
        unknown_fields=result.unknown_fields,
        known_fields=result.known_fields,
    )
    if len(hits.attributes):
        message.attributes.extend(hits.attributes.tolist())
    if len(hits.ranks):
        message.ranks = hits.ranks.astype(_RANK, copy=False).tobytes()
    if len(hits.versions):
        message.versions = hits.versions.astype(_ID, copy=False).tobytes()
    return message


def scan_result_from_wire(message: shard_pb2.ScanHits, stale_ms: int = 0) -> ScanResult | LookalikeError:
    """Decodes a group's answer, or its error."""
    if message.error:
        return errors.by_name(message.error, message.message)
    distances = np.frombuffer(message.distances, _DISTANCE)
    # Repeated fields become lists first: NumPy reads the fields themselves slowly.
    counts = list(message.counts)
    columns: dict[str, Any] = {
        "query_of": np.repeat(np.arange(len(counts)), counts)
        if len(counts) > 1
        else np.zeros(len(distances), int),
        "distances": distances,
        "ids": np.frombuffer(message.ids, _ID),
        "keys": np.array(list(message.keys), np.object_),
    }
    if message.attributes:
        columns["attributes"] = np.array(list(message.attributes), np.object_)
    if message.ranks:
        columns["ranks"] = np.frombuffer(message.ranks, _RANK)
    if message.versions:
        columns["versions"] = np.frombuffer(message.versions, _ID)
    hits = HitTable(len(counts), **columns)
    return ScanResult(hits, message.rows, list(message.unknown_fields), list(message.known_fields), stale_ms)


def versioned_to_wire(record: VersionedRecord) -> shard_pb2.ShardRecord:
    return shard_pb2.ShardRecord(
        key=record.key,
        code=record.code or b"",
        attributes=record.attributes,
        version=record.version,
        deleted=record.code is None,
        features=record.features,
        thumbnail=record.thumbnail,
    )


def bare_to_wire(record: VersionedRecord) -> shard_pb2.ShardRecord:
    """Encodes a record's key and version only."""
    return shard_pb2.ShardRecord(key=record.key, version=record.version, deleted=record.code is None)


def versioned_from_wire(message: shard_pb2.ShardRecord) -> VersionedRecord:
    if message.deleted:
        return VersionedRecord(message.key, None, "", message.version)
    return VersionedRecord(
        message.key,
        message.code,
        message.attributes or "{}",
        message.version,
        message.features,
        message.thumbnail,
    )
