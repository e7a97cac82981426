"""Owns finding rows by id: an open-addressing hash table from ids to row numbers.

An entry has a row number and one byte of the id's hash, so it takes 5 bytes, and a row 6 to 10. The table does not
hold ids: a lookup returns candidates, which contain every row of the id and about one in a hundred others, and the
caller compares what the rows hold. To grow, the table asks its owner for all ids and numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel.heaps import Ids
from shard.kernel.jit import compiled

Numbers = npt.NDArray[np.uint32]

# Row numbers stay below 2**31 (`shard.store.RENUMBER_ABOVE`), so these are none.
_EMPTY = np.uint32(0xFFFFFFFF)
_REMOVED = np.uint32(0xFFFFFFFE)
_MIN_ENTRIES = 64
_MAX_LOAD = 0.8
_GROWTH = 1.5


class RowIndex:
    """The row numbers of ids. Two rows may have the same id. One thread changes it, any thread may look up."""

    def __init__(self, rows: Callable[[], tuple[Ids, Numbers]]) -> None:
        """Creates the index over existing rows.

        Args:
            rows: Returns the ids, uint64 (n,), and the numbers, uint32 (n,), of all rows that the index should
                hold. It is called again when the table must grow.
        """
        self._rows = rows
        self._used = 0  # entries that are not empty, removed ones included
        self._table = _new_table(_MIN_ENTRIES)
        self._rebuild(0)

    @property
    def memory_bytes(self) -> int:
        return sum(array.nbytes for array in self._table)

    def find(self, ids: Ids) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Returns the candidates for each id.

        Args:
            ids: uint64 (n,).

        Returns:
            Positions in `ids`, int64 (m,), ascending, and the row number of each candidate, uint32 (m,).
        """
        positions, numbers = _find(*self._table, ids)
        return positions, numbers

    def add(self, ids: Ids, numbers: Numbers) -> None:
        """Adds rows. ids: uint64 (n,); numbers: uint32 (n,). `rows` must return them as well from now on."""
        if self._used + len(ids) > len(self._table[0]) * _MAX_LOAD:
            self._rebuild(len(ids))
        else:
            _add(*self._table, ids, numbers)
            self._used += len(ids)

    def remove(self, ids: Ids, numbers: Numbers) -> None:
        """Removes rows; ignores those that are not there. ids: uint64 (n,); numbers: uint32 (n,)."""
        _remove(*self._table, ids, numbers)

    def _rebuild(self, spare: int) -> None:
        ids, numbers = self._rows()
        table = _new_table(max(_MIN_ENTRIES, int((len(ids) + spare) / _MAX_LOAD * _GROWTH)))
        _add(*table, ids, numbers)
        self._table, self._used = table, len(ids)


def _new_table(entries: int) -> tuple[Numbers, npt.NDArray[np.uint8]]:
    return np.full(entries, _EMPTY, np.uint32), np.zeros(entries, np.uint8)


@compiled
def _place(identifier, entries):  # type: ignore[no-untyped-def]
    """The first entry to look at, and the byte of the hash to compare."""
    # Ids are hashes, but their upper bits are the same within a slot: multiply by the golden ratio, then mix.
    mixed = identifier * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    first = ((mixed >> np.uint64(32)) * np.uint64(entries)) >> np.uint64(32)
    return np.int64(first), np.uint8(mixed & np.uint64(0xFF))


@compiled
def _add(numbers, tags, ids, added):  # type: ignore[no-untyped-def]
    entries = len(numbers)
    for i in range(len(ids)):
        at, tag = _place(ids[i], entries)
        while numbers[at] != _EMPTY:
            at = at + 1 if at + 1 < entries else 0
        tags[at] = tag
        numbers[at] = added[i]


@compiled
def _remove(numbers, tags, ids, removed):  # type: ignore[no-untyped-def]
    entries = len(numbers)
    for i in range(len(ids)):
        at, _ = _place(ids[i], entries)
        while numbers[at] != _EMPTY:
            if numbers[at] == removed[i]:
                numbers[at] = _REMOVED
                break
            at = at + 1 if at + 1 < entries else 0


@compiled
def _find(numbers, tags, ids):  # type: ignore[no-untyped-def]
    entries = len(numbers)
    positions = np.empty(len(ids), np.int64)
    found = np.empty(len(ids), np.uint32)
    count = 0
    for i in range(len(ids)):
        at, tag = _place(ids[i], entries)
        while numbers[at] != _EMPTY:
            if tags[at] == tag and numbers[at] != _REMOVED:
                if count == len(found):
                    positions = np.concatenate((positions, np.empty(count, np.int64)))
                    found = np.concatenate((found, np.empty(count, np.uint32)))
                positions[count] = i
                found[count] = numbers[at]
                count += 1
            at = at + 1 if at + 1 < entries else 0
    return positions[:count], found[:count]
