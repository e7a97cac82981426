"""Owns the format of a backup's files of records: length-prefixed ShardRecord messages
(protos/lookalike/v1/shard.proto), compressed with gzip. Also computes the SHA-256 of such a file."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from google.protobuf import proto
from google.protobuf.message import DecodeError

from lookalike import wire
from lookalike.model.errors import Corruption
from lookalike.model.records import VersionedRecord
from lookalike.v1 import shard_pb2

_LEVEL = 1
_BLOCK_BYTES = 1024 * 1024


class _Counted:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Does nothing, because nothing is buffered."""


class PartWriter:
    """Writes records to an open file. `close` completes the content and leaves the file open."""

    def __init__(self, file: Any) -> None:
        self._counted = _Counted(file)
        self._packed = gzip.GzipFile(
            fileobj=cast(BinaryIO, self._counted), mode="wb", compresslevel=_LEVEL, mtime=0
        )
        self.records = 0

    def write(self, records: list[VersionedRecord]) -> None:
        for record in records:
            proto.serialize_length_prefixed(wire.versioned_to_wire(record), cast(Any, self._packed))
        self.records += len(records)

    def close(self) -> None:
        self._packed.close()

    @property
    def size(self) -> int:
        return self._counted.size

    @property
    def sha256(self) -> str:
        return self._counted.digest.hexdigest()


def digest(file: Any) -> tuple[str, int]:
    """The SHA-256, in hex, and the size in bytes of an open file."""
    found, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK_BYTES):
        found.update(block)
        size += len(block)
    return found.hexdigest(), size


def read_records(file: Any, name: str) -> Iterator[VersionedRecord]:
    """Reads the records of an open file. Raises Corruption, naming the file, if it is damaged."""
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            while message := proto.parse_length_prefixed(shard_pb2.ShardRecord, cast(Any, packed)):
                yield wire.versioned_from_wire(message)
    except (OSError, EOFError, zlib.error, ValueError, DecodeError) as error:
        raise Corruption(f"{name}: is damaged ({error})") from None
