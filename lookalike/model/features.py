"""Owns how features are stored and compared: normalised to unit length, one or two bytes per value.

A score is computed from one pair of vectors alone, in a fixed order of operations, so that the number of shards
cannot change it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.model.errors import InvalidRequest

NONE, INT8, FLOAT16 = KINDS = ("none", "int8", "float16")
MAX_WIDTH = 65_536

Features = npt.NDArray[np.float32]
_SCALE = np.dtype("<f4")


def stored_bytes(kind: str, width: int) -> int:
    """The number of bytes that `pack` returns for features of this width."""
    return {NONE: 0, INT8: _SCALE.itemsize + width, FLOAT16: 2 * width}[kind]


def pack(kind: str, features: Features) -> bytes:
    """Encodes features, float32 (width,), for a collection that stores them as `kind`."""
    unit = normalised(features)
    if kind == FLOAT16:
        halves: bytes = unit.astype("<f2").tobytes()
        return halves
    scale = np.array(float(np.abs(unit).max(initial=0.0)) / 127 or 1.0, _SCALE)
    return scale.tobytes() + bytes(np.rint(unit / scale).astype(np.int8).tobytes())


def unpack(kind: str, stored: Sequence[bytes]) -> Features:
    """Decodes the output of `pack`: float32 (n, width), of approximately unit length."""
    joined = b"".join(stored)
    if kind == FLOAT16:
        return np.frombuffer(joined, "<f2").reshape(len(stored), -1).astype(np.float32)
    rows = np.frombuffer(joined, np.int8).reshape(len(stored), -1)
    scales = np.ascontiguousarray(rows[:, : _SCALE.itemsize]).view(_SCALE)
    return rows[:, _SCALE.itemsize :].astype(np.float32) * scales


def is_sound(kind: str, stored: bytes) -> bool:
    """Whether stored features are finite numbers. The caller has checked their length."""
    values = np.frombuffer(stored, "<f2") if kind == FLOAT16 else np.frombuffer(stored[: _SCALE.itemsize], _SCALE)
    return bool(np.isfinite(values).all())


def cosines(query: Features, rows: Features) -> npt.NDArray[np.float64]:
    """The cosine of a query, float32 (width,), and each row, float32 (n, width): float64 (n,); 0 for a row of
    zeros."""
    wide = rows.astype(np.float64)
    products = (wide * normalised(query).astype(np.float64)).sum(axis=1)
    lengths = np.sqrt((wide * wide).sum(axis=1))
    result: npt.NDArray[np.float64] = np.clip(products / np.where(lengths == 0, 1.0, lengths), -1.0, 1.0)
    return result


def normalised(features: Features) -> Features:
    """Scales features to unit length; zeros stay zeros."""
    wide = features.astype(np.float64)
    length = float(np.sqrt((wide * wide).sum()))
    result: Features = (wide / length).astype(np.float32) if length else np.zeros_like(features)
    return result


def read(field: str, data: bytes, width: int) -> Features:
    """Decodes float32 little-endian bytes as (width,). Raises InvalidRequest, naming the field."""
    if len(data) != width * 4:
        raise InvalidRequest(
            f"{field}: have {len(data):,} bytes; send {width:,} float32 values, {width * 4:,} bytes"
        )
    values = np.frombuffer(data, "<f4")
    if not np.isfinite(values).all():
        raise InvalidRequest(f"{field}: hold NaN or infinity; send finite numbers")
    return values
