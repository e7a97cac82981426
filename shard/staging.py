"""Owns the effect of a write: which records replace stored ones, and which rows are added and removed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.rows import Rows
from lookalike.model.records import VersionedRecord, record_id
from shard.database import Database
from shard.kernel import RowIndex
from shard.store_rows import COLUMNS, Fields, checked_fields, heads_of, heads_of_columns
from shard.store_schema import Meta, put_fields, side_tables

_INSERT = f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?)"


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What a write changes.

    Attributes:
        deleted: Numbers of the live rows that it replaces or deletes, uint32.
        numbers: Numbers of the live rows that it adds, uint32 (n,).
        ids: Their ids, uint64 (n,).
        codes: Their codes, uint8, n codes of bits/8 bytes, in any shape.
        existed: Per record, whether a live record with its key was stored before. Empty for `VersionedColumns`.
        superseded: By index of each record that was not stored, the higher stored version that it lost to.
        removed: The rows that it removes, tombstones included.
        removed_numbers: Their numbers, uint32.
        added: The rows that it adds, tombstones included.
        added_numbers: Their numbers, uint32.
        newest_version: The highest version among the records, stored or not.
    """

    deleted: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.uint8]
    existed: Sequence[bool]
    superseded: Mapping[int, int]
    removed: Rows
    removed_numbers: npt.NDArray[np.uint32]
    added: Rows
    added_numbers: npt.NDArray[np.uint32]
    newest_version: int


@dataclasses.dataclass(slots=True)
class _Plan:
    """Which records to write.

    Attributes:
        rows: The number and the record, by key.
        existed: See `Applied`.
        superseded: See `Applied`.
        removed: The number, id and version of each stored row that is replaced, and whether it is a tombstone.
        numbers_used: How many row numbers were used.
    """

    rows: dict[str, tuple[int, VersionedRecord]] = dataclasses.field(default_factory=dict)
    existed: list[bool] = dataclasses.field(default_factory=list)
    superseded: dict[int, int] = dataclasses.field(default_factory=dict)
    removed: list[tuple[int, int, int, bool]] = dataclasses.field(default_factory=list)
    numbers_used: int = 0


def stage(
    database: Database,
    meta: Meta,
    records: Sequence[VersionedRecord] | VersionedColumns,
    index: RowIndex,
    next_number: int,
    known_fields: frozenset[str],
) -> tuple[Applied, frozenset[str], int]:
    """Writes records in the current transaction. Of two records with the same key, the one with the higher version
    is kept.

    Args:
        database: The store's file.
        meta: The store's metadata.
        records: The records.
        index: Finds the stored rows.
        next_number: The first row number to use.
        known_fields: The attributes that records had before.

    Returns:
        What changes, the attributes that no record had before, and the number of row numbers used.
    """
    if isinstance(records, VersionedColumns):
        if len(np.unique(records.ids)) == len(records):
            return _stage_columns(database, meta, records, index, next_number, known_fields)
        records = records.records()
    plan = _plan(database, meta, records, index, next_number)
    rows = sorted(plan.rows.values(), key=lambda row: row[0])
    live = [(number, record) for number, record in rows if record.code is not None]
    dead = [(number, record) for number, record in rows if record.code is None]
    removed_numbers = [number for number, *_ in plan.removed]
    _delete_rows(database, meta, removed_numbers)
    added = [_insert_rows(database, live), _insert_rows(database, dead)]
    _insert_parts(database, meta, live)
    fields = _new_fields((record for _, record in live), known_fields)
    put_fields(database.writer, fields)
    applied = Applied(
        np.array([number for number, _, _, is_dead in plan.removed if not is_dead], np.uint32),
        np.array([number for number, _ in live], np.uint32),
        added[0].ids,
        np.frombuffer(b"".join(record.code or b"" for _, record in live), np.uint8),
        plan.existed,
        plan.superseded,
        Rows.of([(identifier, version, is_dead) for _, identifier, version, is_dead in plan.removed]),
        np.array(removed_numbers, np.uint32),
        Rows.concat(added),
        np.array([number for number, _ in (*live, *dead)], np.uint32),
        max(record.version for record in records),
    )
    return applied, fields, plan.numbers_used


