"""Dumps of a store: one state, whole or since a mark, never without a change made since."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lookalike.cluster.dump import Mark
from lookalike.cluster.slots import SlotSet, all_slots, no_slots
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord, record_id, slot_of
from shard.engine import Engine
from shard.store import Store

Dumped = tuple[Mark, SlotSet, int, dict[str, bytes | None]]


def make(folder: Path) -> Engine:
    Store.create(folder / "s.db", CodeSpace(64), Indexing())
    return Engine(Store(folder / "s.db"))


def reopen(engine: Engine, folder: Path) -> Engine:
    engine.close()
    return Engine(Store(folder / "s.db"))


def record(key: str, version: int, code: bytes | None = b"12345678") -> VersionedRecord:
    return VersionedRecord(key, code, "{}", version)


def dump(engine: Engine, since: list[Mark], slots: SlotSet | None = None) -> Dumped:
    parts = engine.dump(all_slots() if slots is None else slots, since, (1, 0))
    head = next(parts)
    assert isinstance(head, tuple)
    found = {row.key: row.code for part in parts if isinstance(part, list) for row in part}
    return *head, found


def test_dump_has_every_change_since_the_last_one_whatever_its_version(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 100), record("b", 100), record("gone", 100), record("gone", 101, None)])
    mark, whole, rows, found = dump(engine, [])
    assert (whole.all(), rows, set(found)) == (True, 2, {"a", "b"})
    # A replica may get a record late, and a clock may be behind.
    engine.write([record("late", 7), record("b", 200, None)])
    again, whole, rows, found = dump(engine, [mark])
    assert (whole.any(), rows, found) == (False, 2, {"late": b"12345678", "b": None})
    assert dump(engine, [mark, again])[3] == {}


def test_first_row_of_an_empty_store_is_in_the_next_dump(tmp_path: Path) -> None:
    engine = make(tmp_path)
    mark, *_ = dump(engine, [])
    engine.write([record("a", 1)])
    assert set(dump(engine, [mark])[3]) == {"a"}


def test_dump_shows_one_state_of_the_store(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record(f"k{i}", 1) for i in range(50)])
    parts = engine.dump(all_slots(), [], (1, 0))
    next(parts)
    engine.write([record("k0", 2, None), record("new", 2)])
    found = {row.key for part in parts if isinstance(part, list) for row in part}
    assert found == {f"k{i}" for i in range(50)}


def test_only_requested_slots_are_dumped(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record(f"k{i}", 1) for i in range(200)])
    slots = no_slots()
    slots[:512] = True
    _, whole, rows, found = dump(engine, [], slots)
    expected = {f"k{i}" for i in range(200) if slots[slot_of(record_id(f"k{i}"))]}
    assert set(found) == expected
    assert rows == len(expected)
    assert (whole == slots).all()


def test_mark_of_another_store_is_ignored(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1)])
    mark, *_ = dump(engine, [])
    engine = reopen(engine, tmp_path)
    assert dump(engine, [mark])[3] == {}
    other = Mark("another", mark.number, mark.slots, 1, 0)
    assert set(dump(engine, [other])[3]) == {"a"}


def test_dump_is_whole_after_rows_were_removed(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1), record("b", 1)])
    mark, *_ = dump(engine, [])
    engine.remove(engine.listing(all_slots()).numbers[:1])
    engine = reopen(engine, tmp_path)
    _, whole, _, found = dump(engine, [mark])
    assert whole.all()
    assert len(found) == 1


def test_dump_is_whole_only_if_a_discarded_tombstone_was_never_dumped(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1), record("b", 1), record("b", 2, None)])
    mark, *_ = dump(engine, [])
    assert engine.forget_tombstones(3) == 1
    assert not dump(engine, [mark])[1].any()
    engine.write([record("a", 4, None)])
    assert engine.forget_tombstones(5) == 1
    _, whole, rows, found = dump(engine, [mark])
    assert (whole.all(), rows, found) == (True, 0, {})


def test_numbers_are_not_reused_after_the_last_rows_were_removed(tmp_path: Path) -> None:
    engine = make(tmp_path)
    engine.write([record("a", 1), record("b", 1), record("b", 2, None)])
    mark, *_ = dump(engine, [])
    engine.forget_tombstones(3)
    engine = reopen(engine, tmp_path)
    engine.write([record("c", 5)])
    assert set(dump(engine, [mark])[3]) == {"c"}
    assert mark.number <= int(np.max(engine.listing(all_slots()).numbers))
