"""Owns a collection's records on disk: one SQLite database, the only source of truth.

A returned write is committed and synced. Every write of a key takes a new row number; a number's content
never changes and numbers are not used twice while the process lives. So whoever holds a number reads
either exactly what it stood for, or nothing. A row without a code is a tombstone. Every row carries a checksum of
all that it says, so that damage which SQLite cannot see is found (`damaged_rows`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption, InvalidRequest, Overloaded
from lookalike.model.filters import Filter, Not
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord, answer_too_large, record_id, slot_of
from shard.digests import Rows
from shard.filter_sql import index_of, where

SCHEMA_VERSION = "3"
LOAD_ROWS = 65_536
# Of the rows last found, some 100 bytes each: a look-up in SQLite costs as much as comparing two thousand codes.
KEYS_REMEMBERED = 500_000
RENUMBER_ABOVE = 2**31
_STEPS_BETWEEN_LOOKS = 100_000
_LOOKUP_VALUES = 500
# From so many numbers on it is quicker to read all rows than to look each up.
_SCAN_FROM = 20_000
_MAPPED_BYTES = 0x7FFF0000  # the most that SQLite maps
# Apart from the records, so that what reads those does not read these.
_THUMBNAILS_SCHEMA = "CREATE TABLE thumbnails (number INTEGER PRIMARY KEY, picture BLOB NOT NULL);"
_FEATURES_SCHEMA = "CREATE TABLE features (number INTEGER PRIMARY KEY, vector BLOB NOT NULL);"
_SCHEMA = f"""
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
{_THUMBNAILS_SCHEMA}
"""
_TOMBSTONES = "CREATE INDEX IF NOT EXISTS tombstones ON records (number, id, version) WHERE code IS NULL"

Value = TypeVar("Value", str, int)
# Key, attributes and version of a row.
Described = tuple[str, str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What a write changed: numbers of live rows that are gone, and the live rows that came; and as digests see
    it, tombstones included, the rows that are gone and those that came."""

    deleted: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.uint32]
    ids: npt.NDArray[np.uint64]
    codes: Sequence[bytes]
    existed: Sequence[bool]
    superseded: Mapping[int, int]
    gone: Rows
    come: Rows


