"""Owns the exact Hamming scan: packed codes in memory, and their top-k by (distance, id).

Knows arrays only. A row carries a uint64 id, which breaks ties, and a uint32 number, which names it to
the caller; numbers rise with every append. Rows are never changed in place: a deletion stamps the row
with the epoch at which it died, and a `View` sees the rows that were alive at its epoch. So scans run
without locks beside appends and deletions, each over one consistent state.

Layout: codes lie in blocks of `LANES` rows, word by word (block, word, lane), so the lanes of a vector
register are independent codes. A batch of queries passes over a block while it is in cache."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

LANES = 2_048
BLOCKS = 128
CHUNK_ROWS = LANES * BLOCKS
_COMPACT_SHARE = 4

Bytes = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

_NO_MASK: Mask = np.zeros(0, np.bool_)


class ScanStopped(Exception):
    """The caller asked to stop before the scan was done."""


@dataclasses.dataclass(slots=True, eq=False)
class _Chunk:
    """Up to CHUNK_ROWS rows. `died` is 0 while a row lives, else the epoch of its deletion."""

    codes: npt.NDArray[np.uint64]  # (BLOCKS, words, LANES)
    ids: Ids
    numbers: Numbers
    died: npt.NDArray[np.uint32]
    rows: int = 0
    dead: int = 0

    @property
    def is_crowded(self) -> bool:
        """Whether dead rows take more room than copying the live ones is worth."""
        return self.dead * _COMPACT_SHARE > max(self.rows, LANES)

    @classmethod
    def empty(cls, words: int) -> _Chunk:
        # Zeroed memory is mapped when first touched, so an almost empty chunk costs almost nothing.
        return cls(
            np.zeros((BLOCKS, words, LANES), np.uint64),
            np.zeros(CHUNK_ROWS, np.uint64),
            np.zeros(CHUNK_ROWS, np.uint32),
            np.zeros(CHUNK_ROWS, np.uint32),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The matrix as it was after one append or deletion."""

    chunks: tuple[_Chunk, ...]
    rows: tuple[int, ...]
    epoch: int
    live: int


@dataclasses.dataclass(frozen=True, slots=True)
class Matches:
    """Row q holds counts[q] matches of query q, ordered by (distance, id); what follows is undefined."""

    counts: npt.NDArray[np.int64]  # (q,)
    distances: Distances  # (q, k)
    ids: Ids  # (q, k)
    numbers: Numbers  # (q, k)


