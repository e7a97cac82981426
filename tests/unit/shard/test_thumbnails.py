"""Thumbnails in the store: stored with the record, carried by dumps and repair, not read by searches."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.scan import ScanGroup
from lookalike.cluster.slots import all_slots
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.engine import Engine
from shard.store import Store
from shard.store_rows import checked_fields, heads_of

SPACE = CodeSpace(64)
THUMBNAIL = b"\xff\xd8\xff" + bytes(9_000)


def record(key: str, version: int, thumbnail: bytes = THUMBNAIL, features: bytes = b"") -> VersionedRecord:
    return VersionedRecord(key, b"12345678", '{"a":1}', version, features, thumbnail)


def make(folder: Path, indexing: Indexing | None = None) -> Engine:
    Store.create(folder / "s.db", SPACE, indexing or Indexing())
    return Engine(Store(folder / "s.db"))


def thumbnails(engine: Engine, *keys: str) -> list[bytes]:
    return [found.thumbnail for found in engine.fetch(keys, include_thumbnails=True)]


def thumbnails_on_disk(folder: Path) -> int:
    with sqlite3.connect(folder / "s.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM thumbnails").fetchone()
    connection.close()
    return int(count)


def test_thumbnail_is_read_only_on_request(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1), record("b", 1, b"")])
    assert [found.thumbnail for found in engine.fetch(["a", "b"])] == [b"", b""]
    assert thumbnails(engine, "b", "a") == [b"", THUMBNAIL]
    engine.close()


def test_thumbnail_is_replaced_and_deleted_with_its_record(tmp_path: Path) -> None:
    engine = make(tmp_path)
    other = b"\x89PNG\r\n\x1a\n" + bytes(10)
    engine.write([record("replaced", 1), record("bare", 1), record("deleted", 1), record("late", 2)])
    engine.write([record("replaced", 2, other), record("bare", 2, b""), record("late", 1, other)])
    engine.write([VersionedRecord("deleted", None, "", 2)])
    assert thumbnails(engine, "replaced", "bare", "deleted", "late") == [other, b"", THUMBNAIL]
    assert thumbnails_on_disk(tmp_path) == 2
    engine.remove(engine.listing(all_slots()).numbers)
    assert thumbnails_on_disk(tmp_path) == 0
    engine.close()


@pytest.mark.parametrize("indexing", [Indexing(), Indexing(features="int8", feature_width=4)])
def test_dumps_and_repairs_carry_thumbnails(tmp_path: Path, indexing: Indexing) -> None:
    vector = bytes(8) if indexing.keeps_features else b""
    engine = make(tmp_path, indexing)
    written = [record("a", 1, features=vector), record("b", 1, b"", vector)]
    engine.write(written)
    dumped = [row for part in engine.dump(all_slots(), [], (0, 0)) if isinstance(part, list) for row in part]
    assert dumped == written
    assert engine.read(engine.listing(all_slots()).numbers.tolist())[0] == written
    engine.close()


def test_thumbnails_count_towards_the_size_of_a_read(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record(f"k{i}", 1) for i in range(600)])
    _, read = engine._store.rows(engine.listing(all_slots()).numbers.tolist(), 1_000_000)
    assert read == 500
    engine.close()


def test_checksum_finds_a_changed_thumbnail(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1), record("b", 1)])
    assert engine.damaged_rows(0, 10) == (0, None)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("UPDATE thumbnails SET picture = x'ffd8ff00' WHERE number = 0")
    connection.close()
    assert engine.damaged_rows(0, 10) == (1, None)
    engine.close()


def test_renumbering_keeps_each_thumbnail_with_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(tmp_path)
    for version in range(1, 30):
        engine.write([record(key, version, THUMBNAIL + key.encode()) for key in "abc"])
    engine.close()
    monkeypatch.setattr("shard.store.RENUMBER_ABOVE", 20)
    engine = Engine(Store(tmp_path / "s.db"))
    assert engine.listing(all_slots()).numbers.tolist() == [0, 1, 2]
    assert thumbnails(engine, *"abc") == [THUMBNAIL + key for key in (b"a", b"b", b"c")]
    engine.close()


def test_search_reads_no_thumbnail(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record(f"k{i}", 1) for i in range(100)])
    statements: list[str] = []
    engine._store._database.reader.set_trace_callback(statements.append)
    group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(b"12345678", np.uint8)[None], 50, None, None, True)
    assert len(engine.scan(group).hits.keys) == 50
    assert statements
    assert not any("thumbnails" in statement for statement in statements)
    engine.close()


def test_checksum_format_does_not_change() -> None:
    (head,) = heads_of([3], np.array([5], np.uint64), [record("old", 7, b"t")])
    assert head.hex() == "23f49c6e030000000500000000000000070000000000000000000000a85a6a850b0000003132333435363738"
    assert checked_fields(3, head, "old", '{"a":1}', 8).version == 7
