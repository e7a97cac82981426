"""Owns the codec of records as columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import record_pb2

_END = np.dtype("<u4")


def columns_to_wire(columns: CodeColumns) -> record_pb2.RecordColumns:
    """Encodes columns."""
    return record_pb2.RecordColumns(
        keys=columns.keys.data,
        key_ends=ends_to_wire(columns.keys),
        codes=columns.codes.tobytes(),
        attributes=columns.attributes.data,
        attribute_ends=ends_to_wire(columns.attributes) if columns.attributes.data else b"",
    )


def columns_from_wire(message: record_pb2.RecordColumns) -> CodeColumns:
    """Decodes columns. Checks that they have one length, but not what the codes, keys and attributes are.

    Raises:
        InvalidRequest: If a column is malformed.
    """
    keys = texts_from_wire("keys", message.keys, message.key_ends)
    count = len(keys)
    if count and len(message.codes) % count:
        raise InvalidRequest(f"columns: {len(message.codes):,} bytes of codes are no {count:,} codes of one width")
    attributes = Texts(b"", np.zeros(count, np.int64))
    if message.attributes or message.attribute_ends:
        attributes = texts_from_wire("attributes", message.attributes, message.attribute_ends)
    if len(attributes) != count:
        raise InvalidRequest(f"columns: {len(attributes):,} attributes for {count:,} keys; send one for each")
    codes = np.frombuffer(message.codes, np.uint8).reshape(count, len(message.codes) // max(count, 1))
    return CodeColumns(keys, codes, attributes)


def ends_to_wire(texts: Texts) -> bytes:
    """Encodes where each string ends."""
    return texts.ends.astype(_END).tobytes()


def texts_from_wire(name: str, data: bytes, packed_ends: bytes) -> Texts:
    """Decodes strings. Raises InvalidRequest if their ends do not ascend to the bytes of `data`."""
    if len(packed_ends) % _END.itemsize:
        raise InvalidRequest(f"columns: the ends of {name} are not 4-byte integers")
    ends: npt.NDArray[np.int64] = np.frombuffer(packed_ends, _END).astype(np.int64)
    if (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != len(data):
        raise InvalidRequest(f"columns: the ends of {name} must ascend to {len(data):,}, the bytes of {name}")
    return Texts(data, ends)
