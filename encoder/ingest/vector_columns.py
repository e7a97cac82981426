"""Owns reading a file of vectors as columns of keys and codes, without an object for each vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from encoder.ingest.code_options import CodeReader
from encoder.ingest.sources import explained
from encoder.ingest.tables.naming import Row
from encoder.ingest.tables.table import Table
from encoder.ingest.tables.vectors import VECTORS, chunks, keys_of_vectors, layout_of
from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_COLUMN_RECORDS, check_key


def fits(table: Table) -> bool:
    """Whether a table is a file of vectors that are codes."""
    return table.format in VECTORS and "code" in table.columns


def batches(table: Table, reader: CodeReader) -> Iterator[CodeColumns | list[Row]]:
    """Yields all vectors of a file that `fits`, in order: as columns, or as rows if one of them is invalid."""
    with explained(table.url):
        layout = layout_of(table)
        keys = keys_of_vectors(table, layout, MAX_COLUMN_RECORDS)
        for codes, names in zip(chunks(table, layout, MAX_COLUMN_RECORDS), keys, strict=True):
            reader.see(codes)
            texts, decoded = _texts(names), reader.reading.decode_matrix(codes)
            if texts is not None and decoded is not None:
                yield CodeColumns(texts, decoded, Texts(b"", np.zeros(len(texts), np.int64)))
            else:
                yield [{"key": key, "code": code} for key, code in zip(names, codes, strict=True)]


def _texts(keys: Sequence[str]) -> Texts | None:
    """Keys as a column; None if one of them is invalid."""
    try:
        return Texts.of([check_key(key) for key in keys])
    except InvalidRequest:
        return None
