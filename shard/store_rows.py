"""Owns how a record becomes rows of a store and back, and the checksum that finds damage.

A row of `records` has a number, a head, a key and the attributes; NULL instead of attributes makes it a tombstone.
The head holds the fields of `HEAD`, then the code. Its checksum is the CRC-32 of the rest of the head, the key, a
newline and the attributes. Features and thumbnails are in tables of their own; the head has their checksums."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import Texts, VersionedColumns, interleaved
from lookalike.model.errors import Corruption
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.kernel.crc32 import crc32_of_rows

HEAD = np.dtype(
    [
        ("checksum", "<u4"),
        ("number", "<u4"),  # the row number, so that heads that are read as columns belong to the numbers
        ("id", "<u8"),
        ("version", "<u8"),
        ("features", "<u4"),  # CRC-32 of the features; 0 without
        ("thumbnail", "<u4"),
        ("text", "<u4"),  # bytes of the key, a newline and the attributes
    ]
)
_FIELDS = struct.Struct("<IIQQIII")
_CHECKSUM_BYTES = 4
COLUMNS = "number, head, key, attributes"


def heads_of(
    numbers: Sequence[int], ids: npt.NDArray[np.uint64], records: Sequence[VersionedRecord]
) -> list[bytes]:
    """Returns the heads of rows to write.

    Args:
        numbers: The row numbers.
        ids: uint64 (n,), the ids of the records' keys.
        records: The records, either all live, with codes of one width, or all tombstones.
    """
    if not records:
        return []
    texts = Texts.of([f"{record.key}\n{'' if record.code is None else record.attributes}" for record in records])
    fields = np.zeros(len(records), HEAD)
    fields["number"], fields["id"] = numbers, ids
    fields["version"] = [record.version for record in records]
    fields["features"] = [zlib.crc32(record.features) for record in records]
    fields["thumbnail"] = [zlib.crc32(record.thumbnail) for record in records]
    codes = np.frombuffer(b"".join(record.code or b"" for record in records), np.uint8)
    return _packed(fields, codes.reshape(len(records), -1), texts)


def heads_of_columns(first: int, records: VersionedColumns) -> list[bytes]:
    """Returns the heads of rows to write, numbered from `first` on."""
    fields = np.zeros(len(records), HEAD)
    fields["number"] = np.arange(first, first + len(records))
    fields["id"], fields["version"] = records.ids, records.versions
    columns = records.columns
    newlines = Texts.repeat("\n", len(records))
    return _packed(fields, columns.codes, interleaved([columns.keys, newlines, columns.attributes]))


def _packed(fields: npt.NDArray[np.void], codes: npt.NDArray[np.uint8], texts: Texts) -> list[bytes]:
    fields["text"] = texts.sizes
    heads = np.concatenate([fields.view(np.uint8).reshape(len(fields), HEAD.itemsize), codes], axis=1)
    checksums = crc32_of_rows(heads[:, _CHECKSUM_BYTES:], np.frombuffer(texts.data, np.uint8), texts.ends)
    heads[:, :_CHECKSUM_BYTES] = checksums.astype("<u4").view(np.uint8).reshape(-1, _CHECKSUM_BYTES)
    packed, width = heads.tobytes(), heads.shape[1]
    return [packed[start : start + width] for start in range(0, len(packed), width)]


def renumbered(head: bytes, number: int, key: str, attributes: str | None) -> bytes:
    """Returns the head of a row that gets another number."""
    _, _, *rest = _FIELDS.unpack_from(head)
    body = _FIELDS.pack(0, number, *rest)[_CHECKSUM_BYTES:] + head[_FIELDS.size :]
    return zlib.crc32(_text(key, attributes), zlib.crc32(body)).to_bytes(_CHECKSUM_BYTES, "little") + body


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Rows that were read as columns.

    Attributes:
        fields: HEAD (n,).
        codes: uint8 (n, bytes of a code); (n, 0) for tombstones.
    """

    fields: npt.NDArray[np.void]
    codes: npt.NDArray[np.uint8]

    @classmethod
    def checked(cls, heads: bytes, width: int, texts: bytes, number_sum: int) -> Block | None:
        """Reads rows; None if they are not what was written.

        Args:
            heads: Their heads, end to end.
            width: The bytes of a code; 0 for tombstones.
            texts: Their keys, newlines and attributes, end to end.
            number_sum: The sum of the row numbers in the table.
        """
        if len(heads) % (HEAD.itemsize + width):
            return None
        rows = np.frombuffer(heads, np.uint8).reshape(-1, HEAD.itemsize + width)
        fields = np.ascontiguousarray(rows[:, : HEAD.itemsize]).view(HEAD).reshape(-1)
        ends = np.cumsum(fields["text"], dtype=np.int64)
        if len(ends) and ends[-1] != len(texts):
            return None
        checksums = crc32_of_rows(rows[:, _CHECKSUM_BYTES:], np.frombuffer(texts, np.uint8), ends)
        numbers = fields["number"].astype(np.int64)
        is_sound = (
            (checksums == fields["checksum"]).all()
            and int(numbers.sum()) == number_sum
            and (numbers[1:] > numbers[:-1]).all()
        )
        return cls(fields, rows[:, HEAD.itemsize :]) if is_sound else None


