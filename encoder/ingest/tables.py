"""Owns tables of records: parquet, JSON lines, CSV and COCO annotations, through fsspec, to rows of plain values.

What a row means is told by `encoder.ingest.rows`. Images inside a parquet file are not read here: they may be
larger than memory, and the workers read them."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from encoder.ingest.sources import does_not_exist, is_glob, signature
from lookalike.model.errors import InvalidRequest, LookalikeError

IMAGES, PARQUET, JSONL, CSV, COCO = FORMATS = ("images", "parquet", "jsonl", "csv", "coco")
_ENDINGS = {
    ".parquet": PARQUET,
    ".pq": PARQUET,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".csv": CSV,
    ".tsv": CSV,
    ".json": COCO,
}
PORTION_ROWS = 1_024
# A cell that is too large for a record is refused with its row, not with its file.
csv.field_size_limit(16 * 1024 * 1024)


class Unreadable(str):
    """Why a row is none."""


Row = dict[str, Any] | Unreadable


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A file of rows. columns: their names; of JSON lines those of the first portion. has_images: its `image`
    column holds image files. signature: changes when the file does. notes: what its writer says of it."""

    url: str
    format: str
    columns: frozenset[str]
    has_images: bool
    signature: str
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """What relative URIs in it are relative to."""
        return self.url.rpartition("/")[0]

    def portions(self) -> Iterator[list[Row]]:
        """All rows in their order."""
        with _explained(self.url):
            yield from _READERS[self.format](self)


def format_of(path: str) -> str:
    """A path's format by its ending, before one of gzip."""
    return _ENDINGS.get(_ending(path), IMAGES)


def _ending(path: str) -> str:
    # Elsewhere a question mark is part of a name, or of a glob.
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def find_tables(path: str, format: str) -> list[Table]:
    """The table at a path or URL, or those that a glob matches, or all of a folder that end as the format does.
    Raises InvalidRequest when there is none, or one cannot be read."""
    with _explained(path):
        system, root = url_to_fs(path)
        if "://" not in root and is_glob(system, root):
            files = system.glob(root, detail=True)
        elif (info := system.info(root))["type"] == "directory":
            found = system.find(root, detail=True)
            files = {name: found[name] for name in found if format_of(name) == format}
        else:
            files = {root: info}
        if not files:
            raise FileNotFoundError
        urls = [(system.unstrip_protocol(name), signature(files[name])) for name in sorted(files)]
        return [_open(url, format, mark) for url, mark in urls]


def _open(url: str, format: str, mark: str) -> Table:
    with _explained(url):
        return _opened(url, format, mark)


def _opened(url: str, format: str, mark: str) -> Table:
    if format == PARQUET:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        with fsspec.open(url, "rb") as file:
            schema = parquet.read_schema(file)
        kind = schema.field("image").type if "image" in schema.names else pa.null()
        has_images = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
        notes = {
            name.decode(): value.decode("utf-8", "replace") for name, value in (schema.metadata or {}).items()
        }
        return Table(url, format, frozenset(schema.names), has_images, mark, notes)
    table = Table(url, format, frozenset(), False, mark)
    columns = [name for row in next(table.portions(), []) if isinstance(row, dict) for name in row]
    return dataclasses.replace(table, columns=frozenset(columns))


def _parquet(table: Table) -> Iterator[list[Row]]:
    import pyarrow.parquet as parquet

    columns = [name for name in table.columns if not (table.has_images and name == "image")]
    with fsspec.open(table.url, "rb") as file:
        content = parquet.ParquetFile(file)
        if not columns:
            total = content.metadata.num_rows
            for start in range(0, total, PORTION_ROWS):
                yield [{} for _ in range(min(PORTION_ROWS, total - start))]
        for batch in content.iter_batches(PORTION_ROWS, columns=columns) if columns else ():
            yield batch.to_pylist()


def _json_lines(table: Table) -> Iterator[list[Row]]:
    portion: list[Row] = []
    with fsspec.open(table.url, "rb", compression="infer") as file:
        for line in file:
            if line.strip():
                portion.append(_json_row(line))
            if len(portion) == PORTION_ROWS:
                yield portion
                portion = []
    if portion:
        yield portion


def _json_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"is no JSON ({error})")
    return row if isinstance(row, dict) else Unreadable(f"is a JSON {type(row).__name__}, not an object")


def _csv(table: Table) -> Iterator[list[Row]]:
    delimiter = "\t" if _ending(table.url) == ".tsv" else ","
    portion: list[Row] = []
    # Bytes that are no UTF-8 are found by the checks of the row that has them.
    with fsspec.open(
        table.url, "r", compression="infer", encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as file:
        reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
        try:
            for row in reader:
                portion.append(_csv_row(row))
                if len(portion) == PORTION_ROWS:
                    yield portion
                    portion = []
        except csv.Error as error:
            raise ValueError(f"line {reader.reader.line_num:,}: {error}") from None
    if portion:
        yield portion


def _csv_row(row: dict[str, Any]) -> Row:
    if "" in row:
        return Unreadable("has more cells than the first line has names")
    # An empty cell is no value.
    return {name: _cell(name, text) for name, text in row.items() if text}


def _cell(name: str, text: str) -> object:
    """Numbers, true and false as JSON writes them are those; anything else is text."""
    if name in ("key", "uri", "image", "code", "attributes") or (
        text[0] not in "-0123456789" and text not in _WORDS
    ):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


_WORDS = ("true", "false")


def _coco(table: Table) -> Iterator[list[Row]]:
    from encoder.ingest.coco import rows

    with fsspec.open(table.url, "rb") as file:
        found = rows(file)
    for start in range(0, len(found), PORTION_ROWS):
        yield list(found[start : start + PORTION_ROWS])


_READERS = {PARQUET: _parquet, JSONL: _json_lines, CSV: _csv, COCO: _coco}


class _explained:
    """Give the failures of files the class and words that a person can act on."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise does_not_exist(self._path, error) from None
        # Each store's library raises its own.
        if isinstance(error, Exception) and not isinstance(error, LookalikeError):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InvalidRequest(f"path: {self._path} cannot be read: {reason}") from None


def columns_of(tables: Sequence[Table]) -> frozenset[str]:
    """The columns that any of them has."""
    return frozenset().union(*(table.columns for table in tables))
