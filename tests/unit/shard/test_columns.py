"""Records that are written as columns are stored like the same records as objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike import wire
from lookalike.cluster.columns import CodeColumns, Texts, VersionedColumns, concat, ids_of, interleaved
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import VERSION_LIMIT, VersionedRecord, record_id
from lookalike.v1 import shard_pb2
from shard.engine import Engine
from shard.store import Store

SPACE = CodeSpace(64)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)


def columns_of(records: list[VersionedRecord]) -> VersionedColumns:
    names = Texts.of([record.key for record in records])
    codes = np.frombuffer(b"".join(record.code or b"" for record in records), np.uint8).reshape(-1, 8)
    columns = CodeColumns(names, codes, Texts.of([record.attributes for record in records]))
    return VersionedColumns(columns, ids_of(names), np.array([r.version for r in records], np.uint64), ["n", "é"])


def record(key: str, version: int) -> VersionedRecord:
    return VersionedRecord(key, version.to_bytes(8, "big"), f'{{"n":{version},"é":"naïve"}}', version)


def make(folder: Path, name: str) -> Engine:
    Store.create(folder / name, SPACE, Indexing())
    return Engine(Store(folder / name))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(keys, st.integers(1, 9)), min_size=1, max_size=8), max_size=5))
def test_columns_and_records_give_the_same_store(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    one, other = make(folder, "records"), make(folder, "columns")
    try:
        for batch in batches:
            records = [record(key, version) for key, version in batch]
            expected = one.write(records)
            result = other.write(columns_of(records))
            assert result.superseded == expected.superseded
            assert result.newest_version == expected.newest_version
            assert np.array_equal(one.sums.digests, other.sums.digests)
            deleted = [VersionedRecord(batch[0][0], None, "", batch[0][1] + 1)]
            one.write(deleted)
            other.write(deleted)
        everything = [key for batch in batches for key, _ in batch]
        assert other.fetch(everything, include_deleted=True) == one.fetch(everything, include_deleted=True)
        assert other.rows == one.rows
        other.close()
        other = Engine(Store(folder / "columns"))
        assert other.fetch(everything, include_deleted=True) == one.fetch(everything, include_deleted=True)
    finally:
        one.close()
        other.close()


@given(st.lists(keys, max_size=20), st.data())
def test_texts_are_taken_joined_and_interleaved(strings: list[str], data: st.DataObject) -> None:
    texts = Texts.of(strings)
    assert texts.strings() == strings
    assert [piece.decode() for piece in texts.pieces()] == strings
    assert texts.sizes.tolist() == [len(string.encode()) for string in strings]
    if strings:
        rows = data.draw(st.lists(st.integers(0, len(strings) - 1), max_size=30))
        assert texts.take(np.array(rows, np.intp)).strings() == [strings[row] for row in rows]
        assert Texts.concat([texts, texts]).strings() == strings * 2
        mixed = interleaved([texts, Texts.repeat("-é", len(strings)), texts])
        assert mixed.strings() == [f"{string}-é{string}" for string in strings]
    assert ids_of(texts).tolist() == [record_id(string) for string in strings]


def test_columns_are_joined_and_split() -> None:
    parts = [columns_of([record("a", 1), record("ü", 2)]), columns_of([record("b", 3)])]
    assert concat(parts).records() == [record("a", 1), record("ü", 2), record("b", 3)]
    assert concat(parts).take(np.array([2, 0])).records() == [record("b", 3), record("a", 1)]


def written(columns: VersionedColumns) -> shard_pb2.WriteRequest:
    message = wire.write_to_wire("c", SPACE.fingerprint, "", columns)
    return shard_pb2.WriteRequest.FromString(message.SerializeToString())


def test_columns_round_trip_over_the_wire() -> None:
    records = [record("a", 1), record("ü", 2)]
    found = wire.write_from_wire(written(columns_of(records)), SPACE, Indexing())
    assert isinstance(found, VersionedColumns)
    assert found.records() == records
    assert found.fields == ["n", "é"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("columns.codes", b"1234567", "7 bytes of codes are no 2 codes of one width"),
        ("columns.key_ends", b"\x01\0\0\0\xff\0\0\0", "the ends of keys must ascend to 3"),
        ("columns.key_ends", b"\x04\0\0\0\x03\0\0\0", "the ends of keys must ascend to 3"),
        ("columns.key_ends", b"\x01\0\0", "the ends of keys are not 4-byte integers"),
        ("columns.attribute_ends", b"", "the ends of attributes must ascend"),
        ("ids", b"12345678", "ids and versions need 8 bytes for each key"),
        ("versions", b"\xff" * 16, f"is not below {VERSION_LIMIT}"),
    ],
)
def test_malformed_columns_are_refused(field: str, value: bytes, words: str) -> None:
    message = written(columns_of([record("a", 1), record("ü", 2)]))
    *path, name = field.split(".")
    setattr(message.columns.columns if path else message.columns, name, value)
    with pytest.raises(InvalidRequest, match=words):
        wire.write_from_wire(message, SPACE, Indexing())


def test_columns_for_a_collection_with_features_are_refused() -> None:
    indexing = Indexing(features="int8", feature_width=4)
    message = wire.write_to_wire("c", SPACE.fingerprint, indexing.features_text, columns_of([record("a", 1)]))
    with pytest.raises(InvalidRequest, match="hold no features"):
        wire.write_from_wire(message, SPACE, indexing)
