"""Owns reading records of given row numbers as columns, so that a long list needs no object for each row."""

from __future__ import annotations

import json
import zlib

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import Texts
from lookalike.cluster.listed import Listed
from lookalike.model.errors import Corruption
from shard.database import Database
from shard.store_rows import COLUMNS, Block, checked_fields, damaged

_NEWLINE = ord("\n")
# SQLite reads the numbers of an IN clause in increasing order, so the values are joined in that order.
_CHOSEN = "number IN (SELECT value FROM json_each(?)) AND attributes IS NOT NULL"
_JOINED = f"""
    SELECT count(*), sum(number), group_concat(hex(head), ''),
        CAST(group_concat(key || char(10) || attributes, '') AS BLOB)
    FROM records WHERE {_CHOSEN}
"""
_ROWS = f"SELECT {COLUMNS} FROM records WHERE {_CHOSEN}"
_PICTURES = "SELECT number, picture FROM thumbnails WHERE number IN (SELECT value FROM json_each(?))"


def read_columns(
    database: Database,
    numbers: npt.NDArray[np.uint32],
    code_bytes: int,
    include_codes: bool,
    include_attributes: bool,
    include_thumbnails: bool,
) -> tuple[Listed, int]:
    """Reads live rows.

    Args:
        database: The store's file.
        numbers: The row numbers, each once.
        code_bytes: The bytes of a code.
        include_codes: Whether to return codes.
        include_attributes: Whether to return attributes.
        include_thumbnails: Whether to return thumbnails.

    Returns:
        The rows, in the order of `numbers`, and how many bytes of text and thumbnails were read.

    Raises:
        Corruption: If a row is damaged or does not exist.
    """
    order = np.argsort(numbers, kind="stable")
    chosen = json.dumps(numbers[order].tolist())
    block, texts = _read_block(database, chosen, len(numbers), code_bytes)
    sizes = block.fields["text"].astype(np.int64)
    starts, key_sizes = _bounds(texts, sizes)
    back = np.argsort(order, kind="stable")
    keys = Texts.cut(texts, starts[back], key_sizes[back])
    attributes = thumbnails = Texts(b"", np.zeros(len(numbers), np.int64))
    if include_attributes:
        attributes = Texts.cut(texts, (starts + key_sizes + 1)[back], (sizes - key_sizes - 1)[back])
    if include_thumbnails:
        thumbnails = _read_pictures(database, chosen, block.fields[back], keys)
    codes = block.codes[back] if include_codes else np.zeros((len(numbers), 0), np.uint8)
    listed = Listed(keys, block.fields["id"][back], block.fields["version"][back], codes, attributes, thumbnails)
    return listed, len(texts) + len(thumbnails.data)


def _read_block(database: Database, chosen: str, wanted: int, code_bytes: int) -> tuple[Block, bytes]:
    """The rows in the order of their numbers, and their keys, newlines and attributes, end to end."""
    count, total, heads, texts = database.reader.execute(_JOINED, (chosen,)).fetchone()
    if count < wanted:
        raise Corruption("the store lacks rows that were loaded from it; restore the partition from a backup")
    if not wanted:
        heads, texts, total = "", b"", 0
    block = Block.checked(bytes.fromhex(heads), code_bytes, texts, total)
    if block is None or len(block.fields) != wanted:
        for number, head, key, attributes in database.reader.execute(_ROWS, (chosen,)):
            checked_fields(number, head, key, attributes, code_bytes)
        raise Corruption("rows of the list are damaged; restore the partition from a backup")
    return block, texts


def _bounds(texts: bytes, sizes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each row's text starts, and the bytes of its key. A key may contain newlines; attributes, which are
    canonical JSON, do not."""
    ends = np.cumsum(sizes)
    newlines = np.flatnonzero(np.frombuffer(texts, np.uint8) == _NEWLINE)
    separators = newlines[np.searchsorted(newlines, ends) - 1] if len(ends) else ends
    starts = ends - sizes
    return starts, separators - starts


def _read_pictures(database: Database, chosen: str, fields: npt.NDArray[np.void], keys: Texts) -> Texts:
    """The thumbnails of the rows with these fields and keys."""
    found = dict(database.reader.execute(_PICTURES, (chosen,)))
    pieces = [found.get(number, b"") for number in fields["number"].tolist()]
    for row, (picture, checksum) in enumerate(zip(pieces, fields["thumbnail"].tolist(), strict=True)):
        if not isinstance(picture, bytes) or zlib.crc32(picture) != checksum:
            raise damaged(int(fields["number"][row]), keys.strings()[row])
    return Texts.joined(pieces)
