"""Owns multi-index hashing: exact search that reads buckets instead of every row.

The method is Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
arXiv:1307.2982. A code is cut into m substrings of 16 bits. Of two codes within m * s + j bits of each other,
either one of the first j + 1 substrings differs in at most s bits, or one of the other substrings differs in at
most s - 1. The search reads the buckets around the query's substrings with s increasing from 0 and, for each s, j
from 0. After step (s, j) it has seen all rows within m * s + j bits; once the k-th distance is at most m * s + j,
the answer is complete.

The number of buckets grows quickly with the distance of the neighbours. The cost is estimated before each step,
and a query that would exceed a share of a scan's cost falls back to the scan."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from shard.kernel.heaps import distance_of, offer, row_addresses
from shard.kernel.jit import compiled
from shard.kernel.memory import load_32, load_64, prefetch_at, zeros
from shard.kernel.simd import LANES, popcount

SUBSTRING_BITS = 16
MIN_BITS, MAX_BITS = 64, 512
_KEYS = 1 << SUBSTRING_BITS
_BATCH = 128
_PAIRS = 256
# The share of a scan's time after which a query falls back to the scan.
SHARE = 0.2
# Costs in nanoseconds, as measured by `lookalike bench`. They decide the method, never the answer.
_BUCKET_NS = 30.0
_CANDIDATE_NS, _CANDIDATE_WORD_NS = 25.0, 12.0
_SCAN_BYTES_PER_NS, _BATCH_BYTES_PER_NS = 25.0, 100.0

# The columns of the array `tables`, which has one entry per chunk: the addresses of the chunk's arrays (0 if
# absent), its row count and the place of its first row (see `heaps`).
CODES, IDS, DIED, SELECTED, STARTS, ROWS, COUNT, PLACE = range(8)


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """A full chunk's n rows, grouped by each of their m substrings. The rows with substring `key` at position j
    are rows[j, starts[j, key] : starts[j, key + 1]].

    Attributes:
        starts: uint32 (m, 2**16 + 1).
        rows: uint32 (m, n).
        table: uint64 (8,): the chunk's entry in the argument `tables` of `search`, without a filter.
    """

    starts: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]
    table: npt.NDArray[np.uint64]

    @classmethod
    def of(
        cls,
        codes: npt.NDArray[np.uint64],
        ids: npt.NDArray[np.uint64],
        died: npt.NDArray[np.uint32],
        rows: int,
    ) -> Buckets:
        """Groups the first rows of a chunk.

        Args:
            codes: uint64 (blocks, words, LANES).
            ids: uint64 (n,).
            died: uint32 (n,).
            rows: The number of rows to group.
        """
        substrings = codes.shape[1] * 64 // SUBSTRING_BITS
        word = np.dtype(np.uint32)
        starts, sorted_rows = zeros(((substrings, _KEYS + 1), word), ((substrings, rows), word))
        _fill(codes, starts, sorted_rows)
        table = np.zeros(8, np.uint64)
        table[[CODES, IDS, DIED, STARTS, ROWS, COUNT]] = [
            *(array.ctypes.data for array in (codes, ids, died, starts, sorted_rows)),
            rows,
        ]
        return cls(starts, sorted_rows, table)

    @property
    def memory_bytes(self) -> int:
        return int(self.starts.nbytes + self.rows.nbytes)


def supports(bits: int) -> bool:
    """Returns whether codes of this width can be searched by multi-index hashing."""
    return MIN_BITS <= bits <= MAX_BITS and bits % 64 == 0


def scan_ns(rows: int, words: int, queries: int) -> float:
    """Estimates the time of a scan per query, in nanoseconds, in a batch of `queries`."""
    return rows * words * 8 / (_SCAN_BYTES_PER_NS if queries < 4 else _BATCH_BYTES_PER_NS)


@functools.cache
def masks() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Returns all 16-bit numbers ordered by popcount, uint32 (2**16,), and for each s the index of the first
    number with s set bits, int64 (18,)."""
    numbers = np.arange(_KEYS, dtype=np.uint32)
    weights = np.bitwise_count(numbers)
    order = np.argsort(weights, kind="stable")
    return numbers[order], np.searchsorted(weights[order], np.arange(SUBSTRING_BITS + 2))


