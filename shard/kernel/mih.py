"""Owns multi-index hashing: exact search that looks into buckets instead of at every row.

The method is Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
arXiv:1307.2982. A code is cut into m substrings of 16 bits. Of two codes within m * s + j bits of each other,
either one of the first j + 1 substrings differs in at most s bits, or one of the others in at most s - 1. So,
going through the buckets around the query's substrings with s rising from 0 and for each s with j from 0, all rows
within m * s + j bits have been met; when the k-th distance is no more than that, the answer is complete.

Far neighbours would need ever more buckets. The work is estimated before each step, and a query that would take
longer than a share of a scan is left to the scan."""

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
# Of a scan's time, what may be spent before a query is left to the scan.
SHARE = 0.2
# Costs in nanoseconds, as measured by `lookalike bench`; they only decide who answers, never what.
_BUCKET_NS = 30.0
_CANDIDATE_NS, _CANDIDATE_WORD_NS = 25.0, 12.0
_SCAN_BYTES_PER_NS, _BATCH_BYTES_PER_NS = 25.0, 100.0

# The columns of a table: addresses of a chunk's arrays, 0 where there is none, and its rows.
CODES, IDS, DIED, CHOSEN, STARTS, ROWS, COUNT, PLACE = range(8)


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """A full chunk's rows by each of their m substrings: those with substring `key` at position j are
    rows[j, starts[j, key] : starts[j, key + 1]]. table: the chunk's row of a search's tables, without a filter."""

    starts: npt.NDArray[np.uint32]  # (m, 2**16 + 1)
    rows: npt.NDArray[np.uint32]  # (m, n)
    table: npt.NDArray[np.uint64]  # (8,)

    @classmethod
    def of(
        cls,
        codes: npt.NDArray[np.uint64],
        ids: npt.NDArray[np.uint64],
        died: npt.NDArray[np.uint32],
        rows: int,
    ) -> Buckets:
        """Of the first rows of a chunk. codes: (blocks, words, LANES); ids, died: (n,)."""
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


def fits(bits: int) -> bool:
    """Whether codes of so many bits can be hashed."""
    return MIN_BITS <= bits <= MAX_BITS and bits % 64 == 0


def scan_ns(rows: int, words: int, queries: int) -> float:
    """About how long a scan takes for each of so many queries at once."""
    return rows * words * 8 / (_SCAN_BYTES_PER_NS if queries < 4 else _BATCH_BYTES_PER_NS)


@functools.cache
def masks() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """All 16-bit numbers by how many bits are set, and where those with s bits begin."""
    numbers = np.arange(_KEYS, dtype=np.uint32)
    weights = np.bitwise_count(numbers)
    order = np.argsort(weights, kind="stable")
    return numbers[order], np.searchsorted(weights[order], np.arange(SUBSTRING_BITS + 2))


@compiled
def _fill(codes, starts, rows):  # type: ignore[no-untyped-def]
    """A counting sort for each substring."""
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
    tables, query, limit, bound, budget_ns, epoch, masks, begins, q, heaps
):
    """Offer to query q's heap the rows of the tabled chunks that matter, each once. False, with the heap half
    filled, when that would take longer than the budget.

    tables: uint64 (chunks, 8); query: uint64 (words,); limit: the furthest distance asked for; bound: the furthest
    that can still matter, for what is known of other chunks; masks, begins: see `masks`."""
    substrings = query.size * 4
    total = 0.0
    for t in range(tables.shape[0]):
        total += tables[t, COUNT]
    candidate_ns = _CANDIDATE_NS + query.size * _CANDIDATE_WORD_NS
    waiting = np.empty((_BATCH, 2), np.int64)
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
                # Each of these looks into memory far away: all are on their way before the first is waited for.
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
                        waiting[count, 0], waiting[count, 1] = t, row
                        count += 1
                        if count == _BATCH:
                            bound = _verify(tables, query, waiting, count, s, j, bound, epoch, q, heaps)
                            count = 0
                if spent > budget_ns:
                    return False
            bound = _verify(tables, query, waiting, count, s, j, bound, epoch, q, heaps)
            if min(bound, limit) <= substrings * s + j:
                return True
    return True


@compiled
def _verify(tables, query, waiting, count, s, j, bound, epoch, q, heaps):  # type: ignore[no-untyped-def]
    """Offer those of the waiting rows that are within the bound and were met for the first time. Returns the
    bound as it is then."""
    counts, keys, rests = heaps
    k, keys_at, rests_at = row_addresses(keys, rests, q)
    for i in range(count):
        t, row = waiting[i]
        base = np.uint64(row // LANES * query.size * LANES + row % LANES)
        distance = 0
        for word in range(query.size):
            distance += popcount(load_64(tables[t, CODES], base + np.uint64(word * LANES)) ^ query[word])
        if distance > bound or _met_before(tables[t, CODES], base, query, s, j):
            continue
        at = np.uint64(row)
        if tables[t, DIED]:
            died = load_32(tables[t, DIED], at)
            if died != 0 and died <= epoch:
                continue
        if tables[t, CHOSEN]:
            bits = load_64(tables[t, CHOSEN], np.uint64(row // LANES))
            if not (bits >> np.uint64(row % LANES)) & np.uint64(1):
                continue
        identifier = load_64(tables[t, IDS], at)
        counts[q] = offer(keys_at, rests_at, counts[q], k, distance, identifier, tables[t, PLACE] + at)
        if counts[q] == k:
            bound = min(bound, np.int64(distance_of(keys[q, 0])))
    return bound


@compiled
def _met_before(codes, base, query, s, j):  # type: ignore[no-untyped-def]
    """Whether an earlier bucket held the row too: s bits away by an earlier substring, or fewer by any."""
    for word in range(query.size):
        differing = load_64(codes, base + np.uint64(word * LANES)) ^ query[word]
        for part in range(4):
            weight = popcount((differing >> np.uint64(part * 16)) & np.uint64(0xFFFF))
            if weight < s or (weight == s and word * 4 + part < j):
                return True
    return False
