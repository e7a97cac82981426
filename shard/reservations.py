"""Owns the keys that are reserved for a version: until it is stored, the shard refuses lower versions of the key.

A coordinator that changes part of a record first reserves the key on as many replicas as a write needs, so that no
other write that it has not read can be acknowledged with a lower version. Reservations are in memory only. They
block no writer, because a writer that is refused takes a higher version; so one that nobody uses is harmless, and
it expires."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lookalike.cluster.scan import RESERVED_SECONDS
from lookalike.model.records import VersionedRecord


class Reservations:
    """The reserved keys of a collection. Only the thread that writes uses them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By key: the version, and when the reservation was made. In the order of the times.
        self._held: dict[str, tuple[int, float]] = {}

    def __bool__(self) -> bool:
        self._expire()
        return bool(self._held)

    def version(self, key: str) -> int:
        """Returns the version that the key is reserved for; 0 if it is not reserved."""
        return self._held.get(key, (0, 0.0))[0]

    def add(self, key: str, version: int) -> None:
        """Reserves the key for this version, or for the higher one that it is reserved for."""
        version = max(version, self._held.pop(key, (0, 0.0))[0])
        self._held[key] = (version, self._clock())

    def stored(self, records: Iterable[VersionedRecord]) -> None:
        """Ends the reservations for these records' versions and for lower ones."""
        for record in records:
            if self._held and record.version >= self.version(record.key):
                self._held.pop(record.key, None)

    def _expire(self) -> None:
        now = self._clock()
        while self._held:
            key = next(iter(self._held))
            if now - self._held[key][1] < RESERVED_SECONDS:
                return
            del self._held[key]