@compiled
def _fill(codes, starts, rows):  # type: ignore[no-untyped-def]
    """Sorts the rows by each substring (counting sort)."""
    count = rows.shape[1]
    keys = np.empty(count, np.uint32)
    for j in range(starts.shape[0]):
        word, shift = j // 4, np.uint64(j % 4 * 16)
        for row in range(count):
            keys[row] = (codes[row // LANES, word, row % LANES] >> shift) & np.uint64(0xFFFF)
            starts[j, keys[row] + 1] += 1
        for key in range(_KEYS):
            starts[j, key + 1] += starts[j, key]
        at = starts[j, :_KEYS].copy()
        for row in range(count):
            rows[j, at[keys[row]]] = row
            at[keys[row]] += 1


@compiled
def search(  # type: ignore[no-untyped-def]
    tables, query, limit, floor, bound, budget_ns, epoch, masks, begins, q, heaps
):
    """Offers the matching rows of all chunks to query q's heap, each row once.

    Args:
        tables: uint64 (chunks, 8): one entry per chunk, with the columns CODES to PLACE.
        query: uint64 (words,).
        limit: The largest distance requested, in bits.
        floor: (distance, id), both uint64: rows before it in the order of (distance, id) are skipped.
        bound: The largest distance that can still enter the heap, given the rows of other chunks.
        budget_ns: The estimated time after which the search gives up.
        epoch: uint32: rows that died at or before it are skipped.
        masks: See the function `masks`.
        begins: See the function `masks`.
        q: The query's index in the heaps.
        heaps: (counts, keys, rests), see `Heaps.arrays`.

    Returns:
        False if the search would exceed the budget; the heap is then incomplete.
    """
    substrings = query.size * 4
    total = 0.0
    for t in range(tables.shape[0]):
        total += tables[t, COUNT]
    candidate_ns = _CANDIDATE_NS + query.size * _CANDIDATE_WORD_NS
    pending = np.empty((_BATCH, 2), np.int64)
    spans = np.empty((_PAIRS, 2), np.uint64)
    spent = 0.0
    for s in range(SUBSTRING_BITS + 1):
        buckets = begins[s + 1] - begins[s]
        for j in range(substrings):
            step = buckets * (tables.shape[0] * _BUCKET_NS + total / _KEYS * candidate_ns)
            if spent + step > budget_ns:
                return False
            part = np.uint32((query[j // 4] >> np.uint64(j % 4 * 16)) & np.uint64(0xFFFF))
            count = 0
            pairs = buckets * tables.shape[0]
            for start in range(0, pairs, _PAIRS):
                size = min(_PAIRS, pairs - start)
                # Each access is a cache miss, so all are prefetched before the first is read.
                for p in range(size):
                    t, m = (start + p) % tables.shape[0], (start + p) // tables.shape[0]
                    entry = np.uint64(j * (_KEYS + 1)) + np.uint64(part ^ masks[begins[s] + m])
                    spans[p, 0] = entry
                    prefetch_at(tables[t, STARTS], entry * np.uint64(4))
                for p in range(size):
                    t = (start + p) % tables.shape[0]
                    entry = spans[p, 0]
                    offset = np.uint64(j) * tables[t, COUNT]
                    spans[p, 0] = offset + np.uint64(load_32(tables[t, STARTS], entry))
                    spans[p, 1] = offset + np.uint64(load_32(tables[t, STARTS], entry + np.uint64(1)))
                    prefetch_at(tables[t, ROWS], spans[p, 0] * np.uint64(4))
                for p in range(size):
                    t = (start + p) % tables.shape[0]
                    spent += _BUCKET_NS + (spans[p, 1] - spans[p, 0]) * candidate_ns
                    for i in range(spans[p, 0], spans[p, 1]):
                        row = np.int64(load_32(tables[t, ROWS], i))
                        at = row // LANES * query.size * LANES + row % LANES
                        for word in range(query.size):
                            prefetch_at(tables[t, CODES], np.uint64((at + word * LANES) * 8))
                        pending[count, 0], pending[count, 1] = t, row
                        count += 1
                        if count == _BATCH:
                            bound = _verify(tables, query, pending, count, s, j, floor, bound, epoch, q, heaps)
                            count = 0
                if spent > budget_ns:
                    return False
            bound = _verify(tables, query, pending, count, s, j, floor, bound, epoch, q, heaps)
            if min(bound, limit) <= substrings * s + j:
                return True
    return True


@compiled
def _verify(tables, query, pending, count, s, j, floor, bound, epoch, q, heaps):  # type: ignore[no-untyped-def]
    """Offers the pending rows that are within the bound and were not seen before; returns the new bound."""
    counts, keys, rests = heaps
    k, keys_at, rests_at = row_addresses(keys, rests, q)
    floor_distance = np.int64(floor[0])
    for i in range(count):
        t, row = pending[i]
        base = np.uint64(row // LANES * query.size * LANES + row % LANES)
        distance = 0
        for word in range(query.size):
            distance += popcount(load_64(tables[t, CODES], base + np.uint64(word * LANES)) ^ query[word])
        if distance < floor_distance or distance > bound or _seen_before(tables[t, CODES], base, query, s, j):
            continue
        at = np.uint64(row)
        if tables[t, DIED]:
            died = load_32(tables[t, DIED], at)
            if died != 0 and died <= epoch:
                continue
        if tables[t, SELECTED]:
            bits = load_64(tables[t, SELECTED], np.uint64(row // LANES))
            if not (bits >> np.uint64(row % LANES)) & np.uint64(1):
                continue
        identifier = load_64(tables[t, IDS], at)
        if distance == floor_distance and identifier < floor[1]:
            continue
        counts[q] = offer(keys_at, rests_at, counts[q], k, distance, identifier, tables[t, PLACE] + at)
        if counts[q] == k:
            bound = min(bound, np.int64(distance_of(keys[q, 0])))
    return bound


@compiled
def _seen_before(codes, base, query, s, j):  # type: ignore[no-untyped-def]
    """Returns whether an earlier bucket also held the row: whether an earlier substring differs in s bits, or any
    substring in fewer."""
    for word in range(query.size):
        differing = load_64(codes, base + np.uint64(word * LANES)) ^ query[word]
        for part in range(4):
            weight = popcount((differing >> np.uint64(part * 16)) & np.uint64(0xFFFF))
            if weight < s or (weight == s and word * 4 + part < j):
                return True
    return False
