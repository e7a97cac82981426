"""Owns tables that are text: JSON lines, JSON arrays, and CSV with any delimiter."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from more_itertools import chunked

from encoder.ingest.tables import coco
from encoder.ingest.tables.naming import MAX_LIST, Kind, Row, Unreadable
from encoder.ingest.tables.table import BATCH_ROWS, Format, Table
from lookalike.model import times

# A cell over this size makes the file unreadable. The limit is above what a record may hold, so that a cell that
# is merely too large for a record invalidates only its row.
csv.field_size_limit(16 * 1024 * 1024)
_DELIMITERS = ",;\t|"
_HEAD_BYTES = 64 * 1024


def _opener(name: str) -> Any:
    def opened(url: str, mark: str) -> Table:
        table = Table(url, _FORMATS[name], {}, mark)
        rows = [row for row in next(_FORMATS[name].rows(table), []) if isinstance(row, dict)]
        kinds: dict[str, Kind | None] = {}
        for row in rows:
            for column, value in row.items():
                found = kinds.setdefault(column, None)
                kinds[column] = found if value is None else _common(found, _kind(value))
        return dataclasses.replace(table, kinds={column: kind or "other" for column, kind in kinds.items()})

    return opened


def _common(found: Kind | None, kind: Kind) -> Kind:
    """The kind of a column that holds values of both kinds."""
    if found is None or found == kind:
        return kind
    # A CSV column of hexadecimal text has cells that look like numbers.
    return "text" if {found, kind} == {"text", "number"} else "other"


def _kind(value: object) -> Kind:
    match value:
        case str():
            return "text"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case [int(), *_]:
            return "integers"
        case [float(), *_]:
            return "floats" if len(value) <= MAX_LIST else "vector"
    return "other"


def _json_lines(table: Table) -> Iterator[list[Row]]:
    with fsspec.open(table.url, "rb", compression="infer") as file:
        yield from chunked((_json_row(line) for line in file if line.strip()), BATCH_ROWS)


def _json_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"invalid JSON ({error})")
    return _row(row)


def _row(value: Any) -> Row:
    return value if isinstance(value, dict) else Unreadable(f"a JSON {type(value).__name__}, not an object")


def _json(table: Table) -> Iterator[list[Row]]:
    """An array of objects, or an object of codes by key, as imagededup writes it."""
    with fsspec.open(table.url, "rb", compression="infer") as file:
        content = json.load(file)
    if isinstance(content, dict) and content and all(isinstance(value, str) for value in content.values()):
        content = [{"key": key, "code": code} for key, code in content.items()]
    if not isinstance(content, list):
        raise ValueError(
            "neither an array of objects, nor JSON lines, nor COCO annotations; with pandas, write it with"
            " to_json(orient='records')"
        )
    yield from chunked(map(_row, content), BATCH_ROWS)


def _csv(table: Table) -> Iterator[list[Row]]:
    encoding = _encoding(table.url)
    # Bytes that are not UTF-8 are reported when the row is checked.
    with fsspec.open(
        table.url, "r", compression="infer", encoding=encoding, errors="surrogateescape", newline=""
    ) as file:
        texts = frozenset(table.naming.written(role) for role in _TEXT_ROLES)
        yield from chunked(_csv_rows(file, _delimiter(table.url, encoding), texts), BATCH_ROWS)


def _encoding(url: str) -> str:
    with fsspec.open(url, "rb", compression="infer") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _delimiter(url: str, encoding: str) -> str:
    """The most frequent delimiter outside quotation marks in the first line."""
    with fsspec.open(
        url, "r", compression="infer", encoding=encoding, errors="surrogateescape", newline=""
    ) as file:
        line: str = file.readline(_HEAD_BYTES)
    bare = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=bare.count)


def _csv_rows(file: IO[str], delimiter: str, texts: frozenset[str]) -> Iterator[Row]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield _csv_row(row, texts)
    except csv.Error as error:
        raise ValueError(f"line {reader.reader.line_num:,}: {error}") from None


def _csv_row(row: dict[str | Any, Any], texts: frozenset[str]) -> Row:
    if None in row:
        return Unreadable("more cells than the first line has names")
    # An empty cell is a missing value.
    return {name: text if name in texts else _cell(text) for name, text in row.items() if text}


def _cell(text: str) -> object:
    """Converts a cell that is a JSON number or boolean, and writes a time as attributes do; any other cell stays
    text."""
    if text[0] not in "-0123456789" and text not in _WORDS:
        return text
    if (time := times.parse_time(text)) is not None:
        return times.text_of(time)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


# The cells of columns with these roles stay text.
_TEXT_ROLES = ("key", "uri", "image", "code", "attributes")
_WORDS = ("true", "false")


def _coco(table: Table) -> Iterator[list[Row]]:
    with fsspec.open(table.url, "rb", compression="infer") as file:
        found = coco.rows(file)
    for batch in chunked(found, BATCH_ROWS):
        yield list(batch)


JSONL = Format("jsonl", (".jsonl", ".ndjson"), _opener("jsonl"), _json_lines)
JSON = Format("json", (".json",), _opener("json"), _json)
CSV = Format("csv", (".csv", ".tsv"), _opener("csv"), _csv)
COCO = Format("coco", (), _opener("coco"), _coco)
_FORMATS = {format.name: format for format in (JSONL, JSON, CSV, COCO)}


def json_format(head: bytes) -> Format:
    """The format of a file whose name ends in .json, by its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        return JSON
    # A file of JSON lines has a whole object in its first line.
    first_line = start.partition(b"\n")[0]
    if b"\n" in start and _is_object(first_line):
        return JSONL
    return COCO if any(f'"{name}"'.encode() in head for name in coco.NAMES) else JSON


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
