"""Owns the effect of a write: which records replace stored ones, and which rows are added and removed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import Rows
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord, record_id
from shard.database import Database
from shard.store_rows import checksum_of, signed
from shard.store_schema import side_tables


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What a write changes.

    Attributes:
        deleted: Numbers of the live rows that it replaces or deletes, uint32.
        numbers: Numbers of the live rows that it adds, uint32 (n,).
        ids: Their ids, uint64 (n,).
        codes: Their codes, bits/8 bytes each.
        existed: Per record, whether a live record with its key was stored before.
        superseded: By index of each record that was not stored, the higher stored version that it lost to.
        gone: The rows that it removes, tombstones included.
        come: The rows that it adds, tombstones included.
    """

    deleted: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.uint64]
    codes: Sequence[bytes]
    existed: Sequence[bool]
    superseded: Mapping[int, int]
    gone: Rows
    come: Rows


@dataclasses.dataclass(slots=True)
class _Plan:
    """Which records to write. rows: the number and the record, by key; numbers_used: how many numbers were
    used."""

    rows: dict[str, tuple[int, VersionedRecord]] = dataclasses.field(default_factory=dict)
    existed: list[bool] = dataclasses.field(default_factory=list)
    superseded: dict[int, int] = dataclasses.field(default_factory=dict)
    deleted: list[int] = dataclasses.field(default_factory=list)
    gone: list[tuple[int, int, bool]] = dataclasses.field(default_factory=list)
    numbers_used: int = 0


def stage(
    database: Database,
    indexing: Indexing,
    records: Sequence[VersionedRecord],
    next_number: int,
    known_fields: frozenset[str],
) -> tuple[Applied, frozenset[str], int]:
    """Writes records in the current transaction. Of two records with the same key, the one with the higher version
    is kept.

    Returns:
        What changes, the attributes that no record had before, and the number of row numbers used.
    """
    plan = _plan(database, records, next_number)
    rows = list(plan.rows.values())
    _write_rows(database, indexing, plan.deleted, rows)
    fields = _new_fields((record for _, record in rows), known_fields)
    database.writer.executemany("INSERT OR IGNORE INTO fields VALUES (?)", [(name,) for name in fields])
    live = sorted((number, record) for number, record in rows if record.code is not None)
    applied = Applied(
        np.array(plan.deleted, np.uint32),
        np.array([number for number, _ in live], np.uint32),
        np.array([record_id(record.key) for _, record in live], np.uint64),
        [record.code for _, record in live if record.code is not None],
        plan.existed,
        plan.superseded,
        Rows.of(plan.gone),
        Rows.of([(record_id(record.key), record.version, record.code is None) for _, record in rows]),
    )
    return applied, fields, plan.numbers_used


def _plan(database: Database, records: Sequence[VersionedRecord], next_number: int) -> _Plan:
    sql = "SELECT key, number, version, code IS NOT NULL FROM records WHERE key IN ({})"
    keys = [record.key for record in records]
    stored = {key: rest for key, *rest in database.lookup(sql, keys, to_write=True)}
    plan = _Plan()
    for index, record in enumerate(records):
        number, version, live = stored.get(record.key, (0, -1, 0))
        plan.existed.append(bool(live))
        if version >= record.version:
            if version > record.version:
                plan.superseded[index] = version
            continue
        if version >= 0 and record.key not in plan.rows:
            plan.gone.append((record_id(record.key), version, not live))
            if live:
                plan.deleted.append(number)
        number = next_number + plan.numbers_used
        plan.numbers_used += 1
        plan.rows[record.key] = (number, record)
        stored[record.key] = [number, record.version, record.code is not None]
    return plan


def _write_rows(
    database: Database, indexing: Indexing, deleted: Sequence[int], rows: Sequence[tuple[int, VersionedRecord]]
) -> None:
    writer = database.writer
    writer.executemany(
        "INSERT OR REPLACE INTO records (number, key, id, version, code, attributes, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (number, record.key, signed(record_id(record.key)), record.version, record.code,
             None if record.code is None else record.attributes, checksum_of(record))
            for number, record in rows
        ],
    )  # fmt: skip
    for table in side_tables(indexing):
        writer.executemany(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in deleted])
    writer.executemany(
        "INSERT INTO thumbnails VALUES (?, ?)",
        [(number, record.thumbnail) for number, record in rows if record.thumbnail],
    )
    if indexing.keeps_features:
        writer.executemany(
            "INSERT INTO features VALUES (?, ?)",
            [(number, record.features) for number, record in rows if record.code is not None],
        )


def _new_fields(records: Iterable[VersionedRecord], known: frozenset[str]) -> frozenset[str]:
    """The top-level attributes that no record had before."""
    texts = {record.attributes for record in records if record.code is not None and record.attributes}
    return frozenset(name for text in texts for name in json.loads(text)) - known
