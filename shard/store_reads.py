"""Owns reading a store: by row number for scans, repair, dumps and scrubbing, and by key."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import Rows
from lookalike.cluster.slots import SlotSet
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Corruption, InvalidRequest
from lookalike.model.filters import Filter, Not
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord, answer_too_large, record_id, slot_of
from shard.database import Database, explained
from shard.filter_sql import where
from shard.store_rows import checksum, record_of, select_records, signed

LOAD_ROWS = 65_536
READ_ROWS = 500
# Recently found rows to cache, some 100 bytes each: a lookup in SQLite costs as much as comparing 2,000 codes.
KEYS_REMEMBERED = 500_000
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

    def load(self) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], Rows]]:
        """Yields all live rows in number order, in batches of codes (n, bits/8), numbers (n,) and rows."""
        with explained(self._database.path):
            cursor = self._database.reader.execute(
                "SELECT number, id, version, code FROM records WHERE code IS NOT NULL ORDER BY number"
            )
            while found := cursor.fetchmany(LOAD_ROWS):
                numbers, ids, versions, codes = zip(*found, strict=True)
                packed = b"".join(codes)
                if len(packed) != len(found) * self.space.code_bytes:
                    raise Corruption(
                        f"{self._database.path}: a stored code has the wrong length; restore the partition"
                    )
                yield (
                    np.frombuffer(packed, np.uint8).reshape(len(found), self.space.code_bytes),
                    np.array(numbers, np.uint32),
                    Rows(
                        np.array(ids, np.int64).view(np.uint64),
                        np.array(versions, np.uint64),
                        np.zeros(len(found), np.bool_),
                    ),
                )

    def tombstones(self) -> tuple[npt.NDArray[np.uint32], Rows]:
        """Returns the numbers of all tombstones, and their rows."""
        with explained(self._database.path):
            found = self._database.reader.execute(
                "SELECT number, id, version FROM records WHERE code IS NULL"
            ).fetchall()
        numbers, ids, versions = zip(*found, strict=True) if found else ((), (), ())
        rows = Rows(
            np.array(ids, np.int64).view(np.uint64), np.array(versions, np.uint64), np.ones(len(found), np.bool_)
        )
        return np.array(numbers, np.uint32), rows

    def versions(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """Returns the versions of rows that exist, in the order of their numbers."""
        if len(numbers) < _SCAN_FROM:
            sql = "SELECT number, version FROM records WHERE number IN ({})"
            found = dict(self._database.lookup(sql, numbers.tolist()))
            return np.array([found[number] for number in numbers.tolist()], np.uint64)
        with explained(self._database.path):
            cursor = self._database.reader.execute("SELECT number, version FROM records ORDER BY number")
            rows = np.fromiter((value for row in cursor for value in row), np.int64).reshape(-1, 2)
        versions: npt.NDArray[np.uint64] = rows[np.searchsorted(rows[:, 0], numbers), 1].astype(np.uint64)
        return versions

    def rows(self, numbers: Sequence[int], max_bytes: int) -> tuple[list[VersionedRecord], int]:
        """Reads records, tombstones included, until they take `max_bytes`.

        Returns:
            The records of the first numbers that fit, without those that no longer exist, and the count of these
            numbers.
        """
        sql = select_records(self.indexing, "number, key, code, attributes, version", "number IN ({})")
        records: list[VersionedRecord] = []
        size = 0
        for start in range(0, len(numbers), READ_ROWS):
            part = numbers[start : start + READ_ROWS]
            for _, *fields in self._database.lookup(sql, part):
                record = record_of(*fields)
                records.append(record)
                size += record.size
            if size > max_bytes:
                return records, start + len(part)
        return records, len(numbers)

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
        columns = "number, id, key, code, attributes, version"
        sql = select_records(self.indexing, columns, "number > ? ORDER BY number")
        limits, lives_only = after.tolist(), whole.tolist()
        batch: list[VersionedRecord] = []
        size = 0
        with explained(self._database.path):
            found = self._database.reader.execute(sql, (min(limits),))
            for number, identifier, *fields in found:
                slot = slot_of(identifier % 2**64)
                record = record_of(*fields)
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
        columns = "number, key, id, version, code, attributes, checksum"
        sql = select_records(self.indexing, columns, "number >= ? ORDER BY number LIMIT ?")
        with explained(self._database.path):
            found = self._database.reader.execute(sql, (first, count)).fetchall()
        damaged = sum(not _is_sound(*row[1:]) for row in found)
        return damaged, found[-1][0] + 1 if len(found) == count else None

    def check_structure(self) -> None:
        """Has SQLite check its pages and indexes. Raises Corruption."""
        with explained(self._database.path):
            (answer,) = self._database.reader.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise Corruption(f"{self._database.path} is damaged ({answer})")

    def fetch(
        self,
        keys: Sequence[str],
        max_bytes: int,
        include_features: bool = False,
        include_deleted: bool = False,
        include_thumbnails: bool = False,
    ) -> dict[str, VersionedRecord]:
        """Returns the live records among `keys`, by key.

        Args:
            keys: The keys to look up.
            max_bytes: The most that the records may take.
            include_features: Whether to read features.
            include_deleted: Whether to return tombstones too.
            include_thumbnails: Whether to read thumbnails.

        Raises:
            InvalidRequest: If the records take over `max_bytes`.
        """
        lives = "" if include_deleted else " AND code IS NOT NULL"
        columns, condition = "key, code, attributes, version", f"key IN ({{}}){lives}"
        sql = select_records(self.indexing, columns, condition, include_features, include_thumbnails)
        found: dict[str, VersionedRecord] = {}
        size = 0
        for fields in self._database.lookup(sql, keys):
            record = record_of(*fields)
            found[record.key] = record
            size += record.size
            if size > max_bytes:
                raise InvalidRequest(f"keys: the records take over {max_bytes:,} bytes; request fewer at once")
        return found

    def describe(self, numbers: Sequence[int], include_attributes: bool, max_bytes: int) -> dict[int, Described]:
        """Returns key, attributes ("" unless included) and version of rows, by number.

        Rows that are neither live nor cached are left out; a cached row stays valid, because the number of a
        changed row is not used again.

        Raises:
            InvalidRequest: If the rows take over `max_bytes`.
        """
        attributes = "attributes" if include_attributes else "''"
        sql = f"SELECT number, key, {attributes}, version FROM records WHERE number IN ({{}}) AND code IS NOT NULL"
        described: dict[int, Described] = {}
        if not include_attributes:
            known = ((number, self._keys.get(number)) for number in numbers)
            described = {number: row for number, row in known if row is not None}
            numbers = [number for number in numbers if number not in described]
        size = sum(len(key) for key, _, _ in described.values())
        for number, key, text, version in self._database.lookup(sql, numbers) if numbers else ():
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
        """Returns the stored features of the live rows among `numbers`, by number."""
        return dict(self._database.lookup("SELECT number, vector FROM features WHERE number IN ({})", numbers))

    def matching(
        self, condition: Filter, first: int, end: int, should_stop: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.bool_] | None:
        """Returns a mask for the row numbers first..end: for live rows, whether they meet the filter; undefined
        for others. None if `should_stop` returned True."""
        if isinstance(condition, Not):
            others = self.matching(condition.filter, first, end, should_stop)
            return None if others is None else ~others
        sql, parameters = where(condition, self.indexing.attributes)
        reader = self._database.reader
        reader.set_progress_handler(should_stop, _STEPS_BETWEEN_STOP_CHECKS)
        try:
            with explained(self._database.path):
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


def _is_sound(
    key: str,
    identifier: int,
    version: int,
    code: bytes | None,
    attributes: str | None,
    stored: int,
    vector: bytes | None,
    picture: bytes | None,
) -> bool:
    """Whether a row holds what was written. Damage may change the types of its values, too."""
    try:
        expected = checksum(key, version, code, attributes, vector or b"", picture or b"")
        return identifier == signed(record_id(key)) and stored == expected
    except (AttributeError, TypeError, ValueError):
        return False
