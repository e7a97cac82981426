"""Owns the heaps of a search: one per query, with the best rows found so far by (distance, id), the order of every
answer.

A row is encoded as two uint64, `key` and `rest`, that compare like (distance, id). `key` holds the distance in 14
bits and the upper 50 bits of the id. `rest` holds the lower 14 bits of the id and, in its low 32 bits, the row's
place (its index over all chunks). So almost every comparison is a single 64-bit comparison."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from shard.kernel.jit import compiled
from shard.kernel.memory import load_64, store_64

Distances = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.uint64]

_ID_SHIFT, _DISTANCE_SHIFT, _PLACE_BITS = np.uint64(14), np.uint64(50), np.uint64(32)
_LOW_ID, _PLACE = np.uint64((1 << 14) - 1), np.uint64((1 << 32) - 1)


@dataclasses.dataclass(slots=True)
class Heaps:
    """One max-heap of up to k rows per query: the root is the worst row.

    Attributes:
        counts: int64 (q,): the number of rows in each heap.
        keys: uint64 (q, k): each row's `key`.
        rests: uint64 (q, k): each row's `rest`.
    """

    counts: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    rests: npt.NDArray[np.uint64]

    @classmethod
    def empty(cls, queries: int, k: int) -> Heaps:
        shape = (queries, k)
        return cls(np.zeros(queries, np.int64), np.zeros(shape, np.uint64), np.zeros(shape, np.uint64))

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        return self.counts, self.keys, self.rests

    @property
    def distances(self) -> Distances:
        return (self.keys >> _DISTANCE_SHIFT).astype(np.uint16)

    @property
    def ids(self) -> Ids:
        return (self.keys << _ID_SHIFT) | (self.rests >> _PLACE_BITS)

    def bound(self, query: int, limit: int) -> int:
        """Returns the largest distance at which a row can still enter the query's heap, at most `limit`."""
        if self.counts[query] < self.keys.shape[1]:
            return limit
        return min(limit, int(self.keys[query, 0] >> _DISTANCE_SHIFT))

    def absorb(self, other: Heaps) -> None:
        """Merges other heaps of the same queries into these."""
        _absorb(*self.arrays, *other.arrays)

    def put(self, queries: list[int], other: Heaps) -> None:
        """Replaces the heaps of these queries by `other`, in the order of `queries`."""
        self.counts[queries], self.keys[queries], self.rests[queries] = other.arrays


@compiled
def row_addresses(keys, rests, q):  # type: ignore[no-untyped-def]
    """Returns k and the addresses of query q's keys and rests, as `offer` takes them."""
    k = keys.shape[1]
    start = np.uint64(q * k * 8)
    return k, np.uint64(keys.ctypes.data) + start, np.uint64(rests.ctypes.data) + start


@compiled
def offer(keys_at, rests_at, size, k, distance, identifier, place):  # type: ignore[no-untyped-def]
    """Inserts a row into a heap of `size` rows if there is room or the row precedes the worst one.

    Args:
        keys_at: Address of the heap's keys.
        rests_at: Address of the heap's rests.
        size: The number of rows in the heap.
        k: The capacity of the heap.
        distance: The row's distance: uint64, at most 2**14 - 1.
        identifier: The row's id: uint64.
        place: The row's place: uint64, at most 2**32 - 1.

    Returns:
        The number of rows in the heap afterwards.
    """
    key = (distance << _DISTANCE_SHIFT) | (identifier >> _ID_SHIFT)
    return _insert(keys_at, rests_at, size, k, key, ((identifier & _LOW_ID) << _PLACE_BITS) | place)


@compiled
def distance_of(key):  # type: ignore[no-untyped-def]
    return key >> _DISTANCE_SHIFT


@compiled
def id_of(key, rest):  # type: ignore[no-untyped-def]
    return (key << _ID_SHIFT) | (rest >> _PLACE_BITS)


@compiled
def place_of(rest):  # type: ignore[no-untyped-def]
    return rest & _PLACE


@compiled
def _insert(keys_at, rests_at, size, k, key, rest):  # type: ignore[no-untyped-def]
    if size == k:
        if _before(key, rest, load_64(keys_at, 0), load_64(rests_at, 0)):
            _sift_down(keys_at, rests_at, size, key, rest)
        return size
    child = size
    while child > 0:
        parent = (child - 1) // 2
        if not _before(load_64(keys_at, parent), load_64(rests_at, parent), key, rest):
            break
        _move(keys_at, rests_at, parent, child)
        child = parent
    store_64(keys_at, child, key)
    store_64(rests_at, child, rest)
    return size + 1


@compiled
def _sift_down(keys_at, rests_at, size, key, rest):  # type: ignore[no-untyped-def]
    """Replaces a heap's root and restores the heap order."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _before(
            load_64(keys_at, child), load_64(rests_at, child), load_64(keys_at, right), load_64(rests_at, right)
        ):
            child = right
        if not _before(key, rest, load_64(keys_at, child), load_64(rests_at, child)):
            break
        _move(keys_at, rests_at, child, parent)
        parent = child
    store_64(keys_at, parent, key)
    store_64(rests_at, parent, rest)


@compiled
def _before(key_a, rest_a, key_b, rest_b):  # type: ignore[no-untyped-def]
    return key_a < key_b or (key_a == key_b and rest_a < rest_b)


@compiled
def _move(keys_at, rests_at, source, target):  # type: ignore[no-untyped-def]
    store_64(keys_at, target, load_64(keys_at, source))
    store_64(rests_at, target, load_64(rests_at, source))


@compiled
def _absorb(counts, keys, rests, other_counts, other_keys, other_rests):  # type: ignore[no-untyped-def]
    for q in range(counts.shape[0]):
        k, keys_at, rests_at = row_addresses(keys, rests, q)
        for j in range(other_counts[q]):
            counts[q] = _insert(keys_at, rests_at, counts[q], k, other_keys[q, j], other_rests[q, j])


@compiled
def sort(counts, keys, rests):  # type: ignore[no-untyped-def]
    """Sorts each heap's rows by (distance, id), in place. Afterwards they no longer form heaps."""
    for q in range(counts.shape[0]):
        _, keys_at, rests_at = row_addresses(keys, rests, q)
        for size in range(counts[q] - 1, 0, -1):
            key, rest = keys[q, size], rests[q, size]
            keys[q, size], rests[q, size] = keys[q, 0], rests[q, 0]
            _sift_down(keys_at, rests_at, size, key, rest)