@dataclasses.dataclass(frozen=True, slots=True)
class RecordReader:
    """Selects whole records and checks them.

    Attributes:
        indexing: What the store holds next to the codes.
        width: The bytes of a code.
        include_features: Whether to read features.
        include_thumbnails: Whether to read thumbnails.
    """

    indexing: Indexing
    width: int
    include_features: bool = True
    include_thumbnails: bool = True

    def sql(self, condition: str) -> str:
        """Returns the statement that selects the rows for `record`."""
        parts = ["NULL", "NULL"]
        joins = ""
        if self.include_features and self.indexing.keeps_features:
            parts[0], joins = "vector", " LEFT JOIN features USING (number)"
        if self.include_thumbnails:
            parts[1], joins = "picture", joins + " LEFT JOIN thumbnails USING (number)"
        return f"SELECT {COLUMNS}, {', '.join(parts)} FROM records{joins} WHERE {condition}"

    def record(
        self,
        number: int,
        head: bytes,
        key: str,
        attributes: str | None,
        vector: bytes | None,
        picture: bytes | None,
    ) -> VersionedRecord:
        """Returns the record of a selected row. Raises Corruption if the row differs from what was written."""
        fields = checked_fields(number, head, key, attributes, self.width)
        if self.include_features and self.indexing.keeps_features:
            require_sound(fields.features, vector, number, key)
        if self.include_thumbnails:
            require_sound(fields.thumbnail, picture, number, key)
        code = None if attributes is None else head[_FIELDS.size :]
        return VersionedRecord(key, code, attributes or "", fields.version, vector or b"", picture or b"")


class Fields(NamedTuple):
    """The fields of one head; see `HEAD`."""

    checksum: int
    number: int
    id: int
    version: int
    features: int
    thumbnail: int
    text: int


def fields_of(head: bytes) -> Fields:
    """Returns the fields of a head, unchecked."""
    return Fields(*_FIELDS.unpack_from(head))


def checked_fields(number: int, head: object, key: object, attributes: object, width: int) -> Fields:
    """Returns the fields of a row's head. Damage may change the types of the values, too.

    Raises:
        Corruption: If the row differs from what was written.
    """
    if isinstance(head, bytes) and isinstance(key, str) and isinstance(attributes, str | None):
        expected_bytes = _FIELDS.size + (0 if attributes is None else width)
        if len(head) == expected_bytes:
            fields = fields_of(head)
            checksum = zlib.crc32(_text(key, attributes), zlib.crc32(memoryview(head)[_CHECKSUM_BYTES:]))
            if (fields.checksum, fields.number) == (checksum, number):
                return fields
    raise damaged(number, key)


def require_sound(checksum: int, content: object, number: int, key: object) -> None:
    """Raises Corruption if a row's features or thumbnail, None if there are none, differ from what was written."""
    if not isinstance(content, bytes | None) or zlib.crc32(content or b"") != checksum:
        raise damaged(number, key)


def damaged(number: int, key: object) -> Corruption:
    """Returns the error for a row that differs from what was written."""
    return Corruption(
        f"the row {number} of key {str(key)[:140]!r} is damaged; restore the partition from a backup"
    )


def _text(key: str, attributes: str | None) -> bytes:
    return f"{key}\n{attributes or ''}".encode()
