"""A store with one flipped bit is refused, or every answer from it is right."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import ScanGroup
from lookalike.cluster.slots import all_slots
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.engine import Engine
from shard.store import Store

SPACE = CodeSpace(128)
RECORDS = 500
FLIPS = 200
SEARCHES = 300


def records() -> list[VersionedRecord]:
    rng = np.random.default_rng(0)
    return [
        VersionedRecord(
            f"photos/{number:04d}", rng.bytes(16), f'{{"label":"l{number % 7}","n":{number}}}', number + 1,
            rng.bytes(8) if number % 2 else b"\0" * 8, b"\xff\xd8\xff" + rng.bytes(20) if number % 5 == 0 else b"",
        )
        for number in range(RECORDS)
    ]  # fmt: skip


def written(folder: Path) -> list[VersionedRecord]:
    """Makes a store with live, replaced and deleted records; returns what it holds, tombstones included."""
    indexing = Indexing(attributes=("n",), features="int8", feature_width=4)
    Store.create(folder / "s", SPACE, indexing)
    engine = Engine(Store(folder / "s"))
    stored = records()
    engine.write(stored)
    for position in range(0, RECORDS, 40):
        old = stored[position]
        stored[position] = VersionedRecord(old.key, None, "", RECORDS + position + 1)
        changed = stored[position + 1]
        stored[position + 1] = VersionedRecord(
            changed.key, changed.code, '{"label":"new"}', RECORDS + position + 2, changed.features
        )
        engine.write(stored[position : position + 2])
    engine.close()
    return stored


def answers(engine: Engine, stored: list[VersionedRecord]) -> Iterator[object]:
    """Everything that a store can be asked."""
    yield engine.fetch([record.key for record in stored], True, True, True)
    yield engine.sums.live.tolist(), engine.sums.rows.tolist(), engine.sums.digests.tolist(), engine.newest_version
    listing = engine.listing(all_slots())
    yield sorted(zip(listing.rows.ids.tolist(), listing.rows.versions.tolist(), strict=True))
    read, _ = engine.read(listing.numbers.tolist())
    yield sorted(read, key=lambda record: record.key)
    yield [part for part in engine.dump(all_slots(), [], (0, 0)) if isinstance(part, list)]
    rng = np.random.default_rng(1)
    for condition in (None, filters.Equals("label", "l3"), filters.Range("n", lt=250), filters.Exists("n")):
        codes = rng.integers(0, 256, (SEARCHES // 4, 16), np.uint8)
        group = ScanGroup("c", SPACE.fingerprint, codes, 5, None, condition, True)
        hits = engine.scan(group).hits
        yield [getattr(hits, name).tolist() for name in HitTable.__slots__ if name != "queries"]


def opened(path: Path) -> Engine:
    return Engine(Store(path))


def test_one_flipped_bit_never_gives_a_wrong_answer(tmp_path: Path) -> None:
    stored = written(tmp_path)
    path = tmp_path / "s"
    content = path.read_bytes()
    engine = opened(path)
    expected = list(answers(engine, stored))
    assert expected[0] == stored
    engine.close()
    content = path.read_bytes()
    chance = random.Random(1)
    refused = 0
    for _ in range(FLIPS):
        bit = chance.randrange(len(content) * 8)
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
        path.write_bytes(damaged)
        try:
            engine = opened(path)
        except Corruption:
            refused += 1
            continue
        try:
            for answer, right in zip(answers(engine, stored), expected, strict=True):
                assert answer == right, f"bit {bit}"
        except Corruption:
            refused += 1
        finally:
            engine.close()
    assert 0 < refused < FLIPS


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET attributes = replace(attributes, 'l3', 'l2') WHERE number = 3",
        "UPDATE records SET key = key || 'x' WHERE number = 3",
        "UPDATE records SET number = 5000 WHERE number = 3",
        "UPDATE records SET head = zeroblob(length(head)) WHERE number = 3",
    ],
)
def test_changed_row_is_named_at_the_start(tmp_path: Path, statement: str) -> None:
    written(tmp_path)
    with sqlite3.connect(tmp_path / "s") as connection:
        (key,) = connection.execute("SELECT key FROM records WHERE number = 3").fetchone()
        connection.execute(statement)
    connection.close()
    with pytest.raises(Corruption, match=rf"row (3|5000) of key '{key}.*is damaged; restore"):
        opened(tmp_path / "s")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '7' WHERE name = 'schema'",
        "UPDATE meta SET value = replace(value, 'int8', 'int9') WHERE name = 'indexing'",
        "UPDATE fields SET name = 'lapel' WHERE name = 'label'",
        "DROP INDEX attribute_0",
    ],
)
def test_changed_metadata_is_damage(tmp_path: Path, statement: str) -> None:
    written(tmp_path)
    with sqlite3.connect(tmp_path / "s") as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(Corruption, match="damaged"):
        opened(tmp_path / "s")


@pytest.mark.parametrize("table", ["features", "thumbnails"])
def test_changed_or_lost_parts_are_damage_when_they_are_read(tmp_path: Path, table: str) -> None:
    stored = written(tmp_path)
    column = {"features": "vector", "thumbnails": "picture"}[table]
    for statement in (
        f"UPDATE {table} SET {column} = x'00' WHERE number = 5",
        f"DELETE FROM {table} WHERE number = 5",
    ):
        with sqlite3.connect(tmp_path / "s") as connection:
            connection.execute(statement)
        connection.close()
        engine = opened(tmp_path / "s")
        with pytest.raises(Corruption, match=f"key '{stored[5].key}' is damaged"):
            engine.fetch([stored[5].key], include_features=True, include_thumbnails=True)
        assert engine.damaged_rows(0, 10)[0] == 1
        engine.close()
