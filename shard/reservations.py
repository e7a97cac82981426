"""Owns the keys that are reserved for a version: until it is stored, the shard refuses lower versions of the key.

A coordinator that changes a record depending on the stored one first reserves the key on as many replicas as a
write needs, so that no other write that it has not read can be acknowledged with a lower version. Then it stores
the record, which a replica accepts only while the key is reserved there for this very version. Reservations block
no writer, because a writer that is refused takes a higher version; so one that nobody uses is harmless, and it
expires.

Reservations are in memory, but a restart breaks none of them: on disk is a version up to which keys may have been
reserved. After a restart the shard refuses all versions up to that one, of any key, until every reservation would
have expired."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lookalike.cluster.scan import RESERVED_SECONDS
from lookalike.model.records import VERSION_LIMIT, VERSIONS_PER_MS, VersionedRecord

# How far the version on disk is ahead of the versions that keys are reserved for, so that it is seldom written. It
# ends in zeros, like every limit that a shard computes; a coordinator's versions do not.
_AHEAD = 60_000 * VERSIONS_PER_MS
# How long nobody takes over a reservation. Its holder needs milliseconds, unless it is gone.
_EXCLUSIVE_SECONDS = 2.0


class Reservations:
    """The reserved keys of a collection. Only the thread that writes uses them."""

    def __init__(
        self,
        reserved_to: int = 0,
        set_reserved_to: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a collection's reservations after a start.

        Args:
            reserved_to: The version on disk.
            set_reserved_to: Stores it, durably.
            clock: Returns seconds.
        """
        self._clock = clock
        self._floor = self._reserved_to = reserved_to
        self._set_reserved_to = set_reserved_to
        self._floor_ends = clock() + RESERVED_SECONDS
        # By key: the version, and when the reservation was made. In the order of the times.
        self._held: dict[str, tuple[int, float]] = {}

    def __bool__(self) -> bool:
        self._expire()
        return bool(self._held)

    @property
    def floor(self) -> int:
        """The version below which all keys are reserved, because of a restart; 0 if none is."""
        if self._floor and self._clock() >= self._floor_ends:
            self._floor = 0
        return self._floor

    def version(self, key: str) -> int:
        """Returns the version that the key is reserved for; 0 if it is not reserved."""
        return max(self._held.get(key, (0, 0.0))[0], self.floor)

    def taken(self, key: str, version: int) -> int:
        """Returns the version that the key is reserved for, if that prevents its reservation for this version:
        because it is higher, or because its holder has not had the time to store it. 0 otherwise."""
        held, since = self._held.get(key, (0, 0.0))
        is_recent = held not in (0, version) and self._clock() - since < _EXCLUSIVE_SECONDS
        return held if is_recent else max(held, self.floor) if max(held, self.floor) > version else 0

    def release(self, key: str, version: int) -> None:
        """Ends the key's reservation for this version, if there is one."""
        if self._held.get(key, (0, 0.0))[0] == version:
            del self._held[key]

    def add(self, key: str, version: int) -> None:
        """Reserves the key for this version, or for the higher one that it is reserved for."""
        if version > self._reserved_to:
            ahead = (version + _AHEAD) // VERSIONS_PER_MS * VERSIONS_PER_MS
            self._reserved_to = min(ahead, VERSION_LIMIT - 1)
            self._set_reserved_to(self._reserved_to)
        version = max(version, self._held.pop(key, (0, 0.0))[0])
        self._held[key] = (version, self._clock())

    def stored(self, records: Iterable[VersionedRecord]) -> None:
        """Ends the reservations for these records' versions and for lower ones."""
        for record in records:
            if self._held and record.version >= self._held.get(record.key, (0, 0.0))[0]:
                self._held.pop(record.key, None)

    def _expire(self) -> None:
        now = self._clock()
        while self._held:
            key = next(iter(self._held))
            if now - self._held[key][1] < RESERVED_SECONDS:
                return
            del self._held[key]
