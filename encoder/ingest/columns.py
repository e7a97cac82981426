"""Owns reading a parquet file of keys and codes as columns, without an object for each row.

A batch with an invalid row, or with a value that columns cannot hold, is read as rows (`encoder.ingest.rows`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from encoder.ingest.code_recognition import SAMPLE_ROWS
from encoder.ingest.codes import OF_LISTS, OF_TEXT, Reading
from encoder.ingest.rows import NAMES
from encoder.ingest.sources import explained
from encoder.ingest.tables.arrow_files import PARQUET, column_batches, columns_to_read
from encoder.ingest.tables.naming import Row
from encoder.ingest.tables.table import Table
from lookalike.client.arrays import texts_of_arrow, texts_of_times
from lookalike.cluster.checked_columns import checked
from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_ATTRIBUTES_BYTES, MAX_COLUMN_RECORDS, MAX_KEY_BYTES, encode_attributes

# Columns whose values `CodeColumns` cannot hold.
_OTHERS = frozenset(("feature", "features", "thumbnail"))
# Characters that must be escaped in JSON text, including NUL.
_ESCAPED = r'["\\\x00-\x1f]'


def fits(table: Table) -> bool:
    """Whether the rows of a table may become columns."""
    return (
        table.format is PARQUET
        and {"key", "code"} <= table.columns
        and not table.columns & _OTHERS
        and not table.naming.classes
    )


def batches(table: Table, reading: Reading) -> Iterator[CodeColumns | list[Row]]:
    """Yields all rows of a table that `fits`, in order: each batch as columns or, if `columns_of` returns
    None for it, as rows. reading: how the codes are read."""
    with explained(table.url), fsspec.open(table.url, "rb") as file:
        read = columns_to_read(table)
        for batch in parquet.ParquetFile(file).iter_batches(MAX_COLUMN_RECORDS, columns=read):
            named = batch.rename_columns([table.naming.renamed(name) for name in batch.schema.names])
            yield columns_of(named, reading) or named.to_pylist()


def columns_of(batch: pa.RecordBatch, reading: Reading) -> CodeColumns | None:
    """Returns the rows as columns. None if a row is invalid, or has a value of an uncommon type."""
    keys, codes = _keys(batch.column("key")), _codes(batch.column("code"), reading)
    if keys is None or codes is None:
        return None
    if "attributes" in batch.schema.names:
        return _with_given_attributes(keys, codes, batch.column("attributes"))
    members = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name not in NAMES:
            values = _json_values(column)
            if values is None:
                return None
            members.append(
                pc.fill_null(pc.binary_join_element_wise(f",{encode_attributes(name)}:", values, ""), "")
            )
    if not members:
        return CodeColumns(keys, codes, Texts(b"", np.zeros(len(keys), np.int64)))
    # Not joined by commas with null_handling="skip": pyarrow 26.0.1 then drops rows whose values are all null.
    inner = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*members, ""), 1)
    attributes = texts_of_arrow("attributes", pc.binary_join_element_wise("{", inner, "}", ""))
    if (attributes.sizes > MAX_ATTRIBUTES_BYTES).any() or b"\\u0000" in attributes.data:
        return None
    return CodeColumns(keys, codes, attributes)


def _with_given_attributes(keys: Texts, codes: Any, column: pa.Array) -> CodeColumns | None:
    """The columns with attributes that are JSON text."""
    if not _is_text(column.type):
        return None
    attributes = texts_of_arrow("attributes", pc.fill_null(column, ""))
    valid = checked(CodeColumns(keys, codes, attributes))
    return None if valid.errors else valid.columns


def _keys(column: pa.Array) -> Texts | None:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not _is_text(column.type) or column.null_count:
        return None
    keys = texts_of_arrow("key", column)
    sizes = keys.sizes
    return keys if ((sizes >= 1) & (sizes <= MAX_KEY_BYTES)).all() else None


def code_sample(table: Table) -> tuple[list[Any], str]:
    """Returns the first codes of a table of Arrow columns, and the name of the type that its lists hold; "" if
    they are not lists."""
    with explained(table.url):
        for column in column_batches(table, table.naming.written("code"), SAMPLE_ROWS):
            if column.null_count < len(column):
                kind = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
                return column.drop_null().to_pylist(), str(kind.value_type) if _is_list(kind) else ""
    return [], ""


def _codes(column: pa.Array, reading: Reading) -> Any:
    """uint8 (n, bytes of a code); None unless all codes are valid and of one length."""
    if column.null_count or not len(column):
        return None
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if _is_list(kind):
        units = _items(column) if reading.format in OF_LISTS else None
    elif _is_text(kind):
        units = _bytes(column.cast(pa.large_binary())) if reading.format in OF_TEXT else None
    else:
        units = _bytes(column)
    return None if units is None else reading.decode_matrix(units)


def _bytes(column: pa.Array) -> Any:
    """Values as uint8 (n, length); None if they differ in length or are not bytes."""
    is_binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    if not (is_binary or pa.types.is_fixed_size_binary(column.type)):
        return None
    sizes = pc.binary_length(column)
    if pc.min(sizes).as_py() != pc.max(sizes).as_py():
        return None
    width = int(sizes[0].as_py())
    values = column.cast(pa.binary(width)) if is_binary else column
    data = np.frombuffer(values.buffers()[1], np.uint8)[
        values.offset * width : (values.offset + len(values)) * width
    ]
    return data.reshape(len(values), width)


def _items(column: pa.Array) -> Any:
    """Lists as integers (n, length); None if they differ in length or hold anything else."""
    # The caller rules out null rows, which flatten() would drop.
    items = column.flatten()
    kind = items.type
    if items.null_count or not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    sizes = pc.list_value_length(column)
    if pc.min(sizes).as_py() != pc.max(sizes).as_py():
        return None
    return items.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _json_values(column: pa.Array) -> pa.Array | None:
    """The JSON text of each value, null for a missing one; None for a type that is not converted here."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return _encoded(pc.if_else(pc.is_nan(column), None, column))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.binary_join_element_wise('"', texts_of_times(column), '"', "")
    if not _is_text(kind):
        return None
    if not pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
        return pc.binary_join_element_wise('"', column.cast(pa.string()), '"', "")
    return _encoded(column)


def _encoded(column: pa.Array) -> pa.Array | None:
    try:
        values = [None if value is None else encode_attributes(value) for value in column.to_pylist()]
    except (ValueError, InvalidRequest):  # infinity
        return None
    return pa.array(values, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
