"""Owns labelled features and codes in tables: parquet and Arrow files with the columns `key`, `label`, and
`features` or `code`. The columns may have other names; see `encoder.ingest.tables.naming`.

A label is text, a number, or a list of these for a record of several classes. A record without features, or
without a code, is not judged, as an image that cannot be read is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from encoder.ingest.code_options import CodeOptions, CodeReader
from encoder.ingest.columns import code_sample
from encoder.ingest.sources import explained
from encoder.ingest.tables.arrow_files import ARROW, PARQUET, column_batches
from encoder.ingest.tables.formats import IMAGES, find_tables, format_of
from encoder.ingest.tables.naming import Choice
from encoder.ingest.tables.table import BATCH_ROWS, Table
from lab.datasets.archives import ARCHIVES
from lab.datasets.labelled import (
    LabelledImages,
    Vectors,
    groups_of,
    limit_both_sides,
    split_per_class,
)
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest

ROLES = ("key", "features", "code", "label")
_LISTS = ("floats", "integers", "vector")
_READ = (PARQUET, ARROW)

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def is_table(path: str) -> bool:
    """Whether a data set is a table, by its name."""
    return format_of(path) != IMAGES and not path.lower().endswith(ARCHIVES)


def load_table(path: str, columns: str, code_format: str | None, seed: int, limit: int | None) -> LabelledImages:
    """Loads labelled features or codes, and splits each class 80 to 20 into indexed records and queries.

    Args:
        path: The path, URL or glob of parquet or Arrow files.
        columns: What the columns are, as in key=id,features=embedding,label=class.
        code_format: How codes are written, one of `encoder.ingest.codes.FORMATS`; None to recognize it.
        seed: Seed of the split.
        limit: The most records to use.

    Raises:
        InvalidRequest: If a file cannot be read, or has no keys, no labels, or neither features nor codes.
    """
    if format_of(path) not in {format.name for format in _READ}:
        raise InvalidRequest(
            f"dataset: {path} is of the format {format_of(path)}; features and codes are read from parquet and"
            " Arrow files, so convert it"
        )
    tables = find_tables(path, format_of(path), Choice.parse(columns, "", ROLES))
    for table in tables:
        _check_columns(table)
    keys = _keys(tables)
    labels, classes, is_multi_label = _labels(tables)
    if not (labels.sum(axis=0) > 1).any():
        raise InvalidRequest(f"dataset: {path} has no class with two records; label more records")
    indexed, queries = split_per_class(groups_of(labels), seed)
    images = LabelledImages(
        name=PurePosixPath(path).name.partition(".")[0],
        classes=classes,
        labels=labels,
        keys=keys,
        indexed=indexed,
        queries=queries,
        read=_no_image,
        marks=tuple(table.signature for table in tables for _ in _values(table, "key")),
        is_multi_label=is_multi_label,
        vectors=_vectors(tables, len(keys), code_format),
    )
    return limit_both_sides(images, limit, seed)


def _no_image(row: int) -> bytes:
    raise ValueError(f"row {row} of a table has no image")


def _check_columns(table: Table) -> None:
    shown = ", ".join(repr(name[:40]) for name in list(table.kinds)[:20])
    for role in ("key", "label"):
        if role not in table.columns:
            raise InvalidRequest(
                f"columns: {table.url} has no {role}; its columns are {shown}; name one, as in --columns"
                f" {role}=COLUMN"
            )
    if not {"features", "code"} & table.columns:
        raise InvalidRequest(
            f"columns: {table.url} has neither features nor a code; its columns are {shown}; name one, as in"
            " --columns features=COLUMN"
        )
    written = table.naming.written("features")
    if "features" in table.columns and table.kinds[written] not in _LISTS:
        raise InvalidRequest(f"columns: column {written!r} does not hold lists of numbers; name another")


def _values(table: Table, role: str) -> Iterator[Any]:
    """Yields the values of a column, with the names of classes for their numbers."""
    written = table.naming.written(role)
    with explained(table.url):
        for array in column_batches(table, written, BATCH_ROWS):
            for value in array.to_pylist():
                row = table.naming.applied({written: value})
                assert isinstance(row, dict)
                yield row[role]


def _keys(tables: Sequence[Table]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for table in tables:
        for number, value in enumerate(_values(table, "key")):
            if value is None or str(value) in found:
                problem = "has none" if value is None else f"has {str(value)[:80]!r}, which is not the first"
                raise InvalidRequest(f"key: row {number} of {table.url} {problem}; give each row its own key")
            found[str(value)] = None
    return tuple(found)


def _labels(tables: Sequence[Table]) -> tuple[Bools, tuple[str, ...], bool]:
    """Returns the labels of all rows, (n, classes), the classes' names, and whether a row can have several."""
    values = [value for table in tables for value in _values(table, "label")]
    is_multi_label = any(isinstance(value, list) for value in values)
    rows = [
        [str(item) for item in (value if isinstance(value, list) else [value]) if not _is_missing(item)]
        for value in values
    ]
    classes = tuple(sorted({name for row in rows for name in row}))
    place = {name: number for number, name in enumerate(classes)}
    labels = np.zeros((len(rows), len(classes)), bool)
    for number, row in enumerate(rows):
        labels[number, [place[name] for name in row]] = True
    return labels, classes, is_multi_label


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _vectors(tables: Sequence[Table], count: int, code_format: str | None) -> Vectors:
    has_features, has_codes = (all(role in table.columns for table in tables) for role in ("features", "code"))
    if not (has_features or has_codes):
        raise InvalidRequest(
            "columns: some of the tables have features, others have codes; evaluate each kind alone"
        )
    features = _features(tables) if has_features else np.zeros((count, 0), np.float32)
    codes, valid = _codes(tables, code_format) if has_codes else (None, None)
    naming = tables[0].naming
    return Vectors(
        features, codes, valid, naming.written("features") if has_features else "",
        naming.written("code") if has_codes else "",
        tuple(dict.fromkeys(remark for table in tables for remark in table.naming.remarks)),
    )  # fmt: skip


