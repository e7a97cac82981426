"""Owns a collection's records on disk: one SQLite database, the only source of truth.

A write that has returned is committed and synced. Every write of a key takes a new row number. The row of a number
never changes, and numbers are not reused while the process lives: reading by number returns either exactly that
row or nothing. A row without attributes is a tombstone. Every row has a checksum over its contents, so that damage
that SQLite cannot see is found wherever the row is read (`shard.store_rows`)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.rows import Rows
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption, LookalikeError
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard import store_schema
from shard.database import Database, explained
from shard.kernel import RowIndex
from shard.staging import Applied, stage
from shard.store_reads import StoreReads
from shard.store_rows import COLUMNS, checked_fields

RENUMBER_ABOVE = 2**31


class Store(StoreReads):
    """One thread writes, any thread reads. Every method may raise Corruption. A write raises Overloaded if the
    disk is full, and then has changed nothing."""

    def __init__(self, path: Path) -> None:
        database = Database(path)
        try:
            with explained(path):
                super().__init__(database)
                self._open(database)
        except (sqlite3.Error, AttributeError, KeyError, TypeError, ValueError) as error:
            database.close()
            raise Corruption(f"{path} is damaged ({error}); restore the partition from a backup") from error
        except LookalikeError:
            database.close()
            raise

    def _open(self, database: Database) -> None:
        writer = database.writer
        self._meta = meta = store_schema.read_meta(writer)
        self.space, self.indexing, self.horizon = meta.space, meta.indexing, meta.horizon
        self.identity, self.removed_to, self.fields = meta.identity, meta.removed_to, meta.fields
        self.reserved_to = meta.reserved_to
        (last,) = writer.execute("SELECT max(number) FROM records").fetchone()
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
        """Closes the files. A later call opens them again."""
        self._database.close()

    @contextlib.contextmanager
    def writing(self, records: Sequence[VersionedRecord] | VersionedColumns, index: RowIndex) -> Iterator[Applied]:
        """Stages records in a transaction and yields what will change. Leaving the block commits and syncs; an
        exception in it rolls back. Of two records with the same key, the one with the higher version is kept.

        Args:
            records: The records.
            index: The numbers of all rows, by id.
        """
        with self._database.transaction():
            applied, fields, used = stage(
                self._database, self._meta, records, index, self._next_number, self.fields
            )
            yield applied
        self._next_number += used
        self.fields |= fields

    @contextlib.contextmanager
    def removing(self, numbers: Sequence[int]) -> Iterator[tuple[Rows, npt.NDArray[np.uint32]]]:
        """Stages the removal of rows, tombstones included, without leaving tombstones. Yields the removed rows and
        their numbers, uint32 (n,); leaving the block commits, as in `writing`."""
        with self._database.transaction():
            sql = f"SELECT {COLUMNS} FROM records WHERE number IN ({{}})"
            found = []
            for number, head, key, attributes in self._database.lookup(sql, numbers, to_write=True):
                fields = checked_fields(number, head, key, attributes, self.space.code_bytes)
                found.append((number, fields.id, fields.version, attributes is None))
            writer = self._database.writer
            for table in ("records", *store_schema.side_tables(self.indexing)):
                writer.executemany(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers])
            yield (
                Rows.of([(identifier, version, is_dead) for _, identifier, version, is_dead in found]),
                np.array([number for number, *_ in found], np.uint32),
            )
            removed_to = self._number_removals(numbers, all(is_dead for *_, is_dead in found))
            store_schema.put_meta(writer, {"removed_to": str(removed_to), "numbered": str(self._next_number - 1)})
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

    def set_reserved_to(self, version: int) -> None:
        """Records that keys may be reserved for versions up to this one. Durable when it returns."""
        with explained(self._database.path):
            store_schema.put_meta(self._database.writer, {"reserved_to": str(version)})
        self.reserved_to = version

    def set_horizon(self, version: int) -> None:
        """Records that tombstones below this version are discarded."""
        with explained(self._database.path):
            store_schema.put_meta(self._database.writer, {"horizon": str(version)})
        self.horizon = version
