"""Owns tables of Arrow columns: parquet files, Arrow files and streams, and data sets that Hugging Face
`datasets` saved to disk. Images inside them are not read here: they may be larger than memory, so the workers read
them, a cell at a time."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as parquet

from encoder.ingest.tables.naming import MAX_LIST, Kind, Row
from encoder.ingest.tables.table import BATCH_ROWS, Format, Table

_reading = threading.Lock()
_HUGGING_FACE = "huggingface"
_FIRST_ROWS = 16


def kind_of(type: pa.DataType) -> Kind:
    """What a column of an Arrow type holds."""
    if isinstance(type, pa.UuidType):
        return "text"
    if isinstance(type, pa.BaseExtensionType) and not pa.types.is_fixed_size_list(type.storage_type):
        type = type.storage_type
    if pa.types.is_dictionary(type):
        type = type.value_type
    if pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return "text"
    if _is_bytes(type):
        return "bytes"
    if pa.types.is_struct(type) and {"bytes", "path"} <= {field.name for field in type}:
        return "image"
    if pa.types.is_boolean(type):
        return "bool"
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "number"
    if items := _items_of(type):
        return "floats" if pa.types.is_floating(items) else "integers" if pa.types.is_integer(items) else "other"
    return "unsupported" if _holds_bytes(type) else "other"


def _is_bytes(type: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_fixed_size_binary(type)
        or pa.types.is_binary_view(type)
    )


def _items_of(type: pa.DataType) -> Any:
    """The type of a list's items; None if the type is no list of plain values."""
    if isinstance(type, pa.FixedShapeTensorType):
        return type.value_type
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return None if pa.types.is_nested(type.value_type) or _is_bytes(type.value_type) else type.value_type
    return None


def _holds_bytes(type: pa.DataType) -> bool:
    """Whether a type's values have parts that JSON has no form for."""
    if pa.types.is_nested(type):
        return any(_holds_bytes(type.field(place).type) for place in range(type.num_fields))
    return _is_bytes(type) or bool(pa.types.is_interval(type))


def _open_parquet(url: str, mark: str) -> Table:
    with fsspec.open(url, "rb") as file:
        content = parquet.ParquetFile(file)
        table = _table(url, PARQUET, content.schema_arrow, mark)
        lists = [name for name, kind in table.kinds.items() if kind == "floats"]
        first = next(content.iter_batches(_FIRST_ROWS, columns=lists), None) if lists else None
        return table if first is None else _with_vectors(table, first)


def _open_arrow(url: str, mark: str) -> Table:
    with _stored(url) as stored:
        table = _table(url, ARROW, stored.schema, mark)
        first = next(stored.batches(), None)
        return table if first is None else _with_vectors(table, first.slice(0, _FIRST_ROWS))


def _table(url: str, format: Format, schema: pa.Schema, mark: str) -> Table:
    notes = {name.decode(): value.decode("utf-8", "replace") for name, value in (schema.metadata or {}).items()}
    return Table(url, format, {field.name: kind_of(field.type) for field in schema}, mark, notes)


def _with_vectors(table: Table, first: pa.RecordBatch) -> Table:
    """Gives columns whose first rows hold long lists of floats the kind "vector"."""
    kinds = dict(table.kinds)
    for name, kind in table.kinds.items():
        lengths = (len(value or ()) for value in first.column(name).to_pylist()) if kind == "floats" else ()
        if max(lengths, default=0) > MAX_LIST:
            kinds[name] = "vector"
    return dataclasses.replace(table, kinds=kinds)


def classes_of(table: Table) -> Mapping[str, Sequence[str]]:
    """The class names that Hugging Face `datasets` writes into a schema (features of the type ClassLabel)."""
    try:
        features = json.loads(table.notes.get(_HUGGING_FACE, "{}"))["info"]["features"]
        return {name: found["names"] for name, found in features.items() if found.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):  # another version's form
        return {}


def columns_to_read(table: Table) -> list[str]:
    """The columns to read for rows, as pyarrow names them. Of a column of image files, only the paths are read."""
    columns = []
    for name, kind in table.kinds.items():
        if name != table.image_column:
            columns += [name] if name not in table.naming.left_out else []
        elif kind == "image":
            columns.append(f"{name}.path")
    return columns


