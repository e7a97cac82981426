"""Owns the conversion of a shard's writes, and of their results, to and from protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.scan import WriteResult
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.features import is_sound
from lookalike.model.indexing import Indexing
from lookalike.model.records import VERSION_LIMIT, VersionedRecord, check_code, check_key, parse_attributes
from lookalike.model.thumbnails import check_thumbnail
from lookalike.v1 import shard_pb2
from lookalike.wire.public.columns import columns_from_wire, columns_to_wire
from lookalike.wire.shard.scans import versioned_from_wire, versioned_to_wire

_NUMBER = np.dtype("<u8")


def write_to_wire(
    collection: str,
    fingerprint: str,
    features: str,
    records: Sequence[VersionedRecord] | VersionedColumns,
    bases: Sequence[int] | None = None,
) -> shard_pb2.WriteRequest:
    """Encodes a write. See `ShardClient.write`."""
    request = shard_pb2.WriteRequest(collection=collection, fingerprint=fingerprint, features=features)
    if isinstance(records, VersionedColumns):
        request.columns.CopyFrom(
            shard_pb2.VersionedColumns(
                columns=columns_to_wire(records.columns),
                ids=records.ids.astype(_NUMBER).tobytes(),
                versions=records.versions.astype(_NUMBER).tobytes(),
                fields=records.fields,
            )
        )
    elif bases is not None:
        request.reservations.extend(
            shard_pb2.Reservation(key=record.key, version=record.version, base=base)
            for record, base in zip(records, bases, strict=True)
        )
    else:
        request.records.extend(versioned_to_wire(record) for record in records)
    return request


def bases_from_wire(message: shard_pb2.WriteRequest) -> list[int] | None:
    """Returns the base of each record that `write_from_wire` returns; None if they are to be stored."""
    return [reservation.base for reservation in message.reservations] or None


def write_from_wire(
    message: shard_pb2.WriteRequest, space: CodeSpace, indexing: Indexing
) -> Sequence[VersionedRecord] | VersionedColumns:
    """Returns the records of a write, or the keys to reserve as tombstones, checked against the collection's code
    space and indexing.

    Raises:
        CodeSpaceMismatch: If the write is meant for another code space or another format of features.
        InvalidRequest: If a record is invalid.
    """
    space.require(message.fingerprint, "the write")
    indexing.require_features(message.features, "the write")
    if message.HasField("columns"):
        return _columns_from_wire(message.columns, space, indexing)
    records = [versioned_from_wire(record) for record in message.records]
    records += [VersionedRecord(one.key, None, "", one.version) for one in message.reservations]
    for record in records:
        check_key(record.key)
        if record.version >= VERSION_LIMIT:
            raise InvalidRequest(
                f"version: {record.version} is not below {VERSION_LIMIT}; set the coordinator's clock"
            )
        if record.code is not None:
            check_code(record.code, space, f"record {record.key!r}")
            _check_features(record, indexing)
            check_thumbnail(record.thumbnail)
    # Records of one write often share their attributes.
    for attributes in {record.attributes for record in records if record.code is not None}:
        parse_attributes(attributes)
    return records


def _columns_from_wire(
    message: shard_pb2.VersionedColumns, space: CodeSpace, indexing: Indexing
) -> VersionedColumns:
    columns = columns_from_wire(message.columns)
    columns.require_width(space)
    if indexing.keeps_features:
        raise InvalidRequest("columns: hold no features, which the collection stores; send records")
    if {len(message.ids), len(message.versions)} != {len(columns) * _NUMBER.itemsize}:
        raise InvalidRequest("columns: ids and versions need 8 bytes for each key")
    versions = np.frombuffer(message.versions, _NUMBER)
    if (versions >= np.uint64(VERSION_LIMIT)).any():
        raise InvalidRequest(f"version: {versions.max()} is not below {VERSION_LIMIT}; set the clock")
    ids = np.frombuffer(message.ids, _NUMBER)
    return VersionedColumns(columns, ids, versions, list(message.fields))


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
