"""Owns the tables of a store, its metadata, and the renumbering of its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from shard.database import explained
from shard.filter_sql import columns_of, index_of
from shard.store_rows import COLUMNS, renumbered

SCHEMA_VERSION = "4"
_PAGE_BYTES = 8_192
_RENUMBER_ROWS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Meta:
    """A store's metadata.

    Attributes:
        space: The code space of its codes.
        indexing: What it stores and indexes next to the codes.
        horizon: Tombstones below this version were discarded.
        identity: A random name; a new one after renumbering.
        removed_to: The highest number up to which rows were removed without a tombstone; -1 if none were.
        numbered: The highest row number that had been used when rows were last removed.
        fields: The names of the top-level attributes that any record ever had.
        reserved_to: The highest version that a key may be reserved for; 0 if none ever was.
    """

    space: CodeSpace
    indexing: Indexing
    horizon: int
    identity: str
    removed_to: int
    numbered: int
    fields: frozenset[str]
    reserved_to: int


def create(path: Path, space: CodeSpace, indexing: Indexing) -> None:
    """Creates an empty store. The folder must exist, the file must not."""
    with explained(path), contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in _statements(indexing):
            connection.execute(statement)
        meta = {
            "schema": SCHEMA_VERSION,
            "store": uuid.uuid4().hex,
            "code_space": json.dumps(dataclasses.asdict(space)),
            "indexing": json.dumps(dataclasses.asdict(indexing)),
        }
        put_meta(connection, meta)
        connection.commit()


def _statements(indexing: Indexing) -> list[str]:
    """The statements that make the tables. SQLite stores them as they are, and `read_meta` compares them."""
    columns = "".join(columns_of(position, field) for position, field in enumerate(indexing.attributes))
    tables = [
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL)"
        " STRICT, WITHOUT ROWID",
        "CREATE TABLE fields (name TEXT PRIMARY KEY, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        # No index on keys, so that an insert only appends: `shard.kernel.row_index` finds a key's row.
        "CREATE TABLE records (number INTEGER PRIMARY KEY, head BLOB NOT NULL, key TEXT NOT NULL, attributes TEXT"
        f"{columns}) STRICT",
        "CREATE INDEX tombstones ON records (number) WHERE attributes IS NULL",
        # Thumbnails and features are not columns of `records`, so that reading records does not read them.
        "CREATE TABLE thumbnails (number INTEGER PRIMARY KEY, picture BLOB NOT NULL) STRICT",
    ]
    if indexing.keeps_features:
        tables.append("CREATE TABLE features (number INTEGER PRIMARY KEY, vector BLOB NOT NULL) STRICT")
    return tables + [index_of(position) for position in range(len(indexing.attributes))]


def put_meta(connection: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Writes metadata."""
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)",
        [(name, value, _checksum(name, value)) for name, value in values.items()],
    )


def put_fields(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Adds attributes that a record has."""
    rows = [(name, _checksum(name)) for name in names]
    connection.executemany("INSERT OR IGNORE INTO fields VALUES (?, ?)", rows)


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Returns the store's metadata. Raises ValueError, KeyError or TypeError if it is not of this schema, or is
    damaged."""
    rows = connection.execute("SELECT name, value, checksum FROM meta").fetchall()
    meta = {name: value for name, value, _ in rows}
    if meta["schema"] != SCHEMA_VERSION:
        raise ValueError(f"its schema is {meta['schema']!r}, this release reads {SCHEMA_VERSION!r}")
    fields = connection.execute("SELECT name, checksum FROM fields").fetchall()
    for *values, checksum in (*rows, *fields):
        if _checksum(*values) != checksum:
            raise ValueError(f"its metadata {values} has another checksum")
    stored = json.loads(meta["indexing"])
    indexing = Indexing(**{**stored, "attributes": tuple(stored["attributes"])})
    present = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if present != set(_statements(indexing)):
        raise ValueError("its tables differ from what was created")
    return Meta(
        CodeSpace(**json.loads(meta["code_space"])),
        indexing,
        int(meta.get("horizon", 0)),
        meta["store"],
        int(meta.get("removed_to", -1)),
        int(meta.get("numbered", -1)),
        frozenset(name for name, _ in fields),
        int(meta.get("reserved_to", 0)),
    )


def side_tables(indexing: Indexing) -> tuple[str, ...]:
    """Returns the tables that hold the separately read parts of records."""
    return ("thumbnails", "features") if indexing.keeps_features else ("thumbnails",)


def renumber(connection: sqlite3.Connection, indexing: Indexing) -> tuple[int, str]:
    """Numbers the rows again from 0, in the same order.

    Row numbers have 32 bits in the matrix and every write uses one up, so an old store would run out of them.
    After renumbering, a number refers to another row, so the store gets a new identity.

    Returns:
        The number of rows, and the new identity.
    """
    identity = uuid.uuid4().hex
    fresh = itertools.count()
    last = -1
    sql = f"SELECT {COLUMNS} FROM records WHERE number > ? ORDER BY number LIMIT {_RENUMBER_ROWS}"
    connection.execute("BEGIN IMMEDIATE")
    try:
        # A row's new number is at most its old one, so in this order it is free.
        while rows := connection.execute(sql, (last,)).fetchall():
            last = rows[-1][0]
            moves = [(next(fresh), *row) for row in rows]
            connection.executemany(
                "UPDATE records SET number = ?, head = ? WHERE number = ?",
                [(new, renumbered(head, new, key, text), old) for new, old, head, key, text in moves],
            )
            for table in side_tables(indexing):
                connection.executemany(
                    f"UPDATE {table} SET number = ? WHERE number = ?", [(new, old) for new, old, *_ in moves]
                )
        put_meta(connection, {"store": identity})
        connection.execute("DELETE FROM meta WHERE name IN ('removed_to', 'numbered')")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return next(fresh), identity


def _checksum(*values: str) -> int:
    return zlib.crc32("\n".join(values).encode())
