"""Owns the codec of lists of records as columns: the pages of a scroll."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.cluster.listed import Listed
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import record_pb2
from lookalike.wire.public.columns import columns_from_wire, columns_to_wire, ends_to_wire, texts_from_wire

_NUMBER = np.dtype("<u8")


def listed_to_wire(listed: Listed) -> record_pb2.RecordColumns:
    """Encodes a list, without the ids."""
    message = columns_to_wire(CodeColumns(listed.keys, listed.codes, listed.attributes))
    message.versions = listed.versions.astype(_NUMBER).tobytes()
    if listed.thumbnails.data:
        message.thumbnails = listed.thumbnails.data
        message.thumbnail_ends = ends_to_wire(listed.thumbnails)
    return message


def listed_from_wire(message: record_pb2.RecordColumns, ids: bytes = b"") -> Listed:
    """Decodes a list. Without ids, the ids of the result are 0.

    Raises:
        InvalidRequest: If a column is malformed.
    """
    columns = columns_from_wire(message)
    count = len(columns)
    thumbnails = Texts(b"", np.zeros(count, np.int64))
    if message.thumbnail_ends:
        thumbnails = texts_from_wire("thumbnails", message.thumbnails, message.thumbnail_ends)
    versions = _numbers(message.versions)
    given = _numbers(ids) if ids else np.zeros(count, np.uint64)
    if {len(versions), len(given), len(thumbnails)} != {count}:
        raise InvalidRequest(f"columns: ids, versions or thumbnails are not {count:,}, one for each key")
    return Listed(columns.keys, given, versions, columns.codes, columns.attributes, thumbnails)


def _numbers(data: bytes) -> npt.NDArray[np.uint64]:
    if len(data) % _NUMBER.itemsize:
        raise InvalidRequest("columns: ids and versions need 8 bytes for each key")
    return np.frombuffer(data, _NUMBER)


def ids_to_wire(listed: Listed) -> bytes:
    """Encodes the ids of a list."""
    return listed.ids.astype(_NUMBER).tobytes()