class CodeMatrix:
    """Packed codes of one width with ids. One thread may write while any number scan.

    bits: width of a code, a multiple of 8, 16..8192."""

    def __init__(self, bits: int) -> None:
        if not 16 <= bits <= 8192 or bits % 8:
            raise ValueError(f"bits: {bits} is not a multiple of 8 from 16 to 8192")
        self.bits = bits
        self._words = -(-bits // 64)
        self._next_number = 0
        self._view = View((), (), 0, 0)

    def __len__(self) -> int:
        """Live rows."""
        return self._view.live

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks in use: codes, ids, numbers and deletion stamps."""
        row_bytes = self._words * 8 + 8 + 4 + 4
        return sum(-(-rows // LANES) * LANES * row_bytes for rows in self._view.rows)

    def view(self) -> View:
        """The present state, to scan it later or several times."""
        return self._view

    def append(self, codes: Bytes, ids: Ids, numbers: Numbers | None = None) -> None:
        """Add rows. codes: uint8 (n, bits/8); ids: uint64 (n,); numbers: uint32 (n,), rising and above all
        before, by default counted on. Raises ValueError on any other shape or order."""
        self.replace(np.zeros(0, np.uint32), codes, ids, numbers)

    def delete(self, numbers: Numbers) -> int:
        """Delete the rows of these numbers; unknown ones are passed over. Returns how many were alive."""
        return self.replace(numbers, np.zeros((0, self.bits // 8), np.uint8), np.zeros(0, np.uint64))

    def replace(self, deleted: Numbers, codes: Bytes, ids: Ids, numbers: Numbers | None = None) -> int:
        """Delete the rows `deleted` and append others in one step: a scan sees all of it or nothing.
        Returns how many of the deleted rows were alive. Arguments as in `delete` and `append`."""
        words = self._to_words(codes)
        ids = np.asarray(ids, np.uint64)
        if numbers is None:
            numbers = np.arange(self._next_number, self._next_number + len(words), dtype=np.uint32)
        self._check_rows(len(words), ids, numbers)
        before = self._view
        epoch = before.epoch + 1
        killed = 0
        firsts = np.array([chunk.numbers[0] for chunk in before.chunks], np.uint32)
        for position, group in _group_by_chunk(firsts, np.sort(np.asarray(deleted, np.uint32))):
            killed += _kill(before.chunks[position], group, epoch)
        chunks = list(before.chunks)
        if len(words):
            self._append_rows(chunks, words, ids, numbers)
            self._next_number = int(numbers[-1]) + 1
        self._publish(chunks, epoch, before.live - killed + len(words))
        if killed:
            self._compact()
        return killed

    def search(self, queries: Bytes, k: int, threads: int = 1) -> tuple[Distances, Ids]:
        """The k nearest rows to each query. queries: uint8 (q, bits/8). Returns (distances uint16 (q, k'),
        ids uint64 (q, k')) ordered by (distance, id), k' = min(k, live rows)."""
        view = self._view
        matches = self.scan(queries, k, view=view, threads=threads)
        width = min(k, view.live)
        return matches.distances[:, :width], matches.ids[:, :width]

    def scan(
        self,
        queries: Bytes,
        k: int,
        *,
        view: View | None = None,
        max_distance: int | None = None,
        mask: Mask | None = None,
        threads: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Matches:
        """The k nearest rows to each query within `max_distance` bits, among the rows whose number n has
        mask[n] (numbers past its end have not). Raises ScanStopped once `should_stop` says so."""
        if k < 1 or threads < 1:
            raise ValueError(f"k and threads: must be at least 1, are {k} and {threads}")
        words = self._to_words(queries)
        view = view or self._view
        limit = self.bits if max_distance is None else min(max_distance, self.bits)
        spans = _split(view, threads)

        def scan_span(span: Sequence[tuple[int, int, int]]) -> _Heaps:
            heaps = _Heaps.empty(len(words), max(1, min(k, view.live)))
            for position, first, last in span:
                if should_stop():
                    raise ScanStopped
                chunk = view.chunks[position]
                _scan_blocks(
                    chunk.codes, chunk.ids, chunk.numbers, chunk.died, first, last, view.rows[position],
                    view.epoch, mask is not None, _NO_MASK if mask is None else mask, words, limit,
                    heaps.counts, heaps.distances, heaps.ids, heaps.numbers,
                )  # fmt: skip
            return heaps

        if len(spans) == 1:
            heaps = scan_span(spans[0])
        else:
            heaps, *others = _pool(threads).map(scan_span, spans)
            for other in others:
                _absorb(*heaps.arrays, *other.arrays)
        _sort_heaps(*heaps.arrays)
        return Matches(*heaps.arrays)

    def _to_words(self, codes: Bytes) -> npt.NDArray[np.uint64]:
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.bits // 8:
            raise ValueError(
                f"codes: need uint8 of shape (n, {self.bits // 8}), got {codes.dtype} of {codes.shape}"
            )
        padded = np.zeros((len(codes), self._words * 8), np.uint8)
        padded[:, : codes.shape[1]] = codes
        return padded.view(np.uint64)

    def _check_rows(self, rows: int, ids: Ids, numbers: Numbers) -> None:
        if ids.shape != (rows,) or numbers.shape != (rows,):
            raise ValueError(f"ids and numbers: need shape ({rows},), got {ids.shape} and {numbers.shape}")
        rising = bool(np.all(numbers[1:] > numbers[:-1]))
        if rows and not (rising and self._next_number <= int(numbers[0])):
            raise ValueError(f"numbers: must rise and start at {self._next_number} or above")

    def _append_rows(
        self, chunks: list[_Chunk], words: npt.NDArray[np.uint64], ids: Ids, numbers: Numbers
    ) -> None:
        start = 0
        while start < len(words):
            if not chunks or chunks[-1].rows == CHUNK_ROWS:
                chunks.append(_Chunk.empty(self._words))
            chunk = chunks[-1]
            count = min(len(words) - start, CHUNK_ROWS - chunk.rows)
            rows = slice(chunk.rows, chunk.rows + count)
            taken = slice(start, start + count)
            _interleave(words[taken], chunk.rows, chunk.codes)
            chunk.ids[rows] = ids[taken]
            chunk.numbers[rows] = numbers[taken]
            chunk.rows += count
            start += count

    def _publish(self, chunks: list[_Chunk], epoch: int, live: int) -> None:
        self._view = View(tuple(chunks), tuple(chunk.rows for chunk in chunks), epoch, live)

    def _compact(self) -> None:
        """Copy the live rows out of chunks with many dead ones, so that memory follows the live rows.
        A row is copied only when a quarter of its chunk has died; old views keep the old chunks."""
        crowded = [chunk for chunk in self._view.chunks if chunk.is_crowded]
        if not crowded:
            return
        chunks: list[_Chunk] = []
        for chunk in self._view.chunks:
            if chunk not in crowded:
                chunks.append(chunk)
                continue
            alive = np.flatnonzero(chunk.died[: chunk.rows] == 0)
            words = chunk.codes[alive // LANES, :, alive % LANES]
            if chunks and chunks[-1] in self._view.chunks:
                # Rows never go behind those of a chunk that stays: old views read it, and numbers rise.
                chunks.append(_Chunk.empty(self._words))
            self._append_rows(chunks, words, chunk.ids[alive], chunk.numbers[alive])
        chunks = [chunk for chunk in chunks if chunk.rows]
        self._publish(chunks, self._view.epoch, self._view.live)


@dataclasses.dataclass(slots=True)
class _Heaps:
    """Per query a max-heap by (distance, id) of the best rows so far."""

    counts: npt.NDArray[np.int64]
    distances: Distances
    ids: Ids
    numbers: Numbers

    @classmethod
    def empty(cls, queries: int, k: int) -> _Heaps:
        return cls(
            np.zeros(queries, np.int64),
            np.zeros((queries, k), np.uint16),
            np.zeros((queries, k), np.uint64),
            np.zeros((queries, k), np.uint32),
        )

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int64], Distances, Ids, Numbers]:
        return self.counts, self.distances, self.ids, self.numbers


def warm_up() -> None:
    """Compile, or load from the cache, everything that a scan needs."""
    matrix = CodeMatrix(64)
    matrix.append(np.zeros((2, 8), np.uint8), np.arange(2, dtype=np.uint64))
    matrix.search(np.zeros((1, 8), np.uint8), 1, threads=1)
    heaps = _Heaps.empty(1, 1)
    _absorb(*heaps.arrays, *heaps.arrays)


@functools.lru_cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="scan")


def _split(view: View, threads: int) -> list[list[tuple[int, int, int]]]:
    """Cut a view's blocks into `threads` even spans or fewer, each a list of (chunk, first block, last block)."""
    counts = [-(-rows // LANES) for rows in view.rows]
    parts = min(threads, sum(counts)) or 1
    spans = []
    for part in range(parts):
        start, end = (edge * sum(counts) // parts for edge in (part, part + 1))
        span = []
        offset = 0
        for position, count in enumerate(counts):
            first, last = max(start - offset, 0), min(end - offset, count)
            if first < last:
                span.append((position, first, last))
            offset += count
        spans.append(span)
    return spans


def _group_by_chunk(firsts: Numbers, numbers: Numbers) -> list[tuple[int, Numbers]]:
    """Split sorted numbers by the chunk that may hold them. firsts: each chunk's first number, rising."""
    positions = np.searchsorted(firsts, numbers, side="right") - 1
    return [(int(p), numbers[positions == p]) for p in np.unique(positions) if p >= 0]


def _kill(chunk: _Chunk, numbers: Numbers, epoch: int) -> int:
    own = chunk.numbers[: chunk.rows]
    rows = np.searchsorted(own, numbers)
    rows = np.unique(rows[rows < chunk.rows])
    rows = rows[np.isin(own[rows], numbers) & (chunk.died[rows] == 0)]
    chunk.died[rows] = epoch
    chunk.dead += len(rows)
    return len(rows)


@intrinsic
def _popcount(typingctx, value):  # type: ignore[no-untyped-def]
    """Number of set bits of a uint64, as the processor's own instruction where it has one."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        function = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(function, args)

    return numba.uint64(numba.uint64), codegen


@numba.njit(nogil=True, cache=True)
def _interleave(words, first, codes):  # type: ignore[no-untyped-def]
    """Write rows of words to the lanes from row `first` on."""
    for row in range(words.shape[0]):
        block, lane = divmod(first + row, codes.shape[2])
        for word in range(words.shape[1]):
            codes[block, word, lane] = words[row, word]


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _block_distances(block, query, out):  # type: ignore[no-untyped-def]
    """Distances of one query to a block's lanes. Four words a pass keep the sums in registers."""
    words, lanes = block.shape
    tail = words % 4
    for lane in range(lanes):
        total = np.uint64(0)
        if tail > 0:
            total += _popcount(block[0, lane] ^ query[0])
        if tail > 1:
            total += _popcount(block[1, lane] ^ query[1])
        if tail > 2:
            total += _popcount(block[2, lane] ^ query[2])
        out[lane] = total
    for word in range(tail, words, 4):
        a, b, c, d = query[word], query[word + 1], query[word + 2], query[word + 3]
        for lane in range(lanes):
            out[lane] += (
                _popcount(block[word, lane] ^ a)
                + _popcount(block[word + 1, lane] ^ b)
                + _popcount(block[word + 2, lane] ^ c)
                + _popcount(block[word + 3, lane] ^ d)
            )


@numba.njit(nogil=True, cache=True)
def _scan_blocks(  # type: ignore[no-untyped-def]
    codes, ids, numbers, died, first, last, rows, epoch, masked, mask, queries, limit,
    counts, best_distances, best_ids, best_numbers,
):  # fmt: skip
    """Offer the live rows of blocks first..last of a chunk to each query's heap."""
    lanes = codes.shape[2]
    k = best_distances.shape[1]
    distances = np.empty(lanes, np.uint16)
    for block in range(first, last):
        base = block * lanes
        inside = min(lanes, rows - base)
        for q in range(queries.shape[0]):
            _block_distances(codes[block], queries[q], distances)
            bound = best_distances[q, 0] if counts[q] == k else limit
            nearest = np.uint16(65535)
            for lane in range(lanes):
                nearest = min(nearest, distances[lane])
            if nearest > bound:
                continue
            for lane in range(inside):
                if distances[lane] > bound:
                    continue
                row = base + lane
                if died[row] != 0 and died[row] <= epoch:
                    continue
                if masked and (numbers[row] >= mask.shape[0] or not mask[numbers[row]]):
                    continue
                _offer(
                    counts, best_distances[q], best_ids[q], best_numbers[q],
                    q, distances[lane], ids[row], numbers[row],
                )  # fmt: skip
                if counts[q] == k:
                    bound = best_distances[q, 0]


@numba.njit(nogil=True, cache=True)
def _offer(counts, distances, ids, numbers, q, distance, identifier, number):  # type: ignore[no-untyped-def]
    """Put a row into a query's heap if there is room or it comes before the last one there."""
    size = counts[q]
    if size < distances.shape[0]:
        child = size
        counts[q] = size + 1
        while child > 0:
            parent = (child - 1) // 2
            if not _before(distances[parent], ids[parent], distance, identifier):
                break
            distances[child], ids[child], numbers[child] = distances[parent], ids[parent], numbers[parent]
            child = parent
        distances[child], ids[child], numbers[child] = distance, identifier, number
    elif _before(distance, identifier, distances[0], ids[0]):
        _sift_down(distances, ids, numbers, size, distance, identifier, number)


@numba.njit(nogil=True, cache=True)
def _before(distance_a, id_a, distance_b, id_b):  # type: ignore[no-untyped-def]
    return distance_a < distance_b or (distance_a == distance_b and id_a < id_b)


@numba.njit(nogil=True, cache=True)
def _sift_down(distances, ids, numbers, size, distance, identifier, number):  # type: ignore[no-untyped-def]
    """Replace a heap's root and restore its order."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _before(distances[child], ids[child], distances[right], ids[right]):
            child = right
        if not _before(distance, identifier, distances[child], ids[child]):
            break
        distances[parent], ids[parent], numbers[parent] = distances[child], ids[child], numbers[child]
        parent = child
    distances[parent], ids[parent], numbers[parent] = distance, identifier, number


@numba.njit(nogil=True, cache=True)
def _absorb(  # type: ignore[no-untyped-def]
    counts, distances, ids, numbers, other_counts, other_distances, other_ids, other_numbers
):
    """Offer every row of other heaps to the first ones."""
    for q in range(counts.shape[0]):
        for j in range(other_counts[q]):
            _offer(
                counts, distances[q], ids[q], numbers[q],
                q, other_distances[q, j], other_ids[q, j], other_numbers[q, j],
            )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _sort_heaps(counts, distances, ids, numbers):  # type: ignore[no-untyped-def]
    """Turn each heap into a list ordered by (distance, id): heapsort in place."""
    for q in range(counts.shape[0]):
        for size in range(counts[q] - 1, 0, -1):
            distance, identifier, number = distances[q, size], ids[q, size], numbers[q, size]
            distances[q, size], ids[q, size], numbers[q, size] = distances[q, 0], ids[q, 0], numbers[q, 0]
            _sift_down(distances[q], ids[q], numbers[q], size, distance, identifier, number)
