"""Owns what a client sends: records, queries and options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.model import filters
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Record, attributes_text, check_k, check_key, check_oversampling
from lookalike.model.thumbnails import check_thumbnail
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.filters import filter_to_wire

_MAX_UINT32 = 2**32 - 1


def image_bytes(image: bytes | str | Path) -> bytes:
    """The encoded image: bytes as they are, a path's contents. Raises InvalidRequest, naming the path."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise InvalidRequest(f"image: is {type(image).__name__}; give an image file's bytes or its path")
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"image: {str(image)!r} cannot be read: {reason}") from None


def record_to_wire(record: Record) -> record_pb2.Record:
    """Raises InvalidRequest for a record that no cluster would take."""
    if not isinstance(record, Record):
        raise InvalidRequest(f"record: is {type(record).__name__}; give lookalike.Record objects")
    key = check_key(record.key)
    text = attributes_text(record.attributes)
    if (record.image is None) == (record.code is None):
        raise InvalidRequest(f"record {key!r}: needs an image or a code, exactly one of them")
    if record.image is not None:
        if record.features is not None:
            raise InvalidRequest(f"record {key!r}: features: come with a code; those of an image are made from it")
        return record_pb2.Record(
            key=key, image=image_bytes(record.image), attributes=text, thumbnail=_thumbnail(record)
        )
    return record_pb2.Record(
        key=key,
        code=_code_bytes(record.code),
        attributes=text,
        features=_floats("features", record.features),
        thumbnail=_thumbnail(record),
    )


def _thumbnail(record: Record) -> bytes:
    if record.thumbnail is None:
        return b""
    if not isinstance(record.thumbnail, bytes | bytearray | memoryview):
        raise InvalidRequest(f"thumbnail: is {type(record.thumbnail).__name__}; give a picture's bytes")
    return check_thumbnail(bytes(record.thumbnail))


def query_to_wire(
    image: bytes | str | Path | None,
    code: bytes | None,
    key: str | None,
    projections: Any = None,
    query_features: Any = None,
) -> search_pb2.Query:
    """Raises InvalidRequest unless exactly one of the first three is given, and the others with a code only."""
    if sum(part is not None for part in (image, code, key)) != 1:
        raise InvalidRequest("query: give exactly one of image, code and key")
    if code is None and (projections is not None or query_features is not None):
        raise InvalidRequest(
            "query: projections and features come with a code; those of an image are made from it"
        )
    if image is not None:
        return search_pb2.Query(image=image_bytes(image))
    if code is not None:
        return search_pb2.Query(
            code=_code_bytes(code),
            projections=_floats("projections", projections),
            features=_floats("features", query_features),
        )
    return search_pb2.Query(key=check_key(key))


def _floats(field: str, values: Any) -> bytes:
    """A vector of floats as the wire carries it; none is empty."""
    if values is None:
        return b""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
        raise InvalidRequest(f"{field}: are {type(values).__name__}; give a one-dimensional float32 array")
    return values.astype("<f4").tobytes()


def _code_bytes(code: object) -> bytes:
    if isinstance(code, np.ndarray) and code.dtype == np.uint8 and code.ndim == 1:
        return code.tobytes()
    if not isinstance(code, bytes | bytearray | memoryview):
        raise InvalidRequest(f"code: is {type(code).__name__}; give bytes, or a one-dimensional uint8 array")
    return bytes(code)


def options_to_wire(
    *,
    k: int,
    max_distance: int | None,
    filter: Mapping[str, Any] | None,
    include_attributes: bool,
    allow_partial: bool,
    rerank: str,
    consistency: str,
    score: str,
    oversampling: int,
) -> search_pb2.SearchOptions:
    """Raises InvalidRequest for options that no cluster would take."""
    if max_distance is not None and not (isinstance(max_distance, int) and 0 <= max_distance <= _MAX_UINT32):
        raise InvalidRequest(f"max_distance: is {max_distance!r}; use a number of bits, 0 or above")
    check_oversampling(oversampling)
    return search_pb2.SearchOptions(
        k=check_k(k),
        max_distance=max_distance,
        filter=None if filter is None else filter_to_wire(filters.parse(filter)),
        include_attributes=include_attributes,
        allow_partial=allow_partial,
        rerank=_enum(search_pb2.Rerank, "RERANK", "rerank", rerank),
        consistency=consistency_to_wire(consistency),
        score=_enum(search_pb2.Score, "SCORE", "score", score),
        oversampling=oversampling,
    )


def consistency_to_wire(consistency: str) -> search_pb2.Consistency.ValueType:
    value: search_pb2.Consistency.ValueType = _enum(
        search_pb2.Consistency, "CONSISTENCY", "consistency", consistency
    )
    return value


def _enum(enum: Any, prefix: str, field: str, value: str) -> Any:
    names = [name.removeprefix(f"{prefix}_").lower() for name in enum.keys()[1:]]
    if value not in names:
        raise InvalidRequest(f"{field}: is {value!r}; use one of {', '.join(names)}")
    return enum.Value(f"{prefix}_{value.upper()}")
