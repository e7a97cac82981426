"""Owns the conversion of writes to a shard to and from messages."""

from __future__ import annotations

from lookalike.cluster.scan import WriteResult
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.features import is_sound
from lookalike.model.indexing import Indexing
from lookalike.model.records import VERSION_LIMIT, VersionedRecord, check_code, check_key, parse_attributes
from lookalike.model.thumbnails import check_thumbnail
from lookalike.v1 import shard_pb2
from lookalike.wire.shard.scans import versioned_from_wire


def write_from_wire(
    message: shard_pb2.WriteRequest, space: CodeSpace, indexing: Indexing
) -> list[VersionedRecord]:
    """Returns the records of a write, checked against the collection's code space and indexing.

    Raises:
        CodeSpaceMismatch: If the write is meant for another code space or other features.
        InvalidRequest: If a record is invalid.
    """
    space.require(message.fingerprint, "the write")
    indexing.require_features(message.features, "the write")
    records = [versioned_from_wire(record) for record in message.records]
    for record in records:
        check_key(record.key)
        if record.version >= VERSION_LIMIT:
            raise InvalidRequest(f"version: {record.version} is not below {VERSION_LIMIT}; set the clock")
        if record.code is not None:
            check_code(record.code, space, f"record {record.key!r}")
            _check_features(record, indexing)
            check_thumbnail(record.thumbnail)
    # Records of one write often share their attributes.
    for attributes in {record.attributes for record in records if record.code is not None}:
        parse_attributes(attributes)
    return records


def write_result_to_wire(result: WriteResult) -> shard_pb2.WriteResponse:
    return shard_pb2.WriteResponse(
        existed=result.existed,
        superseded=result.superseded.keys(),
        superseded_by=result.superseded.values(),
        newest_version=result.newest_version,
        elsewhere=[
            shard_pb2.Elsewhere(slot=slot, partition=partition) for slot, partition in result.forward_to.items()
        ],
        refused=sorted(result.refused),
    )


def write_result_from_wire(message: shard_pb2.WriteResponse) -> WriteResult:
    return WriteResult(
        list(message.existed),
        dict(zip(message.superseded, message.superseded_by, strict=True)),
        message.newest_version,
        {other.slot: other.partition for other in message.elsewhere},
        frozenset(message.refused),
    )


def _check_features(record: VersionedRecord, indexing: Indexing) -> None:
    if len(record.features) != indexing.feature_bytes:
        raise InvalidRequest(
            f"features: record {record.key!r} has {len(record.features):,} bytes, the collection stores"
            f" {indexing.feature_bytes:,}; send them in the collection's format"
        )
    if record.features and not is_sound(indexing.features, record.features):
        raise InvalidRequest(f"features: record {record.key!r} has NaN or infinity; send finite numbers")
