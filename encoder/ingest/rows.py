"""Owns what a row of a table means: a record's key and attributes, and an image to encode, a precomputed code, or
features to hash. The columns are:

    key         the record's key; by default the image's URI as the row gives it
    image       an image file's bytes (parquet), or its URI
    uri         the image's URI; a relative URI starts from the table's folder
    code        a precomputed code, in one of the formats of `encoder.ingest.codes`
    features    floats, which the collection's hash turns into a code if the row has none. A collection that keeps
                features stores them
    thumbnail   a small image's bytes (parquet)
    attributes  a JSON object, as text or as a struct. With this column, columns that are not listed here are
                ignored; without it, each of them is an attribute. Missing values are left out. Dates and times
                become text, in the form of `lookalike.model.times`.

Exports also write a column `version`, which is ignored."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import hashlib
import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.ingest.codes import PLAIN, Reading
from encoder.ingest.images import absolute, row_url
from encoder.ingest.sources import Source
from encoder.ingest.tables.table import Table
from lookalike.model import times
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import attributes_text, check_key, parse_attributes
from lookalike.model.thumbnails import check_thumbnail

# Columns that are not attributes.
NAMES = frozenset("key image uri code feature features thumbnail attributes version".split())
_CODES = frozenset(("code", "feature", "features"))
_IMAGES = frozenset(("image", "uri"))


@dataclasses.dataclass(frozen=True, slots=True)
class Precomputed:
    """A record that needs no encoder: it has a code, or features to hash. uri: the URI of its row in the table.
    fields: its attributes. code: None if it must be computed from the features. features: float32 (width,)."""

    key: str
    uri: str
    fields: Mapping[str, Any]
    code: bytes | None
    features: npt.NDArray[np.float32] | None
    thumbnail: bytes = b""


def has_codes(columns: frozenset[str]) -> bool:
    """Whether rows with these columns hold codes, or features to hash."""
    return bool(columns & _CODES)


def check_columns(table: Table) -> None:
    """Raises InvalidRequest if no column holds codes, features or images, or if codes or features have no keys."""
    shown = ", ".join(repr(name[:40]) for name in list(table.kinds)[:12])
    if table.columns and not table.columns & (_CODES | _IMAGES):
        raise InvalidRequest(
            f"path: {table.url} cannot be read: none of its columns ({shown}) is code, features, image or uri;"
            " name one with --columns, as in --columns image=COLUMN"
        )
    if has_codes(table.columns) and "key" not in table.columns:
        raise InvalidRequest(
            f"path: {table.url} cannot be read: none of its columns ({shown}) is the key; name it with"
            " --columns key=COLUMN"
        )


def precomputed_of(table: Table, number: int, row: Mapping[str, Any], reading: Reading = PLAIN) -> Precomputed:
    """The record of a row that has a code or features. number: the row's number in the table, from 0. reading: how
    the table's codes are read. Raises InvalidRequest if the row is invalid."""
    code = reading.decode(row.get("code"))
    features = _floats(row.get("features", row.get("feature")))
    if code is None and features is None:
        raise InvalidRequest("code: missing; give a code, or features")
    thumbnail = row.get("thumbnail") or b""
    if not isinstance(thumbnail, bytes):
        raise InvalidRequest(f"thumbnail: {type(thumbnail).__name__} is not accepted; give an image file's bytes")
    return Precomputed(
        _key(row, ""), row_url(table.url, number), attributes_of(row), code, features, check_thumbnail(thumbnail)
    )


def source_of(table: Table, number: int, row: Mapping[str, Any], folder: str) -> Source:
    """The image of a row. folder: the URL that relative URIs start from. Raises InvalidRequest if the row is
    invalid."""
    fields = attributes_of(row)
    attributes_text(fields)
    # img2dataset also writes rows of images that it could not download.
    if table.image_column is not None and row.get("status", "success") != "success" and "error_message" in row:
        raise InvalidRequest(f"image: missing; status is {row['status']} ({row['error_message']})")
    column, cell = table.image_column, row.get("image")
    path = cell.get("path") if isinstance(cell, dict) else None
    if column is not None and not row.get("uri"):
        elsewhere = folder if path and folder != table.folder else ""
        url, mark = row_url(table.url, number, column, elsewhere), table.signature
        given = path or f"{table.url.rpartition('/')[2]}/{number}"
    else:
        given = row.get("uri") or path or cell
        if not isinstance(given, str):
            raise InvalidRequest("uri: missing; give the image's path or URL")
        url = absolute(given, folder)
        mark = table.signature if url.startswith(f"{table.url}#") else ""
    digest = hashlib.blake2b(f"{mark} {url} {attributes_text(fields)}".encode(), digest_size=8).hexdigest()
    return Source(_key(row, given), url, fields, digest)


def salvage(table: Table, number: int, row: object, reading: Reading = PLAIN) -> tuple[Mapping[str, Any], bytes]:
    """Returns the attributes and the code of an invalid row, for the dead-letter file, which holds neither
    features nor thumbnails. The code is returned only if nothing except the key is invalid: otherwise the dead
    letter could be ingested as it is, and its record would lack the features or the thumbnail of the row."""
    if not isinstance(row, dict):
        return {}, b""
    with contextlib.suppress(InvalidRequest):
        found = precomputed_of(table, number, {**row, "key": "any"}, reading)
        return found.fields, found.code or b""
    with contextlib.suppress(InvalidRequest):
        return attributes_of(row), b""
    return {}, b""


def _key(row: Mapping[str, Any], default: str) -> str:
    key = row.get("key", default)
    if isinstance(key, int | uuid.UUID) and not isinstance(key, bool):
        key = str(key)
    if key is None or key == "":
        raise InvalidRequest("key: missing")
    return check_key(key)


def attributes_of(row: Mapping[str, Any]) -> dict[str, Any]:
    if "attributes" not in row:
        return {name: _plain(name, row[name]) for name in row if name not in NAMES and not _is_missing(row[name])}
    given = row["attributes"]
    if isinstance(given, str | None):
        return parse_attributes(given or "")
    if not isinstance(given, dict):
        raise InvalidRequest(
            f"attributes: {type(given).__name__} is not accepted; give a JSON object, as text or as a struct"
        )
    return {name: _plain(name, value) for name, value in given.items() if not _is_missing(value)}


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(name: str, value: Any) -> Any:
    """Converts a column's value to a JSON value. Raises InvalidRequest if JSON cannot hold it."""
    match value:
        case None | str() | int() | float():
            return value
        case dict():
            return {inner: _plain(name, part) for inner, part in value.items()}
        case list() | tuple():
            return [_plain(name, part) for part in value]
        case datetime.date():
            return times.text_of(value)
        case datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case uuid.UUID():
            return str(value)
    raise InvalidRequest(
        f"attributes: column {name!r} holds {type(value).__name__}, which JSON cannot hold; leave it out with"
        f" --drop {name}"
    )


def _floats(value: object) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    try:
        vector = np.asarray(value, np.float32)
    except (ValueError, TypeError):
        vector = np.zeros((0, 0), np.float32)
    if vector.ndim != 1 or not isinstance(value, list | np.ndarray):
        raise InvalidRequest("features: not a list of numbers; give one list of floats per row")
    if not np.isfinite(vector).all():
        raise InvalidRequest("features: NaN or infinity; use finite numbers")
    return vector
