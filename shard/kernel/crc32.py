"""Owns CRC-32 (IEEE 802.3, as `zlib.crc32`) over many rows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shard.kernel.jit import compiled

Bytes = npt.NDArray[np.uint8]

_POLYNOMIAL = 0xEDB88320


def _tables() -> npt.NDArray[np.uint32]:
    """Tables for eight bytes a step ("slicing-by-8", Kounavis and Berry, 2005), (8, 256)."""
    tables = np.zeros((8, 256), np.uint32)
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1)
    tables[0] = values
    for step in range(1, 8):
        tables[step] = (tables[step - 1] >> 8) ^ tables[0][tables[step - 1] & 0xFF]
    return tables


_TABLES = _tables()


def crc32_of_rows(heads: Bytes, texts: Bytes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Returns the CRC-32 of each row: of its head, then of its text.

    Args:
        heads: uint8 (n, width).
        texts: uint8 (m,), the texts of all rows, end to end.
        ends: int64 (n,), where each row's text ends; ascending, at most m.
    """
    result: npt.NDArray[np.uint32] = _crc32_of_rows(np.ascontiguousarray(heads), texts, ends, _TABLES)
    return result


@compiled
def _crc32_of_rows(heads, texts, ends, tables):  # type: ignore[no-untyped-def]
    result = np.empty(len(heads), np.uint32)
    start = 0
    for row in range(len(heads)):
        crc = _update(np.uint32(0xFFFFFFFF), heads[row], 0, heads.shape[1], tables)
        result[row] = ~_update(crc, texts, start, ends[row], tables)
        start = ends[row]
    return result


@compiled
def _update(crc, data, start, end, tables):  # type: ignore[no-untyped-def]
    at = start
    while at + 8 <= end:
        low = crc ^ (
            np.uint32(data[at])
            | np.uint32(data[at + 1]) << np.uint32(8)
            | np.uint32(data[at + 2]) << np.uint32(16)
            | np.uint32(data[at + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, low & np.uint32(0xFF)]
            ^ tables[6, (low >> np.uint32(8)) & np.uint32(0xFF)]
            ^ tables[5, (low >> np.uint32(16)) & np.uint32(0xFF)]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
        at += 8
    while at < end:
        crc = tables[0, (crc ^ np.uint32(data[at])) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        at += 1
    return crc
