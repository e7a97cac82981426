"""A parquet file that is read as columns gives the same records as when it is read row by row."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from encoder.ingest import columns
from encoder.ingest.code_options import CodeOptions, CodeReader
from encoder.ingest.codes import PLAIN, Reading
from encoder.ingest.rows import precomputed_of
from encoder.ingest.tables.formats import find_tables
from encoder.ingest.tables.table import Table
from lookalike.cluster.columns import CodeColumns
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_COLUMN_RECORDS, attributes_text

KEYS = ["a", "b/é", "line\nbreak", "d"]
CODES = [bytes([n] * 8) for n in range(4)]


def written(folder: Path, table: dict[str, Any] | pa.Table, **options: Any) -> Table:
    made = table if isinstance(table, pa.Table) else pa.table(table)
    parquet.write_table(made, folder / "t.parquet", **options)
    (found,) = find_tables(str(folder / "t.parquet"), "parquet")
    return found


Rows = list[tuple[str, bytes | None, Any]]


def reading_of(table: Table) -> Reading:
    reader = CodeReader(table, CodeOptions())
    reader.see(*columns.code_sample(table))
    return reader.reading


def by_columns(table: Table) -> Rows | None:
    """Key, code and attributes of each record; None if the table was read as rows."""
    assert columns.fits(table)
    (batch,) = columns.batches(table, reading_of(table))
    if not isinstance(batch, CodeColumns):
        return None
    texts = [json.loads(text or "{}") for text in batch.attributes.strings()]
    return list(zip(batch.keys.strings(), (code.tobytes() for code in batch.codes), texts, strict=True))


def by_rows(table: Table) -> Rows:
    (rows,) = table.batches()
    reading = reading_of(table)
    found = [
        precomputed_of(table, number, row, reading) for number, row in enumerate(rows) if isinstance(row, dict)
    ]
    return [(row.key, row.code, json.loads(attributes_text(row.fields))) for row in found]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"label": ["cat", "dog", None, ""]},
        {"label": ['"quoted"', "back\\slash", "tab\t", "é – ☃"]},
        {"n": [1, -(2**63), None, 2**63 - 1]},
        {"n": pa.array([0, 2**64 - 1, 5, None], pa.uint64())},
        {"share": [0.1, float("nan"), 1e300, None]},
        {"share": pa.array([0.1, 2.5, None, -0.0], pa.float32())},
        {"is": [True, False, None, True]},
        {"label": pa.array(["x", "y", None, "x"]).dictionary_encode(), 'odd"name': [1, 2, 3, 4]},
        {"label": pa.array(["x", None, "y", "z"], pa.large_string()), "n": [None, None, 1, 2]},
        {"day": [datetime.date(2024, 1, 2), None, datetime.date(1, 1, 1), datetime.date(9999, 1, 1)]},
        *(
            {"taken": pa.array([1_777_624_200, None, -1, 0], pa.timestamp(unit, zone))}
            for unit in ("s", "ms", "us", "ns")
            for zone in (None, "UTC", "Europe/Berlin", "+05:30")
        ),
        {"attributes": ['{"a":1}', None, '{ "b" : [1, 2] }', '{"é":{"c":null}}']},
        {"attributes": ['{"a":1}', "", "{}", '{"b":2}'], "ignored": [1, 2, 3, 4]},
        {"version": [1, 2, 3, 4], "uri": ["u", "v", "w", "x"], "label": ["a", "b", "c", "d"]},
    ],
)
def test_columns_give_the_records_of_rows(tmp_path: Path, attributes: dict[str, Any]) -> None:
    table = written(tmp_path, {"key": KEYS, "code": CODES, **attributes})
    assert by_columns(table) == by_rows(table)


@pytest.mark.parametrize(
    "codes",
    [pa.array(CODES, pa.binary(8)), pa.array(CODES, pa.large_binary()), pa.array(CODES, pa.binary())],
)
def test_every_binary_type_of_codes_is_read(tmp_path: Path, codes: pa.Array) -> None:
    table = written(tmp_path, {"key": pa.array([1, 2, 3, 4]), "code": codes})
    assert by_columns(table) == by_rows(table)
    assert by_rows(table)[1] == ("2", CODES[1], {})


@pytest.mark.parametrize(
    "table",
    [
        {"key": ["a", None], "code": CODES[:2]},
        {"key": ["a", ""], "code": CODES[:2]},
        {"key": ["a", "k" * 513], "code": CODES[:2]},
        {"key": ["a", "b"], "code": [b"1", b"12"]},
        {"key": ["a", "b"], "code": [b"1", None]},
        {"key": ["a", "b"], "code": CODES[:2], "attributes": ["{", "{}"]},
        {"key": ["a", "b"], "code": CODES[:2], "attributes": [{"a": 1}, None]},
        {"key": ["a", "b"], "code": CODES[:2], "at": [datetime.time(8, 30)] * 2},
        {"key": ["a", "b"], "code": CODES[:2], "price": [decimal.Decimal("1.5")] * 2},
        {"key": ["a", "b"], "code": CODES[:2], "tags": [["x"], []]},
        {"key": ["a", "b"], "code": CODES[:2], "share": [1.0, float("inf")]},
        {"key": ["a", "b"], "code": CODES[:2], "label": ["x\0", "y"]},
        {"key": ["a", "b"], "code": CODES[:2], "label": ["x" * 70_000, "y"]},
    ],
)
def test_special_values_are_read_as_rows(tmp_path: Path, table: dict[str, Any]) -> None:
    assert by_columns(written(tmp_path, table)) is None


@pytest.mark.parametrize("column", ["features", "feature", "thumbnail"])
def test_tables_with_more_than_codes_do_not_become_columns(tmp_path: Path, column: str) -> None:
    values = [b"x"] * 4 if column == "thumbnail" else [[1.0]] * 4
    assert not columns.fits(written(tmp_path, {"key": KEYS, "code": CODES, column: values}))


def test_rows_keep_their_order_over_batches(tmp_path: Path) -> None:
    count = MAX_COLUMN_RECORDS + 100
    keys = [f"k{row}" for row in range(count)]
    codes = np.arange(count, dtype=">u8").tobytes()
    table = written(
        tmp_path,
        {"key": keys, "code": [codes[8 * row : 8 * row + 8] for row in range(count)]},
        row_group_size=5_000,
    )
    found = list(columns.batches(table, PLAIN))
    assert all(isinstance(batch, CodeColumns) for batch in found)
    assert [key for batch in found for key in batch.keys.strings()] == keys  # type: ignore[union-attr]
    assert b"".join(batch.codes.tobytes() for batch in found) == codes  # type: ignore[union-attr]


def test_a_cut_file_is_one_clear_error(tmp_path: Path) -> None:
    table = written(tmp_path, {"key": KEYS, "code": CODES})
    path = tmp_path / "t.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InvalidRequest, match=r"t\.parquet cannot be read"):
        list(columns.batches(table, PLAIN))
