"""Owns one collection of one shard: the packed matrix over the store, and the invariant between the two.

The matrix changes together with the commit, under the lock `_commit`. A scan runs without that lock; if a row that
it found was overwritten before its key could be read, the scan is repeated on a pinned state."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.dump import Mark
from lookalike.cluster.rows import Listing, Rows, slots_of
from lookalike.cluster.scan import ScanGroup, ScanResult, WriteResult
from lookalike.cluster.select import CountOf, FacetsOf, GroupsOf, ListOf, MembersOf, Question, Selected
from lookalike.cluster.slots import SlotSet
from lookalike.cluster.unknown_fields import unknown_of
from lookalike.model.errors import Corruption, NotFound
from lookalike.model.filters import named_fields
from lookalike.model.indexing import MIH
from lookalike.model.records import MAX_ANSWER_BYTES, SLOTS, VersionedRecord, record_id, slot_of
from shard import select
from shard.digests import SlotSums
from shard.expiry import Expiry
from shard.groups import Groups
from shard.kernel import CodeMatrix, RowIndex, Search, live_rows
from shard.open_stores import OpenStores
from shard.reservations import Reservations
from shard.scanner import Scanner
from shard.selections import Selections, State, complete
from shard.store import Store

_DUMP_BATCH_BYTES = 1024 * 1024


class Engine:
    """A collection's records: durable writes and exact scans. One thread writes, any thread reads."""

    def __init__(
        self,
        store: Store,
        scan_threads: int = 1,
        open_stores: OpenStores | None = None,
        searcher: Search | None = None,
    ) -> None:
        self.space = store.space
        self.indexing = store.indexing
        self._store = store
        self._open_stores = open_stores or OpenStores()
        self._users_lock = threading.Lock()
        self._users = 0
        self._dropped = False
        self._commit = threading.Lock()
        self._selections = Selections(store)
        self._expiry = Expiry(store)
        self._groups = Groups(store)
        self._matrix = CodeMatrix(store.space.bits, hashed=store.indexing.kind == MIH, searcher=searcher)
        self._matrix.warm_up()
        self._scanner = Scanner(self._matrix, store, scan_threads)
        self.newest_version = 0
        self.reservations = Reservations(store.reserved_to, store.set_reserved_to)
        try:
            self._load()
        except BaseException:
            store.close()
            raise
        # Not a method, because a cycle of references would keep the memory of a dropped collection.
        self._index = RowIndex(partial(_all_rows, self._matrix, store))
        self._open_stores.used(self)

    def _load(self) -> None:
        """Reads the store into memory. Raises Corruption if anything in it is damaged."""
        sums, nothing = SlotSums.empty(), Rows.of([])
        with ThreadPoolExecutor(1) as checks:
            # Beside the load, because both spend their time in SQLite without the GIL.
            structure = checks.submit(self._store.check_structure)
            for codes, numbers, rows in self._store.load():
                self._matrix.append(codes, rows.ids, numbers)
                sums = sums.changed(nothing, rows)
                self._note_versions(rows)
                self._expiry.added(rows.versions)
            _, dead = self._store.tombstones()
            structure.result()
        self._note_versions(dead)
        self._state = State(self._matrix.view(), sums.changed(nothing, dead))

    def _note_versions(self, rows: Rows) -> None:
        if len(rows.versions):
            self.newest_version = max(self.newest_version, int(rows.versions.max()))

    @property
    def rows(self) -> int:
        """Live records."""
        return self._state.view.live

    @property
    def sums(self) -> SlotSums:
        """The digest and the number of rows of each slot."""
        return self._state.sums

    @property
    def horizon(self) -> int:
        """The version below which tombstones are discarded, and writes are therefore rejected."""
        return self._store.horizon

    @property
    def memory_bytes(self) -> int:
        return self._matrix.memory_bytes + self._index.memory_bytes

    def close(self) -> None:
        self._store.close()
        self._open_stores.forget(self)

    def release(self) -> bool:
        """Closes the files unless a call uses them. The next call opens them again."""
        with self._users_lock:
            if self._users == 0 and not self._dropped:
                self._store.close()
                return True
            return False

    def drop(self) -> None:
        """Closes the files once no call uses them. Later calls raise NotFound."""
        with self._users_lock:
            self._dropped = True
            unused = self._users == 0
        if unused:
            self.close()

    def _in_use(self) -> _Use:
        """Keeps the store open during the block: SQLite crashes if a connection is closed while it is used."""
        return _Use(self)

    def _begin_use(self) -> None:
        with self._users_lock:
            self._require_kept()
            self._users += 1

    def _end_use(self) -> None:
        with self._users_lock:
            self._users -= 1
            unused = self._dropped and self._users == 0
        if unused:
            self.close()
        elif not self._dropped:
            self._open_stores.used(self)

    def _require_kept(self) -> None:
        if self._dropped:
            raise NotFound("collection: was dropped in the meantime")

    def write(self, records: Sequence[VersionedRecord] | VersionedColumns) -> WriteResult:
        """Stores the records whose version is above the stored one. Durable when it returns.

        Raises:
            Corruption: If the store is damaged.
            NotFound: If the collection was dropped.
            Overloaded: If the disk is full; nothing was written.
        """
        if not len(records):
            return WriteResult([], {}, self.newest_version)
        with self._in_use(), contextlib.ExitStack() as locked:
            with self._store.writing(records, self._index) as applied:
                locked.enter_context(self._commit)
            self._expiry.added(applied.added.versions)
            codes = applied.codes.reshape(-1, self.space.code_bytes)
            self._matrix.replace(applied.deleted, codes, applied.ids, applied.numbers)
            # In this order, because reads do not wait: a key must have a row in the index at every moment. A read
            # that finds the old row only, or both, sees that a row is missing and is repeated.
            self._index.add(applied.added.ids, applied.added_numbers)
            self._index.remove(applied.removed.ids, applied.removed_numbers)
            self._state = State(self._matrix.view(), self._state.sums.changed(applied.removed, applied.added))
        self._store.limit_keys(self.rows)
        self.newest_version = max(self.newest_version, applied.newest_version)
        if self.reservations and not isinstance(records, VersionedColumns):
            self.reservations.stored(records)
        return WriteResult(applied.existed, applied.superseded, self.newest_version)

    def reserve(self, records: Sequence[VersionedRecord], bases: Sequence[int]) -> WriteResult:
        """Reserves each record's key for the record's version; see `shard.reservations`. Must be called in the
        thread that writes.

        A key is not reserved if a version above the record's base is stored, or if another version has it: see
        `Reservations.taken`. Then the result has that version among the superseded."""
        stored = self.versions([record.key for record in records])
        superseded = {}
        with self._in_use():
            for place, (record, base) in enumerate(zip(records, bases, strict=True)):
                version = stored.get(record.key, 0)
                if version > base or version >= record.version:
                    superseded[place] = version
                elif held := self.reservations.taken(record.key, record.version):
                    superseded[place] = held
                else:
                    self.reservations.add(record.key, record.version)
        return WriteResult([False] * len(records), superseded, self.newest_version)

    def versions(self, keys: Sequence[str]) -> dict[str, int]:
        """Returns the stored version of each of the keys that has a row, tombstones included."""
        ids = np.fromiter(map(record_id, keys), np.uint64, len(keys))
        with self._in_use():
            numbers = np.unique(self._index.find(ids)[1]).tolist()
            found, is_complete = self._store.fetch(keys, numbers, sys.maxsize, include_deleted=True)
            if not is_complete:
                raise _missing_rows()
        return {key: record.version for key, record in found.items()}

    def forget_tombstones(self, horizon: int) -> int:
        """Discards the tombstones below this version, and rejects writes below it from now on. Returns the number
        of tombstones discarded."""
        if horizon <= self.horizon:
            return 0
        with self._in_use():
            self._store.set_horizon(horizon)
            numbers, rows = self._store.tombstones()
        forgotten = numbers[rows.versions < np.uint64(horizon)]
        self.remove(forgotten)
        return len(forgotten)

    def remove(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Removes rows without leaving tombstones: rows that moved to another shard, or discarded tombstones."""
        if not len(numbers):
            return
        with self._in_use(), contextlib.ExitStack() as locked:
            with self._store.removing(numbers.tolist()) as (gone, gone_numbers):
                locked.enter_context(self._commit)
            self._matrix.delete(numbers)
            self._index.remove(gone.ids, gone_numbers)
            self._state = State(self._matrix.view(), self._state.sums.changed(gone, Rows.of([])))

    def listing(self, slots: SlotSet) -> Listing:
        """Lists all rows of these slots, tombstones included."""
        with self._in_use(), self._pinned() as state:
            ids, numbers = live_rows(state.view)
            chosen = slots[slots_of(ids)]
            ids, numbers = ids[chosen], numbers[chosen]
            versions = self._store.versions(numbers)
            dead_numbers, dead = self._store.tombstones()
        chosen = slots[dead.slots]
        return Listing(
            np.concatenate([numbers, dead_numbers[chosen]]),
            Rows(
                np.concatenate([ids, dead.ids[chosen]]),
                np.concatenate([versions, dead.versions[chosen]]),
                np.concatenate([np.zeros(len(ids), np.bool_), dead.deleted[chosen]]),
            ),
        )

    def read(self, numbers: Sequence[int]) -> tuple[list[VersionedRecord], int]:
        """Reads records by row number, tombstones included, up to half the maximum size of an answer.

        Returns:
            The records of the first numbers that fit, without those that no longer exist, and the count of these
            numbers.
        """
        with self._in_use():
            return self._store.rows(numbers, MAX_ANSWER_BYTES // 2)

    def dump(
        self, slots: SlotSet, since: Sequence[Mark], place: tuple[int, int]
    ) -> Generator[tuple[Mark, SlotSet, int] | list[VersionedRecord], None, None]:
        """Dumps one state of the slots. Must run in a separate thread, and be closed.

        Args:
            slots: The slots to dump.
            since: Marks of earlier dumps. For their slots only later changes are dumped, if possible.
            place: This shard's partition and replica.

        Yields:
            First the mark of this dump, the slots that are dumped whole, and the number of live rows in `slots`.
            Then batches of records.
        """
        store = self._store
        with self._in_use():
            try:
                with self._pinned() as state:
                    after = np.full(SLOTS, -1, np.int64)
                    end = store.last_number() + 1
                    for mark in since:
                        if mark.store == store.identity and store.removed_to < mark.number <= end:
                            after[mark.slots] = np.maximum(after[mark.slots], mark.number - 1)
                    whole = slots & (after < 0)
                    yield (
                        Mark(store.identity, end, slots, *place),
                        whole,
                        int(state.sums.live[slots].sum()),
                    )
                    after[~slots] = np.iinfo(np.int64).max
                    yield from store.rows_after(after, whole, _DUMP_BATCH_BYTES)
            finally:
                store.close_reader()

    def damaged_rows(self, first: int, count: int) -> tuple[int, int | None]:
        """See `Store.damaged_rows`."""
        with self._in_use():
            return self._store.damaged_rows(first, count)

    def check_structure(self) -> None:
        """See `Store.check_structure`."""
        with self._in_use():
            self._store.check_structure()

    def fetch(
        self,
        keys: Sequence[str],
        include_features: bool = False,
        include_deleted: bool = False,
        include_thumbnails: bool = False,
    ) -> list[VersionedRecord]:
        """Returns the live records among `keys`, or tombstones too, in the order of the keys."""
        ids = np.fromiter(map(record_id, keys), np.uint64, len(keys))

        def read(numbers: npt.NDArray[np.uint32]) -> tuple[dict[str, VersionedRecord], bool]:
            return self._store.fetch(
                keys,
                np.unique(numbers).tolist(),
                MAX_ANSWER_BYTES,
                include_features,
                include_deleted,
                include_thumbnails,
            )

        with self._in_use():
            found, is_complete = read(self._index.find(ids)[1])
            if not is_complete:
                # A row was overwritten between the two steps.
                with contextlib.ExitStack() as reading:
                    with self._commit:
                        reading.enter_context(self._store.reading())
                        numbers = self._index.find(ids)[1]
                    found, is_complete = read(numbers)
                if not is_complete:
                    raise _missing_rows()
        return [found[key] for key in keys if key in found]

    def scan(
        self,
        group: ScanGroup,
        should_stop: Callable[[], bool] = lambda: False,
        slots: SlotSet | None = None,
    ) -> ScanResult:
        """Returns the group's exact answer.

        Args:
            group: The queries.
            should_stop: Polled during the scan; True ends it.
            slots: The slots to search; None for all rows.

        Raises:
            InvalidRequest: If the answer would be too large for a message.
            NotFound: If the collection was dropped.
            ScanStopped: If `should_stop` returned True.
        """
        if group.exclude_keys and slots is not None:
            own = (key for key in group.exclude_keys if slots[slot_of(record_id(key))])
            group = dataclasses.replace(group, exclude_keys=tuple(own))
        with self._in_use():
            # In this order, a row that was dead when a selection was made is dead in the state as well.
            remembered = self._selections.remembered()
            state = self._state
            is_complete, selection = complete(remembered, state, group.filter, slots)
            if not is_complete:
                with self._pinned() as state:
                    selection = self._selections.compute(state, group.filter, slots, should_stop)
            hits = self._scanner.scan(state.view, selection, group, should_stop)
            if hits is None:
                with self._pinned() as state:
                    selection = self._selections.compute(state, group.filter, slots, should_stop)
                    hits = self._scanner.scan(state.view, selection, group, should_stop)
                if hits is None:
                    raise _missing_rows()
        rows = state.view.live if slots is None else state.live_rows(slots)
        named = () if group.filter is None else named_fields(group.filter)
        return ScanResult(hits, rows, *unknown_of(named, self._store.fields))

    def select(
        self, question: Question, slots: SlotSet, should_stop: Callable[[], bool] = lambda: False
    ) -> Selected:
        """Returns the exact answer to a question about records in these slots.

        Raises:
            InvalidRequest: If an attribute has too many values.
            NotFound: If the collection was dropped.
            ScanStopped: If `should_stop` returned True.
        """
        if question.expired is not None:
            assert isinstance(question.kind, ListOf), "expired records are listed"
            with self._in_use(), self._expiry.search(question.expired) as search, self._pinned() as state:
                expired = search.selection(state.view, slots, should_stop)
                return select.answer(question.kind, state.view, expired, self._store, should_stop)
        with self._in_use(), self._pinned() as state:
            selection = self._selections.compute(state, question.filter, slots, should_stop)
            if isinstance(question.kind, CountOf):
                selected = Selected(count=self._selections.count(state, question.filter, slots, selection))
            elif isinstance(question.kind, GroupsOf | MembersOf):
                selected = self._groups.answer(question.kind, state.view, selection, should_stop)
            else:
                selected = select.answer(question.kind, state.view, selection, self._store, should_stop)
        named = list(named_fields(question.filter)) if question.filter is not None else []
        if isinstance(question.kind, FacetsOf):
            named.append(question.kind.attribute)
        if isinstance(question.kind, GroupsOf):
            named.append(question.kind.near.attribute)
        unknown, known = unknown_of(named, self._store.fields)
        return dataclasses.replace(
            selected, rows=state.live_rows(slots), unknown_fields=unknown, known_fields=known
        )

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[State]:
        """Reads in the block see the matrix and the store in the same state."""
        with contextlib.ExitStack() as reading:
            with self._commit:
                reading.enter_context(self._store.reading())
                state = self._state
            yield state


def _missing_rows() -> Corruption:
    """The error for rows that were loaded, but that SQLite no longer finds."""
    return Corruption("the store lacks rows that were loaded from it; restore the partition from a backup")


def _all_rows(matrix: CodeMatrix, store: Store) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """The ids and numbers of all rows, tombstones included."""
    ids, numbers = live_rows(matrix.view())
    dead_numbers, dead = store.tombstones()
    return np.concatenate([ids, dead.ids]), np.concatenate([numbers, dead_numbers])


class _Use:  # a plain class, because contextlib's generators are slow and every scan makes one
    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._engine._begin_use()

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine._end_use()
        if isinstance(failure, sqlite3.Error | Corruption):
            self._engine._require_kept()
