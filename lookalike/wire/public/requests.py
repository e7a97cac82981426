"""Owns the codec of requests: records, queries and search options."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike.model.errors import InvalidRequest
from lookalike.model.query import MAX_EXAMPLES, Box, Code, Example, Image, check_box
from lookalike.model.records import (
    DEFAULT_OVERSAMPLING,
    MAX_K,
    VERSION_LIMIT,
    Record,
    attributes_text,
    check_count,
    check_k,
    check_key,
)
from lookalike.model.search_options import Consistency, SearchOptions, check_consistency
from lookalike.model.thumbnails import check_thumbnail
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.filters import filter_to_wire, read_filter
from lookalike.wire.public.images import image_bytes

_SMALL_OPTIONS_BYTES = 512


def if_versions_from_wire(records: Sequence[record_pb2.Record]) -> list[int]:
    """Returns the condition of each record; empty if they have none. Raises InvalidRequest if only some have
    one."""
    given = [record.if_version for record in records if record.HasField("if_version")]
    if given and len(given) < len(records):
        raise InvalidRequest(
            "if_version: is given for some records only; give it for all of a request, or for none"
        )
    return given


def record_to_wire(record: Record) -> record_pb2.Record:
    """Encodes and checks a record. Raises InvalidRequest."""
    message = _unconditional_to_wire(record)
    if record.if_version is not None:
        message.if_version = check_version("if_version", record.if_version, 0)
    return message


def check_version(field: str, version: object, least: int) -> int:
    """Returns a version of a record if it is one, of at least this value. Raises InvalidRequest."""
    if isinstance(version, bool) or not isinstance(version, int) or not least <= version < VERSION_LIMIT:
        raise InvalidRequest(f"{field}: is {version!r:.40}; give the `version` that the record was read with")
    return version


def _unconditional_to_wire(record: Record) -> record_pb2.Record:
    if not isinstance(record, Record):
        raise InvalidRequest(f"record: is {type(record).__name__}; give lookalike.Record objects")
    key = check_key(record.key)
    text = attributes_text(record.attributes)
    if (record.image is None) == (record.code is None):
        raise InvalidRequest(f"record {key!r}: needs an image or a code, exactly one of them")
    if record.image is not None:
        if record.features is not None:
            raise InvalidRequest(
                f"record {key!r}: features: send them only with a code; for an image, the encoder computes them"
            )
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
        raise InvalidRequest(f"thumbnail: is {type(record.thumbnail).__name__}; give an image file's bytes")
    return check_thumbnail(bytes(record.thumbnail))


def query_to_wire(
    image: Image | None,
    code: Code | None,
    key: str | None,
    projections: Any = None,
    query_features: Any = None,
    box: Box | None = None,
) -> search_pb2.Query:
    """Encodes a query.

    Args:
        image: An image; see `image_bytes`.
        code: A code of bits / 8 bytes.
        key: The key of a stored record.
        projections: float32 (bits,), with a code.
        query_features: float32 (width,), with a code.
        box: The part of the image to use.

    Raises:
        InvalidRequest: If not exactly one of image, code and key is given, if projections or features are given
            without a code, or a box without an image.
    """
    if sum(part is not None for part in (image, code, key)) != 1:
        raise InvalidRequest("query: give exactly one of image, code and key, or examples")
    if code is None and (projections is not None or query_features is not None):
        raise InvalidRequest(
            "query: send projections and features only with a code; for an image, the encoder computes them"
        )
    part = _box_to_wire(image, box, "box")
    if image is not None:
        return search_pb2.Query(image=image_bytes(image), box=part)
    if code is not None:
        return search_pb2.Query(
            code=_code_bytes(code),
            projections=_floats("projections", projections),
            features=_floats("features", query_features),
        )
    return search_pb2.Query(key=check_key(key))


def examples_to_wire(like: Sequence[Example], not_like: Sequence[Example]) -> search_pb2.Query:
    """Encodes a query of several examples. Raises InvalidRequest if there are none, or too many, or one is
    malformed."""
    check_count("examples", len(like), MAX_EXAMPLES)
    if not_like:
        check_count("not_like", len(not_like), MAX_EXAMPLES)
    examples = search_pb2.Examples(
        like=[_example_to_wire(one, f"examples[{place}]") for place, one in enumerate(like)],
        not_like=[_example_to_wire(one, f"not_like[{place}]") for place, one in enumerate(not_like)],
    )
    return search_pb2.Query(examples=examples)


def _example_to_wire(example: Example, subject: str) -> search_pb2.Example:
    if not isinstance(example, Example):
        raise InvalidRequest(f"{subject}: is {type(example).__name__}; give lookalike.Example objects")
    if sum(part is not None for part in (example.image, example.code, example.key)) != 1:
        raise InvalidRequest(f"{subject}: needs exactly one of image, code and key")
    part = _box_to_wire(example.image, example.box, f"{subject}.box")
    if example.image is not None:
        return search_pb2.Example(image=image_bytes(example.image), box=part)
    if example.code is not None:
        return search_pb2.Example(code=_code_bytes(example.code))
    return search_pb2.Example(key=check_key(example.key))


def _box_to_wire(image: Image | None, box: Box | None, subject: str) -> record_pb2.Box | None:
    if box is None:
        return None
    if image is None:
        raise InvalidRequest(f"{subject}: needs an image; a stored record has only its code")
    x0, y0, x1, y1 = check_box(box, subject)
    return record_pb2.Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _floats(field: str, values: Any) -> bytes:
    """Encodes a vector as little-endian float32 values. None becomes no bytes."""
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


def options_to_wire(options: SearchOptions) -> search_pb2.SearchOptions:
    """Encodes search options."""
    return search_pb2.SearchOptions(
        k=options.k,
        max_distance=options.max_distance,
        filter=None if options.condition is None else filter_to_wire(options.condition),
        include_attributes=options.include_attributes,
        allow_partial=options.allow_partial,
        rerank=_RERANKS.number(options.rerank),
        consistency=consistency_to_wire(options.consistency),
        score=_SCORES.number(options.score),
        oversampling=options.oversampling,
        after=options.after,
        offset=options.offset,
        exclude_keys=options.exclude_keys,
        group_by=options.group_by or "",
        group_size=options.group_size,
        include_thumbnails=options.include_thumbnails,
    )


def options_from_wire(message: search_pb2.SearchOptions, max_k: int = MAX_K) -> SearchOptions:
    """Decodes search options.

    Args:
        message: The options of a request. Enums and oversampling that are not set get their default values.
        max_k: The largest k that this server accepts.

    Raises:
        InvalidRequest: If a value is out of range or unknown.
    """
    if message.ByteSize() <= _SMALL_OPTIONS_BYTES:
        return _small_options(message.SerializeToString(), max_k)
    return _decoded_options(message, max_k)


@functools.lru_cache(maxsize=256)  # most clients send the same options with every query
def _small_options(data: bytes, max_k: int) -> SearchOptions:
    return _decoded_options(search_pb2.SearchOptions.FromString(data), max_k)


def _decoded_options(message: search_pb2.SearchOptions, max_k: int) -> SearchOptions:
    return SearchOptions(
        k=check_k(message.k, max_k),
        max_distance=message.max_distance if message.HasField("max_distance") else None,
        filter=read_filter(message.filter) if message.HasField("filter") else None,
        include_attributes=message.include_attributes,
        allow_partial=message.allow_partial,
        rerank=_RERANKS.name(message.rerank),
        consistency=consistency_from_wire(message.consistency),
        score=_SCORES.name(message.score),
        oversampling=message.oversampling or DEFAULT_OVERSAMPLING,
        after=message.after,
        offset=message.offset,
        exclude_keys=tuple(message.exclude_keys),
        group_by=message.group_by or None,
        group_size=message.group_size or 1,
        include_thumbnails=message.include_thumbnails,
    )


def consistency_to_wire(consistency: str) -> search_pb2.Consistency.ValueType:
    """Raises InvalidRequest for an unknown consistency level."""
    check_consistency(consistency)
    value: search_pb2.Consistency.ValueType = _CONSISTENCIES.number(consistency)
    return value


def consistency_from_wire(value: int) -> Consistency:
    """The consistency level of a request, "one" if it is not set. Raises InvalidRequest for an unknown number."""
    level: Consistency = _CONSISTENCIES.name(value)
    return level


class _Choices:
    """Maps the values of a generated enum to short names and back. The unspecified value 0 stands for value 1."""

    def __init__(self, enum: Any, prefix: str) -> None:
        names = {number: name.removeprefix(f"{prefix}_").lower() for name, number in enum.items()}
        self._field = prefix.lower()
        self._numbers = {name: number for number, name in names.items() if number}
        self._names = {**names, 0: names[1]}

    def number(self, name: str) -> Any:
        return self._numbers[name]

    def name(self, number: int) -> Any:
        if number not in self._names:
            raise InvalidRequest(f"{self._field}: unknown value {number}; use {', '.join(self._numbers)}")
        return self._names[number]


_RERANKS = _Choices(search_pb2.Rerank, "RERANK")
_CONSISTENCIES = _Choices(search_pb2.Consistency, "CONSISTENCY")
_SCORES = _Choices(search_pb2.Score, "SCORE")
