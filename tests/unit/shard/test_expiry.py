"""Which rows a shard finds expired: the same as a loop over all records would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.cluster.select import ListOf, Question
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, VersionedRecord, record_id, slot_of
from lookalike.model.ttl import VERSION_SHIFT, Expired, Ttl
from shard.engine import Engine
from shard.store import Store

NOW_MS = 1_800_000_000_500
ALL = np.ones(SLOTS, np.bool_)
VALUES: list[Any] = [
    1_799_999_999, 1_800_000_001, 1_700_000_000.25, "2027-01-15T07:59:59Z", "2027-01-15T08:00:01Z", "2020",
    "2027-01-14T00:00:00.000000Z", "2027-01-15", "2027-01-16", "zebra", True, None, [0], {"deep": 1},
]  # fmt: skip


@pytest.fixture(params=[(), ("at", "in.at")], ids=["not indexed", "indexed"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    path = tmp_path / "store.sqlite"
    Store.create(path, CodeSpace(64), Indexing(attributes=request.param))
    engine = Engine(Store(path))
    yield engine
    engine.close()


def record(key: str, age_ms: int, attributes: dict[str, Any]) -> VersionedRecord:
    return VersionedRecord(key, bytes(8), json.dumps(attributes), (NOW_MS - age_ms) << VERSION_SHIFT)


def listed(engine: Engine, ttl: Ttl, slots: SlotSet = ALL, now_ms: int = NOW_MS) -> list[str]:
    question = Question("c", None, ListOf("", 1_000), Expired(ttl, now_ms))
    listed = engine.select(question, slots).listed
    assert listed is not None
    return listed.keys.strings()


def expected(records: list[VersionedRecord], ttl: Ttl, slots: SlotSet = ALL, now_ms: int = NOW_MS) -> list[str]:
    keys = [
        found.key
        for found in records
        if ttl.is_expired(found.version, json.loads(found.attributes), now_ms)
        and slots[slot_of(record_id(found.key))]
    ]
    return sorted(keys, key=record_id)


def test_expired_rows_are_those_that_the_ttl_names(engine: Engine) -> None:
    records = [
        record(f"k{i}", i * 500, {"at": VALUES[i % len(VALUES)], "in": {"at": i * 20_000_000}}) for i in range(200)
    ]
    engine.write(records)
    half = np.arange(SLOTS) < SLOTS // 2
    for ttl in (Ttl(50), Ttl(1), Ttl(100_000), Ttl(attribute="at"), Ttl(attribute="in.at"), Ttl(attribute="no")):
        for slots in (ALL, half):
            assert listed(engine, ttl, slots) == expected(records, ttl, slots)
    assert listed(engine, Ttl(50)), "the cases must include expired rows"
    assert listed(engine, Ttl(attribute="at"))


def test_the_bound_on_versions_follows_writes_and_deletions(engine: Engine) -> None:
    ttl = Ttl(60)
    engine.write([record("new", 0, {})])
    assert listed(engine, ttl) == []
    # A row with an old version, as from another replica.
    engine.write([record("old", 61_000, {})])
    assert listed(engine, ttl) == ["old"]
    assert listed(engine, ttl) == ["old"], "a row is found until it is deleted"
    engine.write([VersionedRecord("old", None, "", NOW_MS << VERSION_SHIFT)])
    assert listed(engine, ttl) == []
    assert engine._expiry.oldest >> VERSION_SHIFT == NOW_MS
    assert listed(engine, ttl, now_ms=NOW_MS + 60_001) == ["new"]


def test_the_bound_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store.create(path, CodeSpace(64), Indexing())
    first = Engine(Store(path))
    first.write([record("old", 61_000, {}), record("new", 0, {})])
    first.close()
    second = Engine(Store(path))
    assert listed(second, Ttl(60)) == ["old"]
    second.close()
