"""Owns the domain's plain data: records, coverage, counts and collections, and the rules for keys,
attributes and queries. Independent of gRPC."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model import times
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.query import Code, Image
from lookalike.model.ttl import Ttl

MAX_K = 10_000
DEFAULT_OVERSAMPLING = 10
# The maximum size of a collection's hash file: one message carries the whole file.
MAX_HASH_BYTES = 48 * 1024 * 1024
MAX_OVERSAMPLING = 1_000
MAX_KEY_BYTES = 512
MAX_ATTRIBUTES_BYTES = 64 * 1024
MAX_ATTRIBUTES_DEPTH = 64
MAX_BATCH_QUERIES = 1_024
# Queries times k: bounds the memory of one request.
MAX_BATCH_HITS = 200_000
# The maximum size of the keys and attributes in one response: two such responses fit into a message.
MAX_ANSWER_BYTES = 28 * 1024 * 1024
MAX_MERGED_BYTES = 2 * MAX_ANSWER_BYTES
# A version at or above this limit would overflow the hybrid logical clock.
VERSION_LIMIT = 2**62
# How far versions advance in a millisecond: see the coordinator's clock.
VERSIONS_PER_MS = 2**21
MAX_BATCH_RECORDS = 10_000
# Records of a scroll's page, and values of an attribute, unless the request says how many.
DEFAULT_PAGE = 1_000
# Records of a scroll's page that is sent as columns.
MAX_PAGE_RECORDS = 65_536
# Records of the first pages of the SDK's scroll, so that the first record comes soon.
FIRST_PAGES = (1_000, 8_000)
DEFAULT_FACETS = 10
# Records in one message of columns.
MAX_COLUMN_RECORDS = 16_384
SLOTS = 1_024

# These are built once, because every record of every write uses them.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=times.json_default)
_SCALARS = frozenset((str, int, float, bool, type(None)))
# The common types come first, because isinstance is slow for abstract classes.
_OBJECTS = (dict, Mapping)
_NESTED = (dict, list, tuple, Mapping)
# More than the records of one request, because coordinator and shard need each record's id several times.
_IDS_REMEMBERED = 16_384
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# A regular expression for both Python and JSON Schema.
COLLECTION_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_COLLECTION_NAME = re.compile(COLLECTION_NAME)


@functools.lru_cache(_IDS_REMEMBERED)
def record_id(key: str) -> int:
    """The uint64 that routes a record and breaks ties between equal distances."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def slot_of(identifier: int) -> int:
    """The slot, 0..1023, of a record id."""
    return identifier >> 54


def check_key(key: object) -> str:
    """Returns `key` if it is a valid record key. Raises InvalidRequest otherwise."""
    if not isinstance(key, str):
        raise InvalidRequest(f"key: is {type(key).__name__}, not a string; use text, 1..{MAX_KEY_BYTES} bytes")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"key: {key!r} cannot be written as UTF-8; use valid Unicode text") from None
    if not 1 <= size <= MAX_KEY_BYTES:
        shown = f"{key[:24]!r}… has {size} bytes" if size else "is empty"
        raise InvalidRequest(f"key: {shown}; use 1..{MAX_KEY_BYTES} bytes of UTF-8")
    return key


def check_collection_name(name: object) -> str:
    """Returns `name` if it can name a collection, and so a folder. Raises InvalidRequest otherwise."""
    if not isinstance(name, str):
        raise InvalidRequest(f"collection: is {type(name).__name__}, not a string; use the collection's name")
    if not _COLLECTION_NAME.fullmatch(name):
        raise InvalidRequest(
            f"collection: {name[:140]!r} is not a name; use 1..128 letters, digits, '.', '_' and '-',"
            " starting with a letter or digit"
        )
    return name


def check_count(field: str, count: int, most: int = MAX_BATCH_RECORDS) -> None:
    """Raises InvalidRequest if a request has too many records or keys, or none."""
    if not 1 <= count <= most:
        raise InvalidRequest(f"{field}: {count:,} in one request; send 1..{most:,}")


def check_code(code: bytes, space: CodeSpace, subject: str) -> bytes:
    """Returns `code` if it has the code space's width. Raises InvalidRequest otherwise."""
    if len(code) != space.code_bytes:
        raise InvalidRequest(
            f"code: {subject} has {len(code)} bytes, the collection's codes have {space.code_bytes}"
            f" ({space.bits} bits); send exactly that many"
        )
    return code


def check_k(k: int, most: int = MAX_K) -> int:
    """Returns `k` as an int if it is in 1..most. Raises InvalidRequest otherwise."""
    whole = operator.index(k) if hasattr(k, "__index__") and not isinstance(k, bool) else 0
    if not 1 <= whole <= most:
        raise InvalidRequest(f"k: is {k!r:.40}; use a whole number from 1 to {most:,}")
    return whole