def _stage_columns(
    database: Database,
    meta: Meta,
    records: VersionedColumns,
    index: RowIndex,
    next_number: int,
    known_fields: frozenset[str],
) -> tuple[Applied, frozenset[str], int]:
    """As `stage`, for records with distinct ids. Only those whose key is already stored become objects."""
    stored = _stored_rows(database, meta, records, index)
    is_kept = np.ones(len(records), np.bool_)
    superseded = {}
    replaced = []
    for position, (number, old, is_dead) in stored.items():
        version = int(records.versions[position])
        if old.version < version:
            replaced.append((number, old, is_dead))
            continue
        is_kept[position] = False
        if old.version > version:
            superseded[position] = old.version
    newest = int(records.versions.max())
    kept = records if is_kept.all() else records.take(np.flatnonzero(is_kept))
    removed_numbers = [number for number, _, _ in replaced]
    _delete_rows(database, meta, removed_numbers)
    numbers = np.arange(next_number, next_number + len(kept), dtype=np.uint32)
    keys, attributes = kept.columns.keys.strings(), kept.columns.attributes.strings()
    heads = heads_of_columns(next_number, kept)
    database.writer.executemany(_INSERT, zip(numbers.tolist(), heads, keys, attributes, strict=True))
    fields = frozenset(kept.fields) - known_fields
    put_fields(database.writer, fields)
    applied = Applied(
        np.array([number for number, _, is_dead in replaced if not is_dead], np.uint32),
        numbers,
        kept.ids,
        kept.columns.codes,
        [],
        superseded,
        Rows.of([(old.id, old.version, is_dead) for _, old, is_dead in replaced]),
        np.array(removed_numbers, np.uint32),
        Rows(kept.ids, kept.versions, np.zeros(len(kept), np.bool_)),
        numbers,
        newest,
    )
    return applied, fields, len(kept)


def _stored_rows(
    database: Database, meta: Meta, records: VersionedColumns, index: RowIndex
) -> dict[int, tuple[int, Fields, bool]]:
    """By position of a record, the row that its key has in the store: number, fields, and whether it is a
    tombstone."""
    positions, candidates = index.find(records.ids)
    if not len(positions):
        return {}
    unique = np.unique(positions)
    position_of = dict(zip(records.columns.keys.take(unique).strings(), unique.tolist(), strict=True))
    found = {}
    sql = f"SELECT {COLUMNS} FROM records WHERE number IN ({{}})"
    for number, head, key, attributes in database.lookup(sql, np.unique(candidates).tolist(), to_write=True):
        if key in position_of:
            fields = checked_fields(number, head, key, attributes, meta.space.code_bytes)
            found[position_of[key]] = (number, fields, attributes is None)
    return found


def _plan(
    database: Database, meta: Meta, records: Sequence[VersionedRecord], index: RowIndex, next_number: int
) -> _Plan:
    keys = {record.key for record in records}
    ids = np.fromiter(map(record_id, keys), np.uint64, len(keys))
    _, candidates = index.find(ids)
    stored: dict[str, tuple[int, Fields | None, int, bool]] = {}
    sql = f"SELECT {COLUMNS} FROM records WHERE number IN ({{}})"
    for number, head, key, attributes in database.lookup(sql, np.unique(candidates).tolist(), to_write=True):
        if key in keys:
            old = checked_fields(number, head, key, attributes, meta.space.code_bytes)
            stored[key] = (number, old, old.version, attributes is not None)
    plan = _Plan()
    for position, record in enumerate(records):
        number, fields, version, is_live = stored.get(record.key, (0, None, -1, False))
        plan.existed.append(is_live)
        if version >= record.version:
            if version > record.version:
                plan.superseded[position] = version
            continue
        if fields is not None:
            plan.removed.append((number, fields.id, fields.version, not is_live))
        number = next_number + plan.numbers_used
        plan.numbers_used += 1
        plan.rows[record.key] = (number, record)
        stored[record.key] = (number, None, record.version, record.code is not None)
    return plan


def _delete_rows(database: Database, meta: Meta, numbers: Sequence[int]) -> None:
    for table in ("records", *side_tables(meta.indexing)):
        database.writer.executemany(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers])


def _insert_rows(database: Database, rows: Sequence[tuple[int, VersionedRecord]]) -> Rows:
    """Inserts rows that are either all live or all tombstones."""
    records = [record for _, record in rows]
    numbers = [number for number, _ in rows]
    is_dead = bool(records) and records[0].code is None
    ids = np.fromiter((record_id(record.key) for record in records), np.uint64, len(records))
    attributes = (None if is_dead else record.attributes for record in records)
    keys = (record.key for record in records)
    database.writer.executemany(
        _INSERT,
        zip(numbers, heads_of(numbers, ids, records), keys, attributes, strict=True),
    )
    versions = np.fromiter((record.version for record in records), np.uint64, len(records))
    return Rows(ids, versions, np.full(len(records), is_dead))


def _insert_parts(database: Database, meta: Meta, rows: Sequence[tuple[int, VersionedRecord]]) -> None:
    """Inserts the thumbnails and features of live rows."""
    database.writer.executemany(
        "INSERT INTO thumbnails VALUES (?, ?)",
        [(number, record.thumbnail) for number, record in rows if record.thumbnail],
    )
    if meta.indexing.keeps_features:
        database.writer.executemany(
            "INSERT INTO features VALUES (?, ?)", [(number, record.features) for number, record in rows]
        )


def _new_fields(records: Iterable[VersionedRecord], known: frozenset[str]) -> frozenset[str]:
    """The top-level attributes that no record had before."""
    texts = {record.attributes for record in records if record.attributes}
    return frozenset(name for text in texts for name in json.loads(text)) - known