class Store:
    """One thread writes, any thread reads. Every method may raise Corruption; writes raise Overloaded
    when the disk is full, and then have changed nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._keys: dict[int, Described] = {}
        try:
            with _explained(path):
                self._writer = self._connect()
                self._upgrade()
                self.space, self.indexing, self.horizon = self._read_meta()
                last, newest = self._writer.execute("SELECT max(number), max(version) FROM records").fetchone()
                self.identity, self.removed_to, numbered = self._read_numbering()
                self.fields = frozenset(name for (name,) in self._writer.execute("SELECT name FROM fields"))
                if (last or 0) > RENUMBER_ABOVE:
                    last = numbered = self._renumber() - 1
        except (sqlite3.OperationalError, KeyError, ValueError, TypeError) as error:
            self.close()
            raise Corruption(f"{path} is damaged ({error}); restore the partition from a backup") from error
        self._next_number = max(-1 if last is None else last, numbered) + 1
        self.newest_version: int = newest or 0

    @staticmethod
    def create(path: Path, space: CodeSpace, indexing: Indexing) -> None:
        """Make an empty store. The folder must exist, the file must not."""
        with _explained(path), contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute(_TOMBSTONES)
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

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def load(self) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], Rows]]:
        """All live rows in number order, as (codes (n, bits/8), numbers (n,), rows) in portions."""
        with _explained(self._path):
            cursor = self._reader().execute(
                "SELECT number, id, version, code FROM records WHERE code IS NOT NULL ORDER BY number"
            )
            while rows := cursor.fetchmany(LOAD_ROWS):
                numbers, ids, versions, codes = zip(*rows, strict=True)
                packed = b"".join(codes)
                if len(packed) != len(rows) * self.space.code_bytes:
                    raise Corruption(f"{self._path}: a stored code has the wrong length; restore the partition")
                yield (
                    np.frombuffer(packed, np.uint8).reshape(len(rows), self.space.code_bytes),
                    np.array(numbers, np.uint32),
                    Rows(
                        np.array(ids, np.int64).view(np.uint64),
                        np.array(versions, np.uint64),
                        np.zeros(len(rows), np.bool_),
                    ),
                )

    def tombstones(self) -> tuple[npt.NDArray[np.uint32], Rows]:
        """Numbers of all tombstones, and the rows."""
        with _explained(self._path):
            found = self._reader().execute("SELECT number, id, version FROM records WHERE code IS NULL").fetchall()
        numbers, ids, versions = zip(*found, strict=True) if found else ((), (), ())
        rows = Rows(
            np.array(ids, np.int64).view(np.uint64), np.array(versions, np.uint64), np.ones(len(found), np.bool_)
        )
        return np.array(numbers, np.uint32), rows

    def versions(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """The versions of rows that exist, in the order of their numbers."""
        if len(numbers) < _SCAN_FROM:
            sql = "SELECT number, version FROM records WHERE number IN ({})"
            found = dict(self._lookup(self._reader(), sql, numbers.tolist()))
            return np.array([found[number] for number in numbers.tolist()], np.uint64)
        with _explained(self._path):
            cursor = self._reader().execute("SELECT number, version FROM records ORDER BY number")
            rows = np.fromiter((value for row in cursor for value in row), np.int64).reshape(-1, 2)
        versions: npt.NDArray[np.uint64] = rows[np.searchsorted(rows[:, 0], numbers), 1].astype(np.uint64)
        return versions

    def rows(self, numbers: Sequence[int], max_bytes: int) -> tuple[list[VersionedRecord], int]:
        """The records, tombstones included, of those of the first numbers that exist; of how many numbers, for
        once they take `max_bytes` the rest waits."""
        sql = self._select("number, key, code, attributes, version", "number IN ({})")
        records: list[VersionedRecord] = []
        size = 0
        for start in range(0, len(numbers), _LOOKUP_VALUES):
            part = numbers[start : start + _LOOKUP_VALUES]
            for _, *fields in self._lookup(self._reader(), sql, part):
                record = _record(*fields)
                records.append(record)
                size += record.size
            if size > max_bytes:
                return records, start + len(part)
        return records, len(numbers)

    def last_number(self) -> int:
        """The highest number that was given, as far as there is a trace of it; -1 when there is none."""
        with _explained(self._path):
            (last,) = self._reader().execute("SELECT max(number) FROM records").fetchone()
            numbered = self._reader().execute("SELECT value FROM meta WHERE name = 'numbered'").fetchone()
        return max(-1 if last is None else int(last), int(numbered[0]) if numbered else -1)

    def rows_after(
        self, after: npt.NDArray[np.int64], whole: SlotSet, max_bytes: int
    ) -> Iterator[list[VersionedRecord]]:
        """In portions of about `max_bytes` the records, tombstones included, whose number is above that of their
        slot in `after` (SLOTS,); of the slots that are dumped whole no tombstones."""
        sql = self._select("number, id, key, code, attributes, version", "number > ? ORDER BY number")
        limits, lives_only = after.tolist(), whole.tolist()
        portion: list[VersionedRecord] = []
        size = 0
        with _explained(self._path):
            found = self._reader().execute(sql, (min(limits),))
            for number, identifier, *fields in found:
                slot = slot_of(identifier % 2**64)
                record = _record(*fields)
                if number <= limits[slot] or (record.code is None and lives_only[slot]):
                    continue
                portion.append(record)
                size += record.size
                if size >= max_bytes:
                    yield portion
                    portion, size = [], 0
        if portion:
            yield portion

    def close_reader(self) -> None:
        """Close what this thread reads with, when it will read no more."""
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is not None:
            self._local.reader = None
            self._connections.remove(reader)
            reader.close()

    def damaged_rows(self, first: int, count: int) -> tuple[int, int | None]:
        """Check the checksums of up to `count` rows from number `first` on. Returns how many do not say what was
        written, and the number to go on from: None at the end."""
        sql = self._select(
            "number, key, id, version, code, attributes, checksum", "number >= ? ORDER BY number LIMIT ?"
        )
        with _explained(self._path):
            found = self._reader().execute(sql, (first, count)).fetchall()
        damaged = 0
        for _, key, identifier, version, code, attributes, checksum, vector, picture in found:
            try:
                sound = identifier == _signed(record_id(key)) and checksum in (
                    None,
                    _checksum(key, version, code, attributes, vector or b"", picture or b""),
                )
            except (AttributeError, TypeError, ValueError):
                sound = False
            damaged += not sound
        return damaged, found[-1][0] + 1 if len(found) == count else None

    def check_structure(self) -> None:
        """Have SQLite check its pages and indexes. Raises Corruption."""
        with _explained(self._path):
            (answer,) = self._reader().execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise Corruption(f"{self._path} is damaged ({answer})")

    @contextlib.contextmanager
    def removing(self, numbers: Sequence[int]) -> Iterator[Rows]:
        """Remove rows for good, tombstones included, as `writing` writes them; yields what goes."""
        with _explained(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                sql = "SELECT id, version, code IS NULL FROM records WHERE number IN ({})"
                found = [(i % 2**64, version, bool(dead)) for i, version, dead in self._lookup(
                    self._writer, sql, numbers)]  # fmt: skip
                for table in ("records", *self._beside):
                    self._writer.executemany(
                        f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers]
                    )
                yield Rows.of(found)
                # Dead rows that are gone were in every dump that reached beyond their numbers; live ones are
                # another shard's now, and no dump until now can be gone on with: a number is left out to tell.
                if not all(dead for _, _, dead in found):
                    self._next_number += 1
                    removed_to = self._next_number - 1
                else:
                    removed_to = max(self.removed_to, max(numbers, default=-1))
                self._writer.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                    [("removed_to", str(removed_to)), ("numbered", str(self._next_number - 1))],
                )
                self._writer.execute("COMMIT")
                self.removed_to = removed_to
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def set_horizon(self, version: int) -> None:
        """Remember that tombstones below this version are forgotten."""
        with _explained(self._path):
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('horizon', ?)", (str(version),))
        self.horizon = version

    @contextlib.contextmanager
    def writing(self, records: Sequence[VersionedRecord]) -> Iterator[Applied]:
        """Stage the records in a transaction and yield what will change; leaving the block commits and
        syncs, an exception in it rolls back. Of two records with one key the higher version stays."""
        with _explained(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                applied, fields, taken = self._stage(records)
                yield applied
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        self._next_number += taken
        self.fields |= fields
        self.newest_version = max(self.newest_version, *(record.version for record in records))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Reads of this thread inside the block see one state of the store: that of the block's start."""
        reader = self._reader()
        with _explained(self._path):
            reader.execute("BEGIN")
            try:
                reader.execute("SELECT 1 FROM meta").fetchone()
                yield
            finally:
                reader.execute("COMMIT")

    def fetch(
        self,
        keys: Sequence[str],
        max_bytes: int,
        include_features: bool = False,
        include_deleted: bool = False,
        include_thumbnails: bool = False,
    ) -> dict[str, VersionedRecord]:
        """The live records among `keys`, or tombstones too. Raises InvalidRequest when they take over
        `max_bytes`."""
        lives = "" if include_deleted else " AND code IS NOT NULL"
        columns, condition = "key, code, attributes, version", f"key IN ({{}}){lives}"
        sql = self._select(columns, condition, include_features, include_thumbnails)
        found: dict[str, VersionedRecord] = {}
        size = 0
        for fields in self._lookup(self._reader(), sql, keys):
            record = _record(*fields)
            found[record.key] = record
            size += record.size
            if size > max_bytes:
                raise InvalidRequest(f"keys: the records take over {max_bytes:,} bytes; ask for fewer at once")
        return found

    def describe(self, numbers: Sequence[int], include_attributes: bool, max_bytes: int) -> dict[int, Described]:
        """Key, attributes ("" unless wanted) and version of the rows among `numbers` that live, or of which these
        are remembered: they stay true of the number. Raises InvalidRequest when they take over `max_bytes`."""
        attributes = "attributes" if include_attributes else "''"
        sql = f"SELECT number, key, {attributes}, version FROM records WHERE number IN ({{}}) AND code IS NOT NULL"
        described: dict[int, Described] = {}
        if not include_attributes:
            known = ((number, self._keys.get(number)) for number in numbers)
            described = {number: row for number, row in known if row is not None}
            numbers = [number for number in numbers if number not in described]
        size = sum(len(key) for key, _, _ in described.values())
        for number, key, text, version in self._lookup(self._reader(), sql, numbers):
            described[number] = (key, text, version)
            self._keys[number] = (key, "", version)
            size += len(key) + len(text)
            if size > max_bytes:
                break
        if len(self._keys) > KEYS_REMEMBERED:
            for number in list(self._keys)[: KEYS_REMEMBERED // 4]:
                self._keys.pop(number, None)
        if size > max_bytes:
            raise answer_too_large()
        return described

    def features(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The features, as they are kept, of the rows among `numbers` that live."""
        sql = "SELECT number, vector FROM features WHERE number IN ({})"
        return dict(self._lookup(self._reader(), sql, numbers))

    def matching(
        self, condition: Filter, first: int, end: int, should_stop: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.bool_] | None:
        """For the row numbers first..end a mask: True for live rows that meet the filter; what it says of other
        rows means nothing. None once `should_stop`."""
        if isinstance(condition, Not):
            others = self.matching(condition.filter, first, end, should_stop)
            return None if others is None else ~others
        sql, parameters = where(condition, self.indexing.attributes)
        reader = self._reader()
        reader.set_progress_handler(should_stop, _STEPS_BETWEEN_LOOKS)
        try:
            with _explained(self._path):
                cursor = reader.execute(
                    f"SELECT number FROM records WHERE number >= ? AND number < ? AND {sql}",
                    [first, end, *parameters],
                )
                numbers = np.fromiter((number for (number,) in cursor), np.int64)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
        finally:
            reader.set_progress_handler(None, 0)
        mask = np.zeros(end - first, np.bool_)
        mask[numbers - first] = True
        return mask

    def _upgrade(self) -> None:
        """Bring a store of an earlier release up to date. Schema 1 had no checksums, and its rows stay without;
        schema 2 had no thumbnails."""
        (schema,) = self._writer.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() or ("",)
        if schema == "1":
            self._writer.executescript(
                f"""
                BEGIN IMMEDIATE;
                ALTER TABLE records ADD COLUMN checksum INTEGER;
                {_TOMBSTONES};
                UPDATE meta SET value = '2' WHERE name = 'schema';
                COMMIT;
                """
            )
        if schema in ("1", "2"):
            self._writer.executescript(
                f"""
                BEGIN IMMEDIATE;
                {_THUMBNAILS_SCHEMA}
                UPDATE meta SET value = '3' WHERE name = 'schema';
                COMMIT;
                """
            )

    def _read_meta(self) -> tuple[CodeSpace, Indexing, int]:
        meta = dict(self._writer.execute("SELECT name, value FROM meta"))
        if meta["schema"] != SCHEMA_VERSION:
            raise ValueError(f"its schema is {meta['schema']!r}, this release reads {SCHEMA_VERSION!r}")
        stored = json.loads(meta["indexing"])
        indexing = Indexing(**{**stored, "attributes": tuple(stored["attributes"])})
        return CodeSpace(**json.loads(meta["code_space"])), indexing, int(meta.get("horizon", 0))

    def _read_numbering(self) -> tuple[str, int, int]:
        """The store's name among all stores, up to which number rows were removed without a trace, and up to which
        numbers were given when that was last done."""
        self._writer.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (uuid.uuid4().hex,))
        meta = dict(self._writer.execute("SELECT name, value FROM meta"))
        return meta["store"], int(meta.get("removed_to", -1)), int(meta.get("numbered", -1))

    def _renumber(self) -> int:
        """Give the rows new numbers from 0 in their order. Returns how many there are. Numbers have 32 bits
        in the matrix and every write takes one, so a store that lives long would run out of them. It is another
        store from then on, for its numbers mean other rows."""
        self.identity, self.removed_to = uuid.uuid4().hex, -1
        renumbering = "".join(
            f"""
            UPDATE {table} SET number = -number - 1;
            UPDATE {table} SET number = (SELECT new FROM renumbered WHERE old = -{table}.number - 1);
            """
            for table in ("records", *self._beside)
        )
        self._writer.executescript(
            f"""
            BEGIN IMMEDIATE;
            CREATE TEMP TABLE renumbered AS
                SELECT number AS old, row_number() OVER (ORDER BY number) - 1 AS new FROM records;
            CREATE UNIQUE INDEX temp.renumbered_old ON renumbered (old);
            {renumbering}
            DROP TABLE renumbered;
            UPDATE meta SET value = '{self.identity}' WHERE name = 'store';
            DELETE FROM meta WHERE name IN ('removed_to', 'numbered');
            COMMIT;
            """
        )
        (count,) = self._writer.execute("SELECT count(*) FROM records").fetchone()
        return int(count)

    def _stage(self, records: Sequence[VersionedRecord]) -> tuple[Applied, frozenset[str], int]:
        sql = "SELECT key, number, version, code IS NOT NULL FROM records WHERE key IN ({})"
        keys = [record.key for record in records]
        stored = {key: rest for key, *rest in self._lookup(self._writer, sql, keys)}
        existed: list[bool] = []
        superseded: dict[int, int] = {}
        deleted: list[int] = []
        gone: list[tuple[int, int, bool]] = []
        rows: dict[str, tuple[int, VersionedRecord]] = {}
        taken = 0
        for index, record in enumerate(records):
            number, version, live = stored.get(record.key, (0, -1, 0))
            existed.append(bool(live))
            if version >= record.version:
                if version > record.version:
                    superseded[index] = version
                continue
            if version >= 0 and record.key not in rows:
                gone.append((record_id(record.key), version, not live))
                if live:
                    deleted.append(number)
            number = self._next_number + taken
            taken += 1
            rows[record.key] = (number, record)
            stored[record.key] = [number, record.version, record.code is not None]
        self._writer.executemany(
            "INSERT OR REPLACE INTO records (number, key, id, version, code, attributes, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (number, record.key, _signed(record_id(record.key)), record.version, record.code,
                 None if record.code is None else record.attributes, _checksum_of(record))
                for number, record in rows.values()
            ],
        )  # fmt: skip
        for table in self._beside:
            self._writer.executemany(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in deleted])
        self._writer.executemany(
            "INSERT INTO thumbnails VALUES (?, ?)",
            [(number, record.thumbnail) for number, record in rows.values() if record.thumbnail],
        )
        if self.indexing.keeps_features:
            self._writer.executemany(
                "INSERT INTO features VALUES (?, ?)",
                [(number, record.features) for number, record in rows.values() if record.code is not None],
            )
        fields = _new_fields((record for _, record in rows.values()), self.fields)
        self._writer.executemany("INSERT OR IGNORE INTO fields VALUES (?)", [(name,) for name in fields])
        live_rows = sorted((number, record) for number, record in rows.values() if record.code is not None)
        applied = Applied(
            np.array(deleted, np.uint32),
            np.array([number for number, _ in live_rows], np.uint32),
            np.array([record_id(record.key) for _, record in live_rows], np.uint64),
            [record.code for _, record in live_rows if record.code is not None],
            existed,
            superseded,
            Rows.of(gone),
            Rows.of([(record_id(r.key), r.version, r.code is None) for _, r in rows.values()]),
        )
        return applied, fields, taken

    @property
    def _beside(self) -> tuple[str, ...]:
        """The tables beside that of the records, with parts of a record that are read on their own."""
        return ("thumbnails", "features") if self.indexing.keeps_features else ("thumbnails",)

    def _select(
        self, columns: str, where: str, include_features: bool = True, include_thumbnails: bool = True
    ) -> str:
        """SQL for records: these columns, and last the features and the thumbnail, or NULL where there is none or
        it is not wanted."""
        wanted = {"vector": "features"} if self.indexing.keeps_features and include_features else {}
        if include_thumbnails:
            wanted["picture"] = "thumbnails"
        parts = ", ".join(name if name in wanted else "NULL" for name in ("vector", "picture"))
        joins = " ".join(f"LEFT JOIN {table} USING (number)" for table in wanted.values())
        return f"SELECT {columns}, {parts} FROM records {joins} WHERE {where}"

    def _lookup(
        self, connection: sqlite3.Connection, sql: str, values: Sequence[Value]
    ) -> Iterator[tuple[Any, ...]]:
        with _explained(self._path):
            for start in range(0, len(values), _LOOKUP_VALUES):
                part = values[start : start + _LOOKUP_VALUES]
                yield from connection.execute(sql.format(", ".join("?" * len(part))), part)

    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
            # Keys are looked up all over the file; mapped, that is no system call for each.
            reader.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        return reader

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        self._connections.append(connection)
        return connection


def _signed(identifier: int) -> int:
    return identifier - 2**64 if identifier >= 2**63 else identifier


def _record(
    key: str, code: bytes | None, attributes: str | None, version: int, vector: bytes | None, picture: bytes | None
) -> VersionedRecord:
    return VersionedRecord(key, code, attributes or "", version, vector or b"", picture or b"")


def _checksum_of(record: VersionedRecord) -> int:
    attributes = None if record.code is None else record.attributes
    return _checksum(record.key, record.version, record.code, attributes, record.features, record.thumbnail)


def _checksum(
    key: str, version: int, code: bytes | None, attributes: str | None, features: bytes, thumbnail: bytes
) -> int:
    """CRC-32 over all that a row says."""
    text = f"{version} {'' if attributes is None else attributes} {key}".encode()
    return zlib.crc32(thumbnail, zlib.crc32(features, zlib.crc32(code or b"", zlib.crc32(text))))


def _new_fields(records: Iterator[VersionedRecord], known: frozenset[str]) -> frozenset[str]:
    """Names of top-level attributes that no record has had before."""
    texts = {record.attributes for record in records if record.code is not None and record.attributes}
    return frozenset(name for text in texts for name in json.loads(text)) - known


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Give SQLite's failures the class that a client can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise Overloaded(
                f"disk full at {path.parent}; nothing was written; free space and repeat",
                retry_after_ms=30_000,
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Corruption(f"{path} is damaged ({error}); restore the partition from a backup") from error
        raise
