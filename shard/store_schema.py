"""Owns the tables of a store, its metadata, and the renumbering of its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import uuid
from pathlib import Path

from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from shard.database import explained
from shard.filter_sql import index_of

SCHEMA_VERSION = "3"
# Thumbnails and features are not columns of `records`, so that reading records does not read them.
_FEATURES_SCHEMA = "CREATE TABLE features (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);"
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE fields (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    code BLOB,
    attributes TEXT,
    checksum INTEGER
);
CREATE TABLE thumbnails (number INTEGER PRIMARY KEY, picture BLOB NOT NULL);
CREATE INDEX tombstones ON records (number, id, version) WHERE code IS NULL;
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Meta:
    """A store's metadata.

    Attributes:
        space: The code space of its codes.
        indexing: What it stores and indexes next to the codes.
        horizon: Tombstones below this version were discarded.
        identity: A random name; a new one after renumbering.
        removed_to: Rows up to this number were removed without a tombstone.
        numbered: The highest row number that had been used when rows were last removed.
    """

    space: CodeSpace
    indexing: Indexing
    horizon: int
    identity: str
    removed_to: int
    numbered: int


def create(path: Path, space: CodeSpace, indexing: Indexing) -> None:
    """Creates an empty store. The folder must exist, the file must not."""
    with explained(path), contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        for position, field in enumerate(indexing.attributes):
            connection.executescript(index_of(position, field))
        if indexing.keeps_features:
            connection.executescript(_FEATURES_SCHEMA)
        meta = {
            "schema": SCHEMA_VERSION,
            "store": uuid.uuid4().hex,
            "code_space": json.dumps(dataclasses.asdict(space)),
            "indexing": json.dumps(dataclasses.asdict(indexing)),
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.commit()


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Returns the store's metadata. Raises ValueError, KeyError or TypeError if it is not of this schema."""
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    if meta["schema"] != SCHEMA_VERSION:
        raise ValueError(f"its schema is {meta['schema']!r}, this release reads {SCHEMA_VERSION!r}")
    stored = json.loads(meta["indexing"])
    return Meta(
        CodeSpace(**json.loads(meta["code_space"])),
        Indexing(**{**stored, "attributes": tuple(stored["attributes"])}),
        int(meta.get("horizon", 0)),
        meta["store"],
        int(meta.get("removed_to", -1)),
        int(meta.get("numbered", -1)),
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
    renumbering = "".join(
        f"""
        UPDATE {table} SET number = -number - 1;
        UPDATE {table} SET number = (SELECT new FROM renumbered WHERE old = -{table}.number - 1);
        """
        for table in ("records", *side_tables(indexing))
    )
    connection.executescript(
        f"""
        BEGIN IMMEDIATE;
        CREATE TEMP TABLE renumbered AS
            SELECT number AS old, row_number() OVER (ORDER BY number) - 1 AS new FROM records;
        CREATE UNIQUE INDEX temp.renumbered_old ON renumbered (old);
        {renumbering}
        DROP TABLE renumbered;
        UPDATE meta SET value = '{identity}' WHERE name = 'store';
        DELETE FROM meta WHERE name IN ('removed_to', 'numbered');
        COMMIT;
        """
    )
    (count,) = connection.execute("SELECT count(*) FROM records").fetchone()
    return int(count), identity