def _features(tables: Sequence[Table]) -> Floats:
    arrays = [_plain(array) for table in tables for array in _batches(table, "features")]
    width = next((len(value) for array in arrays for value in array.drop_null()[:1].to_pylist()), 0)
    if not width:
        raise InvalidRequest("features: no row has any; name another column with --columns features=COLUMN")
    matrix = np.concatenate([_matrix(array, width) for array in arrays])
    matrix[~np.isfinite(matrix).all(axis=1)] = np.nan
    return matrix


def _batches(table: Table, role: str) -> Iterator[pa.Array]:
    with explained(table.url):
        yield from column_batches(table, table.naming.written(role), BATCH_ROWS)


def _plain(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _matrix(array: pa.Array, width: int) -> Floats:
    """Lists as rows of one width, float32 (n, width); NaN for a list that is missing or has another width."""
    lengths = pc.list_value_length(array)
    if not array.null_count and pc.all(pc.equal(lengths, width)).as_py():
        flat = array.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float32).reshape(-1, width)
    matrix = np.full((len(array), width), np.nan, np.float32)
    for number, value in enumerate(array.to_pylist()):
        if value is not None and len(value) == width:
            matrix[number] = value
    return matrix


def _codes(tables: Sequence[Table], code_format: str | None) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Returns the codes, uint8 (n, bits/8), with zeros for a row without a valid code, and which rows have one."""
    codes: list[bytes | None] = []
    for table in tables:
        reader = CodeReader(table, CodeOptions(code_format))
        with explained(table.url):
            reader.see(*code_sample(table))
        codes += [_decoded(reader, value) for value in _values(table, "code")]
    widths = Counter(len(code) for code in codes if code)
    if not widths:
        raise InvalidRequest("code: no row has a valid one; name how they are written with --code-format")
    width = widths.most_common(1)[0][0]
    CodeSpace(8 * width)
    valid = np.array([code is not None and len(code) == width for code in codes], bool)
    joined = b"".join(code if ok and code else bytes(width) for code, ok in zip(codes, valid, strict=True))
    return np.frombuffer(joined, np.uint8).reshape(-1, width), valid


def _decoded(reader: CodeReader, value: object) -> bytes | None:
    try:
        return reader.reading.decode(value)
    except InvalidRequest:
        return None
