"""Owns how a record becomes rows of a store, and back."""

from __future__ import annotations

import zlib

from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord


def select_records(
    indexing: Indexing,
    columns: str,
    condition: str,
    include_features: bool = True,
    include_thumbnails: bool = True,
) -> str:
    """Returns SQL that selects these columns of `records`, then the features and the thumbnail; each is NULL if it
    does not exist or is not included."""
    included = {"vector": "features"} if indexing.keeps_features and include_features else {}
    if include_thumbnails:
        included["picture"] = "thumbnails"
    parts = ", ".join(name if name in included else "NULL" for name in ("vector", "picture"))
    joins = " ".join(f"LEFT JOIN {table} USING (number)" for table in included.values())
    return f"SELECT {columns}, {parts} FROM records {joins} WHERE {condition}"


def record_of(
    key: str, code: bytes | None, attributes: str | None, version: int, vector: bytes | None, picture: bytes | None
) -> VersionedRecord:
    """Returns the record of a row."""
    return VersionedRecord(key, code, attributes or "", version, vector or b"", picture or b"")


def signed(identifier: int) -> int:
    """Returns an unsigned 64-bit id as SQLite stores it."""
    return identifier - 2**64 if identifier >= 2**63 else identifier


def checksum_of(record: VersionedRecord) -> int:
    """Returns the checksum to store with a record."""
    attributes = None if record.code is None else record.attributes
    return checksum(record.key, record.version, record.code, attributes, record.features, record.thumbnail)


def checksum(
    key: str, version: int, code: bytes | None, attributes: str | None, features: bytes, thumbnail: bytes
) -> int:
    """Returns a CRC-32 over the contents of a row."""
    text = f"{version} {'' if attributes is None else attributes} {key}".encode()
    return zlib.crc32(thumbnail, zlib.crc32(features, zlib.crc32(code or b"", zlib.crc32(text))))
