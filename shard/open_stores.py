"""Owns how many stores have open files: those used least recently are closed, and opened again when needed."""

from __future__ import annotations

import collections
import threading
from typing import Protocol

# An open store has up to nine open files: three for each file of SQLite's, and one more for each reading thread.
MAX_OPEN_STORES = 64


class Closable(Protocol):
    """What has open files."""

    def release(self) -> bool:
        """Closes the files unless they are in use. Returns whether it did."""


class OpenStores:
    """Stores with open files, in the order of their last use. Any thread may call it."""

    def __init__(self, limit: int = MAX_OPEN_STORES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._stores: collections.OrderedDict[Closable, None] = collections.OrderedDict()

    def used(self, store: Closable) -> None:
        """Records a use. Closes others if there are too many; more than the limit stay open only while in use."""
        with self._lock:
            self._stores[store] = None
            self._stores.move_to_end(store)
            if len(self._stores) <= self._limit:
                return
            oldest = list(self._stores)[: len(self._stores) - self._limit]
        for other in oldest:
            if other.release():
                self.forget(other)

    def forget(self, store: Closable) -> None:
        """Records that a store was closed."""
        with self._lock:
            self._stores.pop(store, None)