def _parquet_rows(table: Table) -> Iterator[list[Row]]:
    columns = columns_to_read(table)
    with fsspec.open(table.url, "rb") as file:
        content = parquet.ParquetFile(file)
        if not columns:
            total = content.metadata.num_rows
            for start in range(0, total, BATCH_ROWS):
                yield [{} for _ in range(min(BATCH_ROWS, total - start))]
        for batch in content.iter_batches(BATCH_ROWS, columns=columns) if columns else ():
            yield batch.to_pylist()


def _arrow_rows(table: Table) -> Iterator[list[Row]]:
    image = table.image_column
    with _stored(table.url) as stored:
        for batch in stored.batches():
            kept = [name for name in table.kinds if name not in table.naming.left_out and name != image]
            paths = batch.column(image).field("path") if table.kinds.get(image or "") == "image" else None
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.select(kept).slice(start, BATCH_ROWS)
                rows: list[Row] = (
                    part.to_pylist() if kept else [{} for _ in range(min(BATCH_ROWS, len(batch) - start))]
                )
                if paths is not None:
                    for row, path in zip(rows, paths.slice(start, BATCH_ROWS).to_pylist(), strict=True):
                        assert isinstance(row, dict)
                        row[str(image)] = {"path": path}
                yield rows


class _Stored:
    """An Arrow file or stream, in memory or mapped into it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._is_file = bytes(source.read(6)) == b"ARROW1"
        source.seek(0)
        self._content: Any = pa.ipc.open_file(source) if self._is_file else pa.ipc.open_stream(source)
        self.schema: pa.Schema = self._content.schema

    def __enter__(self) -> _Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            yield from map(self._content.get_batch, range(self._content.num_record_batches))
        else:
            yield from self._content


def _stored(url: str) -> _Stored:
    system, path = fsspec.core.url_to_fs(url)
    if "file" in system.protocol:
        return _Stored(pa.memory_map(path))
    with fsspec.open(url, "rb") as file:
        return _Stored(pa.BufferReader(file.read()))


def column_batches(table: Table, column: str, rows: int) -> Iterator[pa.Array]:
    """Yields a column of a parquet or an Arrow file, at most `rows` values at a time from a parquet file."""
    if table.format is ARROW:
        with _stored(table.url) as stored:
            yield from (batch.column(column) for batch in stored.batches())
        return
    with fsspec.open(table.url, "rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(rows, columns=[column]):
            yield batch.column(0)


def parquet_cell(url: str, row: int, column: str) -> Any:
    """The value in a row of a parquet file. Raises ValueError if there is no such row."""
    # Rows are read roughly in order, so it suffices that `_group` keeps two row groups in memory.
    starts = _group_starts(url)
    group = next(number for number in reversed(range(len(starts))) if starts[number] <= row)
    with _reading:
        values = _group(url, group, column)
    if row - starts[group] >= len(values):
        raise ValueError(f"row {row:,} does not exist")
    return values[row - starts[group]].as_py()


@functools.lru_cache(maxsize=64)
def _group_starts(url: str) -> list[int]:
    with fsspec.open(url, "rb") as file:
        found = parquet.read_metadata(file)
    starts = [0]
    for group in range(found.num_row_groups - 1):
        starts.append(starts[-1] + found.row_group(group).num_rows)
    return starts


@functools.lru_cache(maxsize=2)
def _group(url: str, group: int, column: str) -> Any:
    with fsspec.open(url, "rb") as file:
        return parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(column)


def arrow_cell(url: str, row: int, column: str) -> Any:
    """The value in a row of an Arrow file or stream. Raises ValueError if there is no such row."""
    with _reading:
        batches = _batches(url)
    for batch in batches:
        if row < len(batch):
            return batch.column(column)[row].as_py()
        row -= len(batch)
    raise ValueError(f"row {row:,} does not exist")


@functools.lru_cache(maxsize=2)
def _batches(url: str) -> list[pa.RecordBatch]:
    return list(_stored(url).batches())


PARQUET = Format("parquet", (".parquet", ".pq"), _open_parquet, _parquet_rows)
ARROW = Format("arrow", (".arrow", ".feather"), _open_arrow, _arrow_rows)