def check_limit(limit: object, most: int) -> int:
    """Returns `limit`, a number of things to return, as an int if it is in 1..most. Raises InvalidRequest
    otherwise."""
    whole = operator.index(limit) if hasattr(limit, "__index__") and not isinstance(limit, bool) else 0
    if not 1 <= whole <= most:
        raise InvalidRequest(f"limit: is {limit!r:.40}; use a whole number from 1 to {most:,}")
    return whole


def answer_too_large(max_bytes: int = MAX_ANSWER_BYTES) -> InvalidRequest:
    """The error for a response whose keys and attributes would take more than `max_bytes`."""
    return InvalidRequest(
        f"k: the answer would take over {max_bytes:,} bytes; ask for fewer hits, queries or candidates"
        " (oversampling) at once, or leave the attributes out"
    )


def check_oversampling(factor: int) -> int:
    """Returns `factor` as an int if it is a valid number of candidates per hit. Raises InvalidRequest
    otherwise."""
    whole = operator.index(factor) if hasattr(factor, "__index__") and not isinstance(factor, bool) else 0
    if not 1 <= whole <= MAX_OVERSAMPLING:
        raise InvalidRequest(f"oversampling: is {factor!r:.40}; use a whole number from 1 to {MAX_OVERSAMPLING:,}")
    return whole


def attributes_text(attributes: object) -> str:
    """Encodes attributes as canonical JSON text. Raises InvalidRequest unless they are a JSON object."""
    if type(attributes) is not dict and not isinstance(attributes, Mapping):
        raise InvalidRequest(f"attributes: are {type(attributes).__name__}, not a JSON object; use a dict")
    _check_nesting(attributes, 1)
    try:
        text = _ENCODER.encode(attributes)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("attributes: hold text that is not valid Unicode (a lone surrogate)") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"attributes: are not JSON ({error}); use text, numbers, booleans, null, dates, lists, objects"
        ) from None
    if size > MAX_ATTRIBUTES_BYTES:
        raise InvalidRequest(f"attributes: take {size:,} bytes; use at most {MAX_ATTRIBUTES_BYTES:,}")
    if "\\u0000" in text and _NUL.search(text):
        raise InvalidRequest("attributes: hold a NUL character, which no filter could compare; leave it out")
    return text


def check_json(value: Any) -> Any:
    """Returns an attribute's value if it is not nested too deep and its names are text. Raises InvalidRequest."""
    _check_nesting(value, 1)
    return value


def _check_nesting(value: object, depth: int) -> None:
    if not isinstance(value, _NESTED):
        return
    if depth > MAX_ATTRIBUTES_DEPTH:
        raise InvalidRequest(f"attributes: are nested over {MAX_ATTRIBUTES_DEPTH} deep; flatten them")
    parts: Iterable[object] = value
    if isinstance(value, _OBJECTS):
        for name in value:
            if not isinstance(name, str):
                raise InvalidRequest(
                    f"attributes: have a name that is {type(name).__name__}; JSON's names are text"
                )
        parts = value.values()
    for part in parts:
        if type(part) not in _SCALARS:
            _check_nesting(part, depth + 1)


def parse_attributes(text: str) -> dict[str, Any]:
    """Decodes a JSON object; "" is {}. Raises InvalidRequest for any other text."""
    if not text or text == "{}":
        return {}
    if len(text.encode()) > MAX_ATTRIBUTES_BYTES:
        raise InvalidRequest(f"attributes: take over {MAX_ATTRIBUTES_BYTES:,} bytes; send less")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}"
        raise InvalidRequest(f"attributes: are not valid JSON ({reason}); send a JSON object") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "attributes: are not JSON that can be stored (a number too long, NaN or Infinity, or nested too deep)"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"attributes: are a JSON {type(value).__name__}, not an object; send {{...}}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

scan_json = _DECODER.raw_decode
"""Decodes the JSON value that a text starts with. Returns it, and where it ends. Raises ValueError if there is
none."""

