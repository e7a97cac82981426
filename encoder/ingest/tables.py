"""Owns tables of records: reads parquet, JSON lines, CSV and COCO annotations, through fsspec, as rows of plain
values.

`encoder.ingest.rows` says what a row means. Images inside a parquet file are not read here: they may be larger
than memory, so the workers read them."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from more_itertools import chunked

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
BATCH_ROWS = 1_024
# A cell over this size makes the file unreadable. The limit is above what a record may hold, so that a cell that
# is merely too large for a record invalidates only its row.
csv.field_size_limit(16 * 1024 * 1024)


class Unreadable(str):
    """The reason why a row cannot be read."""


Row = dict[str, Any] | Unreadable


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A file of rows. columns: the columns' names; for JSON lines and CSV, those of the first batch. has_images:
    whether its `image` column holds image files. signature: changes when the file does. notes: the file's own
    metadata."""

    url: str
    format: str
    columns: frozenset[str]
    has_images: bool
    signature: str
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder that relative URIs start from."""
        return self.url.rpartition("/")[0]

    def batches(self) -> Iterator[list[Row]]:
        """Yields all rows in order, in batches. Raises InvalidRequest when the file cannot be read."""
        with explained(self.url):
            yield from _READERS[self.format](self)


def format_of(path: str) -> str:
    """A path's format by its ending; .gz is ignored."""
    return _ENDINGS.get(_ending(path), IMAGES)


def _ending(path: str) -> str:
    # A question mark starts a query in a web address only.
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def find_tables(path: str, format: str) -> list[Table]:
    """Finds tables: the file at a path or URL, the files that a glob matches, or the files of this format in a
    folder. Raises InvalidRequest if there is no such file, or if one of the files cannot be read."""
    with explained(path):
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
    # An error must name the file, not the folder or glob.
    with explained(url):
        return _open_parquet(url, mark) if format == PARQUET else _open_text(url, format, mark)


def _open_parquet(url: str, mark: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with fsspec.open(url, "rb") as file:
        schema = parquet.read_schema(file)
    kind = schema.field("image").type if "image" in schema.names else pa.null()
    has_images = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
    notes = {name.decode(): value.decode("utf-8", "replace") for name, value in (schema.metadata or {}).items()}
    return Table(url, PARQUET, frozenset(schema.names), has_images, mark, notes)


def _open_text(url: str, format: str, mark: str) -> Table:
    table = Table(url, format, frozenset(), False, mark)
    columns = [name for row in next(table.batches(), []) if isinstance(row, dict) for name in row]
    return dataclasses.replace(table, columns=frozenset(columns))


def _parquet(table: Table) -> Iterator[list[Row]]:
    import pyarrow.parquet as parquet

    columns = [name for name in table.columns if not (table.has_images and name == "image")]
    with fsspec.open(table.url, "rb") as file:
        content = parquet.ParquetFile(file)
        if not columns:
            total = content.metadata.num_rows
            for start in range(0, total, BATCH_ROWS):
                yield [{} for _ in range(min(BATCH_ROWS, total - start))]
        for batch in content.iter_batches(BATCH_ROWS, columns=columns) if columns else ():
            yield batch.to_pylist()


def _json_lines(table: Table) -> Iterator[list[Row]]:
    with fsspec.open(table.url, "rb", compression="infer") as file:
        yield from chunked((_json_row(line) for line in file if line.strip()), BATCH_ROWS)


def _json_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"invalid JSON ({error})")
    return row if isinstance(row, dict) else Unreadable(f"a JSON {type(row).__name__}, not an object")


def _csv(table: Table) -> Iterator[list[Row]]:
    delimiter = "\t" if _ending(table.url) == ".tsv" else ","
    # Bytes that are not UTF-8 are reported when the row is checked.
    with fsspec.open(
        table.url, "r", compression="infer", encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as file:
        yield from chunked(_csv_rows(file, delimiter), BATCH_ROWS)


def _csv_rows(file: Iterable[str], delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
    try:
        for row in reader:
            yield _csv_row(row)
    except csv.Error as error:
        raise ValueError(f"line {reader.reader.line_num:,}: {error}") from None


def _csv_row(row: dict[str, Any]) -> Row:
    if "" in row:
        return Unreadable("more cells than the first line has names")
    # An empty cell is a missing value.
    return {name: _cell(name, text) for name, text in row.items() if text}


def _cell(name: str, text: str) -> object:
    """Converts a cell that is a JSON number or boolean; any other cell stays text. Cells of key, uri, image,
    code and attributes always stay text."""
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
    for batch in chunked(found, BATCH_ROWS):
        yield list(batch)


_READERS = {PARQUET: _parquet, JSONL: _json_lines, CSV: _csv, COCO: _coco}


class explained:
    """Turns failures of reading a file into an InvalidRequest that names the path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise does_not_exist(self._path, error) from None
        # The library of each object store raises its own types of errors.
        if isinstance(error, Exception) and not isinstance(error, LookalikeError):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InvalidRequest(f"path: {self._path} cannot be read: {reason}") from None


def columns_of(tables: Sequence[Table]) -> frozenset[str]:
    """The columns of all tables."""
    return frozenset().union(*(table.columns for table in tables))
