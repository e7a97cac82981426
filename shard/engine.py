"""Owns one collection of one shard: the packed matrix over the store, and the rule that ties them.

The rule: the matrix changes together with the commit, under `_commit`. A scan runs without that lock; if a
row it found was overwritten before its key could be read, it is repeated on a pinned state.

What a row number stands for never changes, so whether a filter keeps it is asked once: the filters in use are
remembered with the numbers they keep, and only rows that came since are read."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.dump import Mark
from lookalike.cluster.scan import Codes, ScanGroup, ScanHits, Scoring, WriteResult
from lookalike.cluster.slots import SlotSet
from lookalike.model import features
from lookalike.model.errors import Corruption, NotFound
from lookalike.model.filters import Filter, compared_fields
from lookalike.model.indexing import MIH
from lookalike.model.records import MAX_ANSWER_BYTES, SLOTS, VersionedRecord, answer_too_large
from shard.digests import SLOT_SHIFT, Rows, SlotSums
from shard.kernel import CodeMatrix, Matches, ScanStopped, Selection, View, live_rows, mask_by_id, weighted
from shard.store import Described, Store

KNOWN_FIELDS_SHOWN = 20
FEATURE_BYTES_AT_ONCE = 32 * 1024 * 1024
FILTERS_REMEMBERED = 32
_DUMP_PORTION_BYTES = 1024 * 1024
FILTER_BYTES_REMEMBERED = 128 * 1024 * 1024


# What a scan is restricted to, beside the slots that are meant: with neither, nothing.
_Choice = tuple[Filter | None, bytes | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """The matrix and what there is in each slot, as of one commit."""

    view: View
    sums: SlotSums


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """Rows of some slots, tombstones included, and their numbers, as of one commit."""

    numbers: npt.NDArray[np.uint32]
    rows: Rows


class Engine:
    """A collection's records: durable writes, exact scans. One thread writes, any thread reads."""

    def __init__(self, store: Store, scan_threads: int = 1) -> None:
        self.space = store.space
        self.indexing = store.indexing
        self._store = store
        self._threads = scan_threads
        self._users_lock = threading.Lock()
        self._users = 0
        self._dropped = False
        self._commit = threading.Lock()
        self._selections: collections.OrderedDict[_Choice, Selection] = collections.OrderedDict()
        self._matrix = CodeMatrix(store.space.bits, hashed=store.indexing.kind == MIH)
        self._matrix.warm_up()
        sums = SlotSums.empty()
        nothing = Rows.of([])
        for codes, numbers, rows in store.load():
            self._matrix.append(codes, rows.ids, numbers)
            sums = sums.changed(nothing, rows)
        sums = sums.changed(nothing, store.tombstones()[1])
        self._state = _State(self._matrix.view(), sums)

    @property
    def rows(self) -> int:
        """Live records."""
        return self._state.view.live

    @property
    def sums(self) -> SlotSums:
        """What there is in each slot."""
        return self._state.sums

    @property
    def newest_version(self) -> int:
        return self._store.newest_version

    @property
    def horizon(self) -> int:
        """Tombstones below this version are forgotten, so writes below it cannot be judged any more."""
        return self._store.horizon

    @property
    def memory_bytes(self) -> int:
        return self._matrix.memory_bytes

    def close(self) -> None:
        self._store.close()

    def drop(self) -> None:
        """Let go of the files, once whoever works on the collection is done; who comes later is told that it
        is gone."""
        with self._users_lock:
            self._dropped = True
            unused = self._users == 0
        if unused:
            self._store.close()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the store open while the block lasts: SQLite crashes when a connection is closed under it."""
        with self._users_lock:
            if self._dropped:
                raise NotFound("collection: was dropped meanwhile")
            self._users += 1
        try:
            yield
        except (sqlite3.Error, Corruption):
            if self._dropped:
                raise NotFound("collection: was dropped meanwhile") from None
            raise
        finally:
            with self._users_lock:
                self._users -= 1
                unused = self._dropped and self._users == 0
            if unused:
                self._store.close()

    def write(self, records: Sequence[VersionedRecord]) -> WriteResult:
        """Apply the records whose version is above the stored one. Durable when it returns."""
        if not records:
            return WriteResult([], {}, self._store.newest_version)
        with self._in_use(), contextlib.ExitStack() as locked:
            with self._store.writing(records) as applied:
                locked.enter_context(self._commit)
            codes = np.frombuffer(b"".join(applied.codes), np.uint8)
            self._matrix.replace(
                applied.deleted, codes.reshape(-1, self.space.code_bytes), applied.ids, applied.numbers
            )
            self._state = _State(self._matrix.view(), self._state.sums.changed(applied.gone, applied.come))
        return WriteResult(applied.existed, applied.superseded, self._store.newest_version)

    def forget_tombstones(self, horizon: int) -> int:
        """Remove the tombstones below this version, and judge no write below it from now on. Returns how many."""
        if horizon <= self.horizon:
            return 0
        with self._in_use():
            self._store.set_horizon(horizon)
            numbers, rows = self._store.tombstones()
        forgotten = numbers[rows.versions < np.uint64(horizon)]
        self.remove(forgotten)
        return len(forgotten)

    def remove(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Remove rows for good, without a trace: they are another shard's now."""
        if not len(numbers):
            return
        with self._in_use(), contextlib.ExitStack() as locked:
            with self._store.removing(numbers.tolist()) as gone:
                locked.enter_context(self._commit)
            self._matrix.delete(numbers)
            self._state = _State(self._matrix.view(), self._state.sums.changed(gone, Rows.of([])))

    def listing(self, slots: SlotSet) -> Listing:
        """All rows of these slots."""
        with self._in_use(), self._pinned() as state:
            ids, numbers = live_rows(state.view)
            chosen = slots[(ids >> SLOT_SHIFT).astype(np.intp)]
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
        """The records, tombstones included, of those of the first numbers that still exist; of how many
        numbers."""
        with self._in_use():
            return self._store.rows(numbers, MAX_ANSWER_BYTES // 2)

    def dump(
        self, slots: SlotSet, since: Sequence[Mark], place: tuple[int, int]
    ) -> Generator[tuple[Mark, SlotSet, int] | list[VersionedRecord], None, None]:
        """First the mark, the slots dumped whole and the live rows of all slots; then the records in portions: all
        of one state. place: this shard's partition and replica. To be run in one thread of its own, closed in the
        end."""
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
                    yield from store.rows_after(after, whole, _DUMP_PORTION_BYTES)
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
        """The live records among `keys`, or tombstones too, in their order."""
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
    ) -> ScanHits:
        """The group's exact answer, over all rows or those of some slots. Raises ScanStopped once `should_stop`
        says so."""
        with self._in_use():
            return self._scan(group, slots, should_stop)

    def _scan(self, group: ScanGroup, slots: SlotSet | None, should_stop: Callable[[], bool]) -> ScanHits:
        state, selection = self._select(group.filter, slots, should_stop)
        hits = self._hits(state.view, selection, group, should_stop)
        if hits is None:
            with self._pinned() as state:
                selection = self._selection(state, group.filter, slots, should_stop)
                hits = self._hits(state.view, selection, group, should_stop)
            assert hits is not None, "a row of a pinned state is missing in the store"
        return hits if slots is None else dataclasses.replace(hits, rows=_rows(state, slots))

    def _select(
        self, condition: Filter | None, slots: SlotSet | None, should_stop: Callable[[], bool]
    ) -> tuple[_State, Selection | None]:
        """A state, and which of its rows meet the filter and lie in the slots; None for all."""
        # In this order: what had died when a selection was made is dead in the state as well.
        remembered = self._selections.copy()
        state = self._state
        choice = _choice(state, condition, slots)
        if choice is None:
            return state, None
        selection = remembered.get(choice)
        if selection is None or selection.end < state.view.end:
            with self._pinned() as state:
                return state, self._selection(state, condition, slots, should_stop)
        return state, selection

    def _selection(
        self, state: _State, condition: Filter | None, slots: SlotSet | None, should_stop: Callable[[], bool]
    ) -> Selection | None:
        """Which rows of a pinned state meet the filter and lie in the slots; None for all."""
        choice = _choice(state, condition, slots)
        if choice is None:
            return None
        view = state.view
        selection = self._selections.get(choice) or Selection(np.zeros(0, np.bool_))
        if selection.end < view.end:
            mask: npt.NDArray[np.bool_] | None = np.ones(view.end - selection.end, np.bool_)
            if condition is not None:
                mask = self._store.matching(condition, selection.end, view.end, should_stop)
            if mask is None:
                raise ScanStopped
            if slots is not None and choice[1] is not None:
                chosen = slots
                mask &= mask_by_id(view, selection.end, lambda ids: chosen[(ids >> SLOT_SHIFT).astype(np.intp)])
            selection = selection.extended(mask)
        self._selections.pop(choice, None)
        self._selections[choice] = selection
        while len(self._selections) > 1 and (
            len(self._selections) > FILTERS_REMEMBERED
            or sum(other.memory_bytes for other in list(self._selections.values())) > FILTER_BYTES_REMEMBERED
        ):
            self._selections.popitem(last=False)
        return selection

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[_State]:
        """Matrix and store at one and the same state, as long as the block lasts."""
        with contextlib.ExitStack() as reading:
            with self._commit:
                reading.enter_context(self._store.reading())
                state = self._state
            yield state

    def _hits(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> ScanHits | None:
        """The answer on a state, or None if the store no longer has one of its rows."""

        if group.scoring is Scoring.ASYMMETRIC:
            return self._weighted_hits(view, selection, group, should_stop)

        def scan(codes: Codes, k: int) -> Matches:
            return self._matrix.scan(
                codes, k, view=view, max_distance=group.max_distance, selection=selection,
                threads=self._threads, should_stop=should_stop,
            )  # fmt: skip

        matches = scan(group.codes, group.k + 1)
        counts = np.minimum(matches.counts, group.k)
        taken = np.arange(matches.distances.shape[1]) < counts[:, None]
        numbers = matches.numbers[taken].tolist()
        described = self._store.describe(numbers, group.include_attributes, MAX_ANSWER_BYTES)
        if len(described) < len(set(numbers)):
            return None
        keys = [described[number][0] for number in numbers]
        attributes = [described[number][1] for number in numbers] if group.include_attributes else []
        # A row that several queries find is sent to each.
        if attributes and sum(map(len, keys)) + sum(map(len, attributes)) > MAX_ANSWER_BYTES:
            raise answer_too_large()
        ranks = self._ranks(view, group, counts.tolist(), numbers, should_stop)
        if ranks is None:
            return None
        hits = ScanHits(
            counts.tolist(), matches.distances[taken], matches.ids[taken], keys, attributes, view.live,
            *self._unknown_fields(group.filter), ranks,
            [described[number][2] for number in numbers] if group.include_versions else (),
        )  # fmt: skip
        if _has_equal_neighbours(matches):
            return self._order_by_key(view, hits, group, scan, should_stop)
        return hits

    def _ranks(
        self,
        view: View,
        group: ScanGroup,
        counts: Sequence[int],
        numbers: Sequence[int],
        should_stop: Callable[[], bool],
    ) -> npt.NDArray[np.float64] | None:
        """The ranks of rows of this view, counts[q] of them for query q, by what the group reranks by. None if the
        store no longer has one of them."""
        if group.inputs is None:
            return np.zeros(0)
        ranks = [np.zeros(0)]
        start = 0
        for query, values, count in zip(group.codes, group.inputs, counts, strict=True):
            if should_stop():
                raise ScanStopped
            rows = numbers[start : start + count]
            start += count
            if group.scoring is Scoring.RERANK_ASYMMETRIC:
                totals = weighted.weigh(view, np.array(rows, np.uint32), query, values)
                ranks.append(_share(totals, values))
                continue
            # Some rows at a time: wide features of many candidates would fill the memory.
            step = max(1, FEATURE_BYTES_AT_ONCE // (8 * len(values)))
            for at in range(0, count, step):
                if should_stop():
                    raise ScanStopped
                part = rows[at : at + step]
                stored = self._store.features(part)
                if len(stored) < len(part):
                    return None
                kept = features.unpack(self.indexing.features, [stored[row] for row in part])
                ranks.append(1 - features.cosines(values, kept))
        return np.concatenate(ranks)

    def _weighted_hits(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> ScanHits | None:
        """The answer by asymmetric rank over all rows, or None if the store no longer has one of its rows."""
        assert group.inputs is not None
        counts: list[int] = []
        rows: list[tuple[float, int, str, int, str, int]] = []
        room = MAX_ANSWER_BYTES
        for query, weights in zip(group.codes, group.inputs, strict=True):
            found = weighted.scan(
                view, query, weights, group.k,
                max_distance=group.max_distance, selection=selection, should_stop=should_stop,
            )  # fmt: skip
            numbers = found.numbers.tolist()
            described = self._store.describe(numbers, group.include_attributes, room)
            room -= _bytes_of(described)
            if len(described) < len(numbers):
                return None
            ranks = _share(found.weighted, weights).tolist()
            ordered = sorted(
                (rank, identifier, described[number][0], distance, *described[number][1:])
                for rank, identifier, distance, number in zip(
                    ranks, found.ids.tolist(), found.distances.tolist(), numbers, strict=True
                )
            )[: group.k]
            counts.append(len(ordered))
            rows += ordered
        return ScanHits(
            counts,
            np.array([row[3] for row in rows], np.uint16),
            np.array([row[1] for row in rows], np.uint64),
            [row[2] for row in rows],
            [row[4] for row in rows] if group.include_attributes else [],
            view.live,
            *self._unknown_fields(group.filter),
            np.array([row[0] for row in rows], np.float64),
            [row[5] for row in rows] if group.include_versions else (),
        )

    def _order_by_key(
        self,
        view: View,
        hits: ScanHits,
        group: ScanGroup,
        scan: Callable[[Codes, int], Matches],
        should_stop: Callable[[], bool],
    ) -> ScanHits | None:
        """The same answer where rows share distance and id (two keys with one hash): order those by key,
        in the cut as well."""
        counts: list[int] = []
        rows: list[tuple[int, int, str, str, int, int]] = []
        room = MAX_ANSWER_BYTES
        for q in range(len(group.codes)):
            k = group.k + 1
            matches = scan(group.codes[q : q + 1], k)
            while matches.counts[0] == k and _same(matches, k - 1, group.k - 1):
                k *= 2
                matches = scan(group.codes[q : q + 1], k)
            count = int(matches.counts[0])
            numbers = matches.numbers[0, :count].tolist()
            described = self._store.describe(numbers, group.include_attributes, room)
            room -= _bytes_of(described)
            if len(described) < len(numbers):
                return None
            found = sorted(
                (int(matches.distances[0, j]), int(matches.ids[0, j]), *described[numbers[j]], numbers[j])
                for j in range(count)
            )[: group.k]
            counts.append(len(found))
            rows.extend(found)
        ranks = self._ranks(view, group, counts, [row[5] for row in rows], should_stop)
        if ranks is None:
            return None
        return ScanHits(
            counts,
            np.array([row[0] for row in rows], np.uint16),
            np.array([row[1] for row in rows], np.uint64),
            [row[2] for row in rows],
            [row[3] for row in rows] if group.include_attributes else [],
            hits.rows, hits.unknown_fields, hits.known_fields, ranks,
            [row[4] for row in rows] if group.include_versions else (),
        )  # fmt: skip

    def _unknown_fields(self, condition: Filter | None) -> tuple[list[str], list[str]]:
        """Fields that the filter compares and no record has had, and then some that records have had."""
        if condition is None:
            return [], []
        known = self._store.fields
        unknown = [field for field in compared_fields(condition) if field.partition(".")[0] not in known]
        return sorted(set(unknown)), sorted(known)[:KNOWN_FIELDS_SHOWN] if unknown else []


def _choice(state: _State, condition: Filter | None, slots: SlotSet | None) -> _Choice | None:
    """What to restrict a scan of this state to; None for nothing: almost always all rows are of the slots."""
    within = None if slots is None or _rows(state, slots) == state.view.live else slots.tobytes()
    return None if condition is None and within is None else (condition, within)


def _rows(state: _State, slots: SlotSet) -> int:
    return int(state.sums.live[slots].sum())


def _bytes_of(described: dict[int, Described]) -> int:
    return sum(len(key) + len(text) for key, text, _ in described.values())


def _share(totals: npt.NDArray[np.uint32], weights: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Weighted distances as a share of all the weight, 0..1; equal only where those are."""
    result: npt.NDArray[np.float64] = totals / max(1, int(weights.sum(dtype=np.int64)))
    return result


def _same(matches: Matches, a: int, b: int) -> bool:
    return bool(matches.distances[0, a] == matches.distances[0, b] and matches.ids[0, a] == matches.ids[0, b])


def _has_equal_neighbours(matches: Matches) -> bool:
    inside = np.arange(1, matches.distances.shape[1]) < matches.counts[:, None]
    equal = (matches.ids[:, 1:] == matches.ids[:, :-1]) & (matches.distances[:, 1:] == matches.distances[:, :-1])
    return bool((equal & inside).any())
