"""Owns reading a store: by row number for scans, repair, dumps and scrubbing, and by key."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.listed import Listed
from lookalike.cluster.rows import Rows
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption, InvalidRequest
from lookalike.model.filters import Filter, Not
from lookalike.model.indexing import Indexing
from lookalike.model.records import MAX_KEY_BYTES, VersionedRecord, answer_too_large, slot_of
from lookalike.model.ttl import Expired
from shard.database import Database, explained
from shard.filter_sql import Parameters, column_of, expired_where, where
from shard.kernel import ScanStopped
from shard.store_columns import read_columns
from shard.store_rows import COLUMNS, Block, RecordReader, checked_fields, fields_of, require_sound

READ_ROWS = 500
# Recently found rows to cache, some 100 bytes each: a lookup in SQLite costs as much as comparing 2,000 codes.
KEYS_REMEMBERED = 500_000
KEYS_AT_LEAST = 4_096
# Rows that are read as columns: a few at first, then as many as fit into these bytes.
_MIN_BLOCK_ROWS = 64
_BLOCK_BYTES = 4 * 1024 * 1024
_STEPS_BETWEEN_STOP_CHECKS = 100_000
# From this many numbers on, reading all rows is faster than looking up each number.
_SCAN_FROM = 20_000

# Key, attributes and version of a row.
Described = tuple[str, str, int]


class StoreReads:
    """The reads of a store. Any thread may call them; each may raise Corruption."""

    space: CodeSpace
    indexing: Indexing

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[int, Described] = {}
        self._keys_limit = KEYS_REMEMBERED

    def load(self) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], Rows]]:
        """Yields all live rows in number order, in batches of codes (n, bits/8), numbers (n,) and rows. Each
        row is checked."""
        with self._database.streaming() as reader:
            for block in self._blocks(reader, "attributes IS NOT NULL", self.space.code_bytes):
                yield block.codes, *_rows_of(block, is_dead=False)

    def tombstones(self) -> tuple[npt.NDArray[np.uint32], Rows]:
        """Returns the numbers of all tombstones, and their rows."""
        with explained(self._database.path):
            found = list(self._blocks(self._database.reader, "attributes IS NULL", 0))
        blocks = [_rows_of(block, is_dead=True) for block in found]
        numbers = [np.zeros(0, np.uint32), *(numbers for numbers, _ in blocks)]
        return np.concatenate(numbers), Rows.concat([rows for _, rows in blocks])

    def _blocks(self, reader: sqlite3.Connection, condition: str, width: int) -> Iterator[Block]:
        """Yields all rows that meet an SQL condition, in number order.

        SQLite joins the values of many rows, because creating a Python object for each value would take three
        times as long. Raises Corruption if a row differs from what was written, and names it."""
        sql = f"""
            SELECT count(*), max(number), sum(number), group_concat(hex(head), ''),
                CAST(group_concat(key || char(10) || coalesce(attributes, ''), '') AS BLOB)
            FROM (SELECT {COLUMNS} FROM records WHERE number > ? AND {condition} ORDER BY number LIMIT ?)
        """
        last, limit = -1, _MIN_BLOCK_ROWS
        while True:
            count, end, total, heads, texts = reader.execute(sql, (last, limit)).fetchone()
            if not count:
                return
            block = Block.checked(bytes.fromhex(heads), width, texts, total)
            if block is None or len(block.fields) != count:
                rows = f"SELECT {COLUMNS} FROM records WHERE number > ? AND {condition} ORDER BY number LIMIT ?"
                for number, head, key, attributes in reader.execute(rows, (last, limit)):
                    checked_fields(number, head, key, attributes, self.space.code_bytes)
                raise Corruption(f"rows {last + 1} to {end} are damaged; restore the partition from a backup")
            yield block
            last = end
            row_bytes = (len(heads) // 2 + len(texts)) // count + 1
            limit = max(_MIN_BLOCK_ROWS, min(2 * limit, _BLOCK_BYTES // row_bytes))

    def versions(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """Returns the versions of live rows that exist, in the order of their numbers."""
        if len(numbers) < _SCAN_FROM:
            sql = "SELECT number, head FROM records WHERE number IN ({})"
            found = {
                number: fields_of(head).version for number, head in self._database.lookup(sql, numbers.tolist())
            }
            return np.array([found[number] for number in numbers.tolist()], np.uint64)
        versions: npt.NDArray[np.uint64] = np.zeros(len(numbers), np.uint64)
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        # This thread's connection, which may be reading an earlier state.
        with explained(self._database.path):
            for block in self._blocks(self._database.reader, "attributes IS NOT NULL", self.space.code_bytes):
                loaded: npt.NDArray[np.uint32] = block.fields["number"]
                first, end = np.searchsorted(ordered, [loaded[0], loaded[-1] + 1]).tolist()
                places = np.searchsorted(loaded, ordered[first:end])
                assert np.array_equal(loaded[places], ordered[first:end]), "a row of the state is missing"
                versions[order[first:end]] = block.fields["version"][places]
        return versions

    def rows(
        self,
        numbers: Sequence[int],
        max_bytes: int,
        include_features: bool = True,
        include_thumbnails: bool = True,
    ) -> tuple[list[VersionedRecord], int]:
        """Reads records, tombstones included, until they take `max_bytes`.

        Returns:
            The records of the first numbers that fit, without those that no longer exist, and the count of these
            numbers.
        """
        reader = self._records(include_features, include_thumbnails)
        records: list[VersionedRecord] = []
        size = 0
        for start in range(0, len(numbers), READ_ROWS):
            part = numbers[start : start + READ_ROWS]
            for row in self._database.lookup(reader.sql("number IN ({})"), part):
                record = reader.record(*row)
                records.append(record)
                size += record.size
            if size > max_bytes:
                return records, start + len(part)
        return records, len(numbers)

    def listed(
        self,
        numbers: npt.NDArray[np.uint32],
        include_codes: bool,
        include_attributes: bool,
        include_thumbnails: bool,
    ) -> tuple[Listed, int]:
        """Reads live rows as columns; see `shard.store_columns`."""
        with explained(self._database.path):
            return read_columns(
                self._database,
                numbers,
                self.space.code_bytes,
                include_codes,
                include_attributes,
                include_thumbnails,
            )

    def _records(self, include_features: bool = True, include_thumbnails: bool = True) -> RecordReader:
        return RecordReader(self.indexing, self.space.code_bytes, include_features, include_thumbnails)

    def last_number(self) -> int:
        """Returns the highest row number that is known to have been used; -1 if there is none."""
        with explained(self._database.path):
            reader = self._database.reader
            (last,) = reader.execute("SELECT max(number) FROM records").fetchone()
            numbered = reader.execute("SELECT value FROM meta WHERE name = 'numbered'").fetchone()
        return max(-1 if last is None else int(last), int(numbered[0]) if numbered else -1)

    def rows_after(
        self, after: npt.NDArray[np.int64], whole: SlotSet, max_bytes: int
    ) -> Iterator[list[VersionedRecord]]:
        """Yields the records whose row numbers are above their slot's limit, in batches of about `max_bytes`.

        Args:
            after: int64 (SLOTS,), the limit of each slot.
            whole: The slots that are read whole, so their tombstones are left out.
            max_bytes: The size of a batch.
        """
        reader = self._records()
        sql = reader.sql("number > ? ORDER BY number")
        limits, lives_only = after.tolist(), whole.tolist()
        batch: list[VersionedRecord] = []
        size = 0
        with explained(self._database.path):
            found = self._database.reader.execute(sql, (min(limits),))
            for number, head, *values in found:
                record = reader.record(number, head, *values)
                slot = slot_of(fields_of(head).id)
                if number <= limits[slot] or (record.code is None and lives_only[slot]):
                    continue
                batch.append(record)
                size += record.size
                if size >= max_bytes:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def close_reader(self) -> None:
        """Closes this thread's connection, once the thread has finished reading."""
        self._database.close_reader()

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, this thread's reads see the store as it was at the start of the block."""
        return self._database.snapshot()

    def damaged_rows(self, first: int, count: int) -> tuple[int, int | None]:
        """Checks the checksums of up to `count` rows from number `first` on.

        Returns:
            How many rows differ from what was written, and the row number to continue from; None at the end.
        """
        reader = self._records()
        with explained(self._database.path):
            found = self._database.reader.execute(
                reader.sql("number >= ? ORDER BY number LIMIT ?"), (first, count)
            ).fetchall()
        damaged = 0
        for row in found:
            try:
                reader.record(*row)
            except Corruption:
                damaged += 1
        return damaged, found[-1][0] + 1 if len(found) == count else None

    def check_structure(self) -> None:
        """Has SQLite check its pages, and that indexes agree with the rows. Raises Corruption."""
        with self._database.streaming() as reader:
            (answer,) = reader.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise Corruption(f"{self._database.path} is damaged ({answer})")

    def fetch(
        self,
        keys: Sequence[str],
        numbers: Sequence[int],
        max_bytes: int,
        include_features: bool = False,
        include_deleted: bool = False,
        include_thumbnails: bool = False,
    ) -> tuple[dict[str, VersionedRecord], bool]:
        """Reads the records of keys.

        Args:
            keys: The keys.
            numbers: The rows that may have these keys (`RowIndex.find`), each once.
            max_bytes: The most that the records may take.
            include_features: Whether to read features.
            include_deleted: Whether to return tombstones too.
            include_thumbnails: Whether to read thumbnails.

        Returns:
            The live records, by key, and whether all these rows exist.

        Raises:
            InvalidRequest: If the records take over `max_bytes`.
        """
        reader = self._records(include_features, include_thumbnails)
        wanted = set(keys)
        found: dict[str, VersionedRecord] = {}
        size = count = 0
        for row in self._database.lookup(reader.sql("number IN ({})"), numbers):
            count += 1
            record = reader.record(*row)
            if record.key not in wanted or (record.code is None and not include_deleted):
                continue
            found[record.key] = record
            size += record.size
            if size > max_bytes:
                raise InvalidRequest(f"keys: the records take over {max_bytes:,} bytes; request fewer at once")
        return found, count == len(numbers)

    def describe(self, numbers: Sequence[int], include_attributes: bool, max_bytes: int) -> dict[int, Described]:
        """Returns key, attributes ("" unless included) and version of rows, by number.

        Rows that are neither live nor cached are left out; a cached row stays valid, because the number of a
        changed row is not used again.

        Raises:
            InvalidRequest: If the rows take over `max_bytes`.
        """
        sql = f"SELECT {COLUMNS} FROM records WHERE number IN ({{}}) AND attributes IS NOT NULL"
        described: dict[int, Described] = {}
        if not include_attributes:
            known = dict(zip(numbers, map(self._keys.get, numbers), strict=True))
            described = {number: row for number, row in known.items() if row is not None}
            if len(described) == len(known) <= max_bytes // MAX_KEY_BYTES:
                return described
            numbers = [number for number in numbers if number not in described]
        size = sum(len(key) for key, _, _ in described.values())
        for number, head, key, attributes in self._database.lookup(sql, numbers) if numbers else ():
            version = checked_fields(number, head, key, attributes, self.space.code_bytes).version
            text = attributes if include_attributes else ""
            described[number] = (key, text, version)
            self._keys[number] = (key, "", version)
            size += len(key) + len(text)
            if size > max_bytes:
                break
        if len(self._keys) > self._keys_limit:
            for number in list(self._keys)[: len(self._keys) - self._keys_limit * 3 // 4]:
                self._keys.pop(number, None)
        if size > max_bytes:
            raise answer_too_large()
        return described

    def limit_keys(self, live: int) -> None:
        """Limits how many keys are remembered to twice the number of live rows: every change of a record makes a
        new row, and the keys of the old ones would pile up."""
        self._keys_limit = min(KEYS_REMEMBERED, max(KEYS_AT_LEAST, 2 * live))

    def features(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Returns the stored features of the live rows among `numbers`, by number."""
        sql = f"SELECT {COLUMNS}, vector FROM records JOIN features USING (number) WHERE number IN ({{}})"
        found = {}
        for number, head, key, attributes, vector in self._database.lookup(sql, numbers):
            fields = checked_fields(number, head, key, attributes, self.space.code_bytes)
            require_sound(fields.features, vector, number, key)
            found[number] = vector
        return found

    def values(
        self, field: str, should_stop: Callable[[], bool], first: int = 0
    ) -> Iterator[tuple[int, str, Any]]:
        """Yields the number, the JSON type and the value of a field of each live row that has it, from row number
        `first` on. The value of an array is its JSON text.

        Raises:
            ScanStopped: If `should_stop` returned True.
        """
        kind, value, parameters = column_of(field, self.indexing.attributes)
        reader = self._database.reader
        reader.set_progress_handler(should_stop, _STEPS_BETWEEN_STOP_CHECKS)
        try:
            with explained(self._database.path):
                yield from reader.execute(
                    f"SELECT number, {kind}, {value} FROM records"
                    f" WHERE attributes IS NOT NULL AND {kind} IS NOT NULL AND number >= {first:d}",
                    parameters,
                )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise ScanStopped from None
            raise
        finally:
            reader.set_progress_handler(None, 0)

    def matching(
        self, condition: Filter, first: int, end: int, should_stop: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.bool_] | None:
        """Returns a mask for the row numbers first..end: for live rows, whether they meet the filter; undefined
        for others. None if `should_stop` returned True."""
        if isinstance(condition, Not):
            others = self.matching(condition.filter, first, end, should_stop)
            return None if others is None else ~others
        sql, parameters = where(condition, self.indexing.attributes)
        numbers = self._numbers(f"number >= ? AND number < ? AND {sql}", [first, end, *parameters], should_stop)
        if numbers is None:
            return None
        mask = np.zeros(end - first, np.bool_)
        mask[numbers - first] = True
        return mask

    def expired(self, expired: Expired, should_stop: Callable[[], bool]) -> npt.NDArray[np.int64]:
        """Returns the numbers of the live rows that have expired by an attribute. Raises ScanStopped if
        `should_stop` returned True."""
        sql, parameters = expired_where(expired, self.indexing.attributes)
        numbers = self._numbers(sql, parameters, should_stop)
        if numbers is None:
            raise ScanStopped
        return numbers

    def live_versions(self) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
        """Yields the numbers and versions of all live rows, as this thread sees the store."""
        with explained(self._database.path):
            for block in self._blocks(self._database.reader, "attributes IS NOT NULL", self.space.code_bytes):
                yield block.fields["number"].copy(), block.fields["version"].copy()

    def _numbers(
        self, sql: str, parameters: Parameters, should_stop: Callable[[], bool]
    ) -> npt.NDArray[np.int64] | None:
        """The numbers of the rows that meet an SQL condition; None if `should_stop` returned True."""
        reader = self._database.reader
        reader.set_progress_handler(should_stop, _STEPS_BETWEEN_STOP_CHECKS)
        try:
            with explained(self._database.path):
                cursor = reader.execute(f"SELECT number FROM records WHERE {sql}", parameters)
                return np.fromiter((number for (number,) in cursor), np.int64)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
        finally:
            reader.set_progress_handler(None, 0)


def _rows_of(block: Block, is_dead: bool) -> tuple[npt.NDArray[np.uint32], Rows]:
    """The numbers and the rows of a block."""
    fields = block.fields
    rows = Rows(fields["id"].copy(), fields["version"].copy(), np.full(len(fields), is_dead))
    return fields["number"].copy(), rows
