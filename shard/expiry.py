"""Owns which rows of a store have expired.

By age, all rows must be read to find those with old versions. So a lower bound of all live versions is kept: while
no row can be old enough, nothing is read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import slots_of
from lookalike.cluster.slots import SlotSet
from lookalike.model.ttl import Expired
from shard.kernel import ScanStopped, Selection, View, mask_by_id
from shard.store import Store

_NEVER = 2**63


class Expiry:
    """Finds the expired rows of one store. Any thread may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._oldest = _NEVER
        self._searches: list[Search] = []

    def added(self, versions: npt.NDArray[np.uint64]) -> None:
        """Records the versions of rows that are being added. Call it before a state with these rows can be
        pinned."""
        if len(versions):
            oldest = int(versions.min())
            with self._lock:
                self._oldest = min(self._oldest, oldest)
                for search in self._searches:
                    search.oldest_added = min(search.oldest_added, oldest)

    @contextlib.contextmanager
    def search(self, expired: Expired) -> Iterator[Search]:
        """Begins a search. Pin the state to search in the block."""
        search = Search(self, self._store, expired)
        with self._lock:
            self._searches.append(search)
        try:
            yield search
        finally:
            with self._lock:
                self._searches.remove(search)

    @property
    def oldest(self) -> int:
        """No live row has a version below this."""
        return self._oldest

    def found(self, oldest: int, search: Search) -> None:
        """Records the lowest version of all rows of the state that was searched."""
        with self._lock:
            self._oldest = min(oldest, search.oldest_added)


class Search:
    """A search for the expired rows of one state. oldest_added: the lowest version that was added meanwhile."""

    def __init__(self, expiry: Expiry, store: Store, expired: Expired) -> None:
        self.oldest_added = _NEVER
        self._expiry = expiry
        self._store = store
        self._expired = expired

    def selection(self, view: View, slots: SlotSet, should_stop: Callable[[], bool]) -> Selection:
        """Returns the rows of a state that have expired and are in these slots. The caller must have pinned the
        state, so that its rows stay in the store.

        Raises:
            ScanStopped: If `should_stop` returned True.
        """
        mask = np.zeros(view.end, np.bool_)
        if self._expired.ttl.age_seconds:
            mask[self._by_age(should_stop)] = True
        else:
            mask[self._store.expired(self._expired, should_stop)] = True
        if mask.any():
            mask &= mask_by_id(view, 0, lambda ids: slots[slots_of(ids)])
        return Selection(mask)

    def _by_age(self, should_stop: Callable[[], bool]) -> npt.NDArray[np.uint32]:
        limit = self._expired.ttl.oldest_version(self._expired.now_ms)
        if self._expiry.oldest >= limit:
            return np.zeros(0, np.uint32)
        old, oldest = [np.zeros(0, np.uint32)], _NEVER
        for numbers, versions in self._store.live_versions():
            if should_stop():
                raise ScanStopped
            old.append(numbers[versions < np.uint64(limit)])
            oldest = min(oldest, int(versions.min()))
        self._expiry.found(oldest, self)
        return np.concatenate(old)
