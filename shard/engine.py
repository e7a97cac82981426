"""Owns one collection of one shard: the packed matrix over the store, and the invariant between the two.

The matrix changes together with the commit, under the lock `_commit`. A scan runs without that lock; if a row that
it found was overwritten before its key could be read, the scan is repeated on a pinned state."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.dump import Mark
from lookalike.cluster.rows import Listing, Rows, slots_of
from lookalike.cluster.scan import ScanGroup, ScanResult, WriteResult
from lookalike.cluster.slots import SlotSet
from lookalike.model.errors import Corruption, NotFound
from lookalike.model.filters import Filter, compared_fields
from lookalike.model.indexing import MIH
from lookalike.model.records import MAX_ANSWER_BYTES, SLOTS, VersionedRecord
from shard.digests import SlotSums
from shard.kernel import CodeMatrix, live_rows
from shard.scanner import Scanner
from shard.selections import Selections, State, complete
from shard.store import Store

KNOWN_FIELDS_SHOWN = 20
_DUMP_BATCH_BYTES = 1024 * 1024


class Engine:
    """A collection's records: durable writes and exact scans. One thread writes, any thread reads."""

    def __init__(self, store: Store, scan_threads: int = 1) -> None:
        self.space = store.space
        self.indexing = store.indexing
        self._store = store
        self._users_lock = threading.Lock()
        self._users = 0
        self._dropped = False
        self._commit = threading.Lock()
        self._selections = Selections(store)
        self._matrix = CodeMatrix(store.space.bits, hashed=store.indexing.kind == MIH)
        self._matrix.warm_up()
        self._scanner = Scanner(self._matrix, store, scan_threads)
        sums = SlotSums.empty()
        nothing = Rows.of([])
        for codes, numbers, rows in store.load():
            self._matrix.append(codes, rows.ids, numbers)
            sums = sums.changed(nothing, rows)
        sums = sums.changed(nothing, store.tombstones()[1])
        self._state = State(self._matrix.view(), sums)

    @property
    def rows(self) -> int:
        """Live records."""
        return self._state.view.live

    @property
    def sums(self) -> SlotSums:
        """The digest and the number of rows of each slot."""
        return self._state.sums

    @property
    def newest_version(self) -> int:
        return self._store.newest_version

    @property
    def horizon(self) -> int:
        """The version below which tombstones are discarded, and writes are therefore rejected."""
        return self._store.horizon

    @property
    def memory_bytes(self) -> int:
        return self._matrix.memory_bytes

    def close(self) -> None:
        self._store.close()

    def drop(self) -> None:
        """Closes the files once no call uses them. Later calls raise NotFound."""
        with self._users_lock:
            self._dropped = True
            unused = self._users == 0
        if unused:
            self._store.close()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keeps the store open during the block: SQLite crashes if a connection is closed while it is used."""
        with self._users_lock:
            if self._dropped:
                raise NotFound("collection: was dropped in the meantime")
            self._users += 1
        try:
            yield
        except (sqlite3.Error, Corruption):
            if self._dropped:
                raise NotFound("collection: was dropped in the meantime") from None
            raise
        finally:
            with self._users_lock:
                self._users -= 1
                unused = self._dropped and self._users == 0
            if unused:
                self._store.close()

    def write(self, records: Sequence[VersionedRecord]) -> WriteResult:
        """Stores the records whose version is above the stored one. Durable when it returns.

        Raises:
            Corruption: If the store is damaged.
            NotFound: If the collection was dropped.
            Overloaded: If the disk is full; nothing was written.
        """
        if not records:
            return WriteResult([], {}, self._store.newest_version)
        with self._in_use(), contextlib.ExitStack() as locked:
            with self._store.writing(records) as applied:
                locked.enter_context(self._commit)
            codes = np.frombuffer(b"".join(applied.codes), np.uint8)
            self._matrix.replace(
                applied.deleted, codes.reshape(-1, self.space.code_bytes), applied.ids, applied.numbers
            )
            self._state = State(self._matrix.view(), self._state.sums.changed(applied.gone, applied.come))
        return WriteResult(applied.existed, applied.superseded, self._store.newest_version)

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
            with self._store.removing(numbers.tolist()) as gone:
                locked.enter_context(self._commit)
            self._matrix.delete(numbers)
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
        with self._in_use():
            found = self._store.fetch(
                keys, MAX_ANSWER_BYTES, include_features, include_deleted, include_thumbnails
            )
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
                assert hits is not None, "a row of a pinned state is missing in the store"
        rows = state.view.live if slots is None else state.live_rows(slots)
        return ScanResult(hits, rows, *self._unknown_fields(group.filter))

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[State]:
        """Reads in the block see the matrix and the store in the same state."""
        with contextlib.ExitStack() as reading:
            with self._commit:
                reading.enter_context(self._store.reading())
                state = self._state
            yield state

    def _unknown_fields(self, condition: Filter | None) -> tuple[list[str], list[str]]:
        """The fields that the filter compares but no record ever had and, if there are any, some fields that
        records did have."""
        if condition is None:
            return [], []
        known = self._store.fields
        unknown = [field for field in compared_fields(condition) if field.partition(".")[0] not in known]
        return sorted(set(unknown)), sorted(known)[:KNOWN_FIELDS_SHOWN] if unknown else []
