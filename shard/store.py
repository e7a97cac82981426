"""Owns a collection's records on disk: one SQLite database, the only source of truth.

A write that has returned is committed and synced. Every write of a key takes a new row number. The row of a number
never changes, and numbers are not reused while the process lives: reading by number returns either exactly that
row or nothing. A row without a code is a tombstone. Every row has a checksum over its contents, so that damage
that SQLite cannot see is found (`damaged_rows`)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from lookalike.cluster.rows import Rows
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard import store_schema
from shard.database import Database, explained
from shard.staging import Applied, stage
from shard.store_reads import StoreReads

RENUMBER_ABOVE = 2**31


class Store(StoreReads):
    """One thread writes, any thread reads. Every method may raise Corruption. A write raises Overloaded if the
    disk is full, and then has changed nothing."""

    def __init__(self, path: Path) -> None:
        database: Database | None = None
        try:
            with explained(path):
                database = Database(path)
                super().__init__(database)
                self._open(database)
        except (sqlite3.OperationalError, KeyError, ValueError, TypeError) as error:
            if database is not None:
                database.close()
            raise Corruption(f"{path} is damaged ({error}); restore the partition from a backup") from error

    def _open(self, database: Database) -> None:
        writer = database.writer
        meta = store_schema.read_meta(writer)
        self.space, self.indexing, self.horizon = meta.space, meta.indexing, meta.horizon
        self.identity, self.removed_to = meta.identity, meta.removed_to
        last, newest = writer.execute("SELECT max(number), max(version) FROM records").fetchone()
        self.fields = frozenset(name for (name,) in writer.execute("SELECT name FROM fields"))
        self.newest_version: int = newest or 0
        last_used = max(-1 if last is None else last, meta.numbered)
        if (last or 0) > RENUMBER_ABOVE:
            count, self.identity = store_schema.renumber(writer, self.indexing)
            self.removed_to, last_used = -1, count - 1
        self._next_number = last_used + 1

    @staticmethod
    def create(path: Path, space: CodeSpace, indexing: Indexing) -> None:
        """Creates an empty store. The folder must exist, the file must not."""
        store_schema.create(path, space, indexing)

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def writing(self, records: Sequence[VersionedRecord]) -> Iterator[Applied]:
        """Stages records in a transaction and yields what will change. Leaving the block commits and syncs; an
        exception in it rolls back. Of two records with the same key, the one with the higher version is kept."""
        with self._database.transaction():
            applied, fields, used = stage(self._database, self.indexing, records, self._next_number, self.fields)
            yield applied
        self._next_number += used
        self.fields |= fields
        self.newest_version = max(self.newest_version, *(record.version for record in records))

    @contextlib.contextmanager
    def removing(self, numbers: Sequence[int]) -> Iterator[Rows]:
        """Stages the removal of rows, tombstones included, without leaving tombstones. Yields the removed rows;
        leaving the block commits, as in `writing`."""
        with self._database.transaction():
            sql = "SELECT id, version, code IS NULL FROM records WHERE number IN ({})"
            found = [
                (identifier % 2**64, version, bool(is_dead))
                for identifier, version, is_dead in self._database.lookup(sql, numbers, to_write=True)
            ]
            writer = self._database.writer
            for table in ("records", *store_schema.side_tables(self.indexing)):
                writer.executemany(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers])
            yield Rows.of(found)
            removed_to = self._number_removals(numbers, all(is_dead for _, _, is_dead in found))
            writer.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [("removed_to", str(removed_to)), ("numbered", str(self._next_number - 1))],
            )
        self.removed_to = removed_to

    def _number_removals(self, numbers: Sequence[int], all_dead: bool) -> int:
        """The number up to which rows were removed without a tombstone.

        Removed tombstones were in every dump that reached beyond their numbers. Removed live rows now belong to
        another shard, so no earlier dump can be continued; a skipped number marks that.
        """
        if all_dead:
            return max(self.removed_to, max(numbers, default=-1))
        self._next_number += 1
        return self._next_number - 1

    def set_horizon(self, version: int) -> None:
        """Records that tombstones below this version are discarded."""
        with explained(self._database.path):
            self._database.writer.execute("INSERT OR REPLACE INTO meta VALUES ('horizon', ?)", (str(version),))
        self.horizon = version