encode_attributes = _ENCODER.encode
"""Encodes a JSON value in the form in which attributes are stored, without checking it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """An image, or its code, to store. Give exactly one of `image` and `code`.

    Args:
        key: Identifies the record: 1..512 bytes of UTF-8.
        image: An image file's bytes or its path, a Pillow image, or pixels: uint8 (height, width, 3), or (height,
            width) for grey.
        code: The packed code: bits / 8 bytes, or uint8 (bits/8,).
        attributes: A JSON object of at most 64 KiB, for filters and display. Dates and times of `datetime` are
            stored as text (docs/FILTERS.md).
        fingerprint: Fingerprint of the code's code space; the collection's by default.
        features: float32 (width,). Only with a code, for a collection that stores features.
        thumbnail: A JPEG, PNG or WebP of at most 10 KiB.
        if_version: Store it only if the stored record has this version; 0: only if there is none.
            `VersionConflict` otherwise. For `upsert` only, and for all of its records or for none.
    """

    key: str
    image: Image | None = None
    code: Code | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fingerprint: str | None = None
    features: npt.NDArray[np.float32] | None = None
    thumbnail: bytes | None = None
    if_version: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the cluster stores it.

    Args:
        key: Identifies the record.
        code: The packed code: bits / 8 bytes.
        attributes: A JSON object.
        version: The hybrid logical clock timestamp of its last write.
        thumbnail: Empty if there is none or it was not requested.
    """

    key: str
    code: bytes
    attributes: dict[str, Any]
    version: int
    thumbnail: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class VersionedRecord:
    """A record as coordinators and shards exchange it.

    Args:
        key: Identifies the record.
        code: The packed code: bits / 8 bytes; None in a tombstone.
        attributes: Canonical JSON text.
        version: The hybrid logical clock timestamp of the write.
        features: The features in the collection's stored form, see `lookalike.model.features`.
        thumbnail: Empty if there is none.
    """

    key: str
    code: bytes | None
    attributes: str
    version: int
    features: bytes = b""
    thumbnail: bytes = b""

    @property
    def size(self) -> int:
        """The record's approximate size in a message, in bytes."""
        described = len(self.key) + len(self.code or b"") + len(self.attributes)
        return described + len(self.features) + len(self.thumbnail)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one record of an ingest stream. `error` is None if the record is stored durably."""

    key: str
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the record is stored durably."""
        return self.error is None


@dataclasses.dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the collection a response covers.

    Args:
        partitions: The number of partitions.
        answered: The number of partitions that answered.
        rows_searched: The number of rows in the partitions that answered.
        rows_known: The number of rows in all partitions, as far as the coordinator knows.
        missing: The reason for each partition that did not answer.
        stale_ms: The response includes every write that was acknowledged at least this many
            milliseconds ago.
    """

    partitions: int
    answered: int
    rows_searched: int
    rows_known: int
    missing: Mapping[int, str] = dataclasses.field(default_factory=dict)
    stale_ms: int = 0

    @property
    def complete(self) -> bool:
        """Whether every partition answered."""
        return self.answered == self.partitions


@dataclasses.dataclass(frozen=True, slots=True)
class Timings:
    """Durations in milliseconds, measured at the coordinator."""

    encode_ms: float
    search_ms: float
    merge_ms: float
    total_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class CountResult:
    """The number of records that match a filter.

    Args:
        count: The exact number of records in the partitions that answered.
        coverage: How much of the collection was read.
        warnings: Fields of the filter that no record has, as sentences.
    """

    count: int
    coverage: Coverage
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Part of a scroll.

    Args:
        records: Ordered by id, which is the hash of the key. What was not requested is empty.
        cursor: Where the next page starts. Empty after the last page.
        warnings: As in `CountResult`; on the first page only.
    """

    records: list[StoredRecord]
    cursor: str
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class CopiedPage:
    """What one call copied from a collection to another.

    Args:
        records: The number of records of the page.
        copied: How many of them were stored. The target has the others, or later writes of their keys.
        cursor: Where the next page starts; empty after the last.
    """

    records: int
    copied: int
    cursor: str


@dataclasses.dataclass(frozen=True, slots=True)
class Facet:
    """A value of an attribute, and the number of records with it."""

    value: str | int | float | bool
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class FacetsResult:
    """The values of an attribute, with exact counts.

    Args:
        facets: The most frequent values, most frequent first.
        other_values: The number of values that are left out.
        other_count: The sum of their counts.
        coverage: How much of the collection was read.
        warnings: As in `CountResult`, and if no record has the attribute.
    """

    facets: list[Facet]
    other_values: int
    other_count: int
    coverage: Coverage
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """A collection: its code space, its indexing and its number of records.

    Args:
        name: The collection's name.
        code_space: How its codes are made.
        rows: The number of records.
        incarnation: Distinguishes it from an earlier collection of the same name; higher is later.
        indexing: What it stores to speed up searches or to rerank.
        ttl: When its records expire; None for never.
        aliases: Its aliases, ordered.
    """

    name: str
    code_space: CodeSpace
    rows: int
    incarnation: int
    indexing: Indexing = dataclasses.field(default_factory=Indexing)
    ttl: Ttl | None = None
    aliases: tuple[str, ...] = ()
