"""Owns the exact top-k search of a view: decides which chunks to search through their buckets (multi-index
hashing, see `shard.kernel.mih`) and which to scan, and divides the scan among threads.

The functions do not check their arguments; `CodeMatrix.scan` does."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard.kernel import mih
from shard.kernel.chunk import Numbers, SelectedRows, Selection, Words, chunk_rows
from shard.kernel.heaps import Distances, Heaps, Ids, distance_of, id_of, place_of, sort
from shard.kernel.jit import compiled
from shard.kernel.memory import load_32
from shard.kernel.scan import NUMBERS, scan_chunk, scan_spans, tile_blocks
from shard.kernel.simd import LANES, shape_of
from shard.kernel.view import ScanStopped, View


# Not frozen: a frozen instance takes several times as long to create.
@dataclasses.dataclass(slots=True)
class Matches:
    """The matches of q queries. Row i holds counts[i] matches of query i, ordered by (distance, id); the values
    after them are undefined.

    Attributes:
        counts: int64 (q,).
        distances: uint16 (q, k), in bits.
        ids: uint64 (q, k).
        numbers: uint32 (q, k), row numbers of the store.
        has_equal_neighbours: Whether any two adjacent matches of a query have the same distance and id.
    """

    counts: npt.NDArray[np.int64]
    distances: Distances
    ids: Ids
    numbers: Numbers
    has_equal_neighbours: bool


# The most bytes of codes, times queries, that one compiled call compares, unless one span has more.
_BYTES_AT_ONCE = 512 << 20


@dataclasses.dataclass(slots=True)
class Request:
    """The parameters of a search."""

    queries: Words  # (q, words)
    words: int  # 64-bit words per code
    k: int
    limit: int  # the largest distance of a match, in bits
    floor: tuple[np.uint64, np.uint64]  # (distance, id): rows before it are left out
    selection: Selection | None
    should_stop: Callable[[], bool]


# Blocks of a chunk: its position, the first block, and one more than the last.
Span = tuple[int, int, int]
# `search`, or a function that returns the same matches.
Search = Callable[[View, Request, int], Matches]


def search(view: View, request: Request, threads: int) -> Matches:
    """Finds the k nearest rows of a view to each query.

    Raises:
        ScanStopped: If `request.should_stop` returned True.
    """
    hashed = _hashed_chunks(view, request.selection)
    is_plain = threads == 1 and not hashed and request.selection is None
    if is_plain and view.blocks * _block_bytes(request) <= _BYTES_AT_ONCE:
        return _search_at_once(view, request)
    positions = [position for position in range(len(view.chunks)) if position not in hashed]
    heaps = _scan(view, positions, request, threads)
    if hashed:
        _search_buckets(view, hashed, request, threads, heaps)
    return matches_of(view, heaps, request.words)


def _scan(view: View, positions: Sequence[int], request: Request, threads: int) -> Heaps:
    """Scans the chunks at these positions and returns the rows nearest to each query."""

    def scan_span(span: Sequence[Span]) -> Heaps:
        heaps = Heaps.empty(len(request.queries), request.k)
        if request.selection is None:
            for part in _parts(span, request):
                _raise_if_stopped(request)
                scan_spans(view.table, part, *_arguments(view, request), heaps.arrays, shape_of(request.words))
        else:
            for position, first, last in span:
                _raise_if_stopped(request)
                _scan_part(view, position, first, last, request.selection, request, heaps)
        return heaps

    if threads == 1:
        return scan_span(list(map(tuple, view.spans[positions].tolist())))
    spans = _split(view, positions, threads, tile_blocks(request.words))
    if len(spans) == 1:
        return scan_span(spans[0])
    heaps, *others = _pool(threads).map(scan_span, spans)
    for other in others:
        heaps.absorb(other)
    return heaps


def _search_at_once(view: View, request: Request) -> Matches:
    """Scans all chunks and reads out the matches in one compiled call. The overhead of a call equals the scan of
    thousands of rows."""
    _raise_if_stopped(request)
    shape = shape_of(request.words)
    return Matches(*_nearest(view.table, view.spans, *_arguments(view, request), request.k, shape))


@compiled
def _nearest(table, spans, tile, chunk_rows, epoch, queries, limit, floor, k, shape):  # type: ignore[no-untyped-def]
    """Returns the fields of `Matches`. The arguments are those of `scan_spans`."""
    count = queries.shape[0]
    counts = np.zeros(count, np.int64)
    keys, rests = np.zeros((count, k), np.uint64), np.zeros((count, k), np.uint64)
    scan_spans(table, spans, tile, chunk_rows, epoch, queries, limit, floor, (counts, keys, rests), shape)
    distances, ids, numbers, has_equal_neighbours = _read_out(counts, keys, rests, table, chunk_rows)
    return counts, distances, ids, numbers, has_equal_neighbours


def _arguments(view: View, request: Request) -> tuple[Any, ...]:
    """Returns the arguments of `scan_spans` from `tile` to `floor`."""
    words = request.words
    limit, epoch = np.uint64(request.limit), np.uint32(view.epoch)
    return tile_blocks(words), chunk_rows(words), epoch, request.queries, limit, request.floor


def _parts(spans: Sequence[Span], request: Request) -> list[npt.NDArray[np.int64]]:
    """Groups spans so that a compiled call, which cannot be stopped, takes some 30 ms, or has one span."""
    block_bytes = _block_bytes(request)
    parts: list[list[Span]] = [[]]
    size = 0
    for span in spans:
        size += (span[2] - span[1]) * block_bytes
        if parts[-1] and size > _BYTES_AT_ONCE:
            parts.append([])
            size = (span[2] - span[1]) * block_bytes
        parts[-1].append(span)
    return [np.array(part, np.int64) for part in parts if part]


def _block_bytes(request: Request) -> int:
    """Bytes of codes, times queries, that the scan of a block compares."""
    return LANES * request.words * 8 * len(request.queries)


def _raise_if_stopped(request: Request) -> None:
    if request.should_stop():
        raise ScanStopped


def _hashed_chunks(view: View, selection: Selection | None) -> list[int]:
    """Returns the positions of the chunks to search through their buckets. If a filter selects few rows of a
    chunk, gathering those rows is faster."""
    return [
        position
        for position, (chunk, rows) in enumerate(zip(view.chunks, view.rows, strict=True))
        if chunk.buckets
        and rows == chunk.rows
        and (selection is None or not selection.rows(chunk, rows).picked.size)
    ]


def _search_buckets(view: View, positions: list[int], request: Request, threads: int, heaps: Heaps) -> None:
    """Searches the chunks at these positions through their buckets, or by a scan for queries whose neighbours are
    far away, and merges the result into `heaps`."""
    # `tables` contains addresses; `_alive` keeps the arrays at these addresses alive.
    tables, _alive = _tables(view, positions, request.selection, request.words)
    rows = sum(view.rows[position] for position in positions)
    budget_ns = mih.SHARE * mih.scan_ns(rows, request.words, len(request.queries))
    found = Heaps.empty(len(request.queries), request.k)
    far = []
    for q, query in enumerate(request.queries):
        _raise_if_stopped(request)
        bound = heaps.bound(q, request.limit)
        if not mih.search(
            tables,
            query,
            request.limit,
            request.floor,
            bound,
            budget_ns,
            np.uint32(view.epoch),
            *mih.masks(),
            q,
            found.arrays,
        ):
            far.append(q)
    found.counts[far] = 0
    if far:
        scanned = _scan(view, positions, dataclasses.replace(request, queries=request.queries[far]), threads)
        found.put(far, scanned)
    heaps.absorb(found)


def _tables(
    view: View, positions: list[int], selection: Selection | None, words: int
) -> tuple[Words, list[SelectedRows]]:
    """Returns the tables for `mih.search`, and the objects whose memory the tables point to."""
    chunks = [view.chunks[position] for position in positions]
    tables = np.stack([chunk.buckets.table for chunk in chunks if chunk.buckets])
    tables[:, mih.PLACE] = np.array(positions) * chunk_rows(words)
    tables[[not chunk.dead for chunk in chunks], mih.DIED] = 0
    selected = [] if selection is None else [selection.rows(chunk, chunk.rows) for chunk in chunks]
    for table, rows in zip(tables, selected, strict=False):
        table[mih.SELECTED] = rows.bits.ctypes.data if rows.bits.size else 0
    return tables, selected


def _scan_part(
    view: View, position: int, first: int, last: int, selection: Selection, request: Request, heaps: Heaps
) -> None:
    """Scans the selected rows in blocks first..last-1 of one chunk."""
    tile, shape = tile_blocks(request.words), shape_of(request.words)
    chunk, rows = view.chunks[position], view.rows[position]
    selected = selection.rows(chunk, rows)
    limit, epoch = np.uint64(request.limit), np.uint32(view.epoch)
    rows = min(rows, last * LANES)
    if selected.picked.size:
        start, rows = (int(at) for at in np.searchsorted(selected.picked, (first * LANES, rows)))
        if start == rows:
            return
        selected = dataclasses.replace(selected, picked=selected.picked[start:rows])
        first, rows = 0, rows - start
        last = -(-rows // LANES)
    scan_chunk(
        chunk.arrays, np.uint32(position * chunk_rows(request.words)), first, last, tile, rows,
        chunk.dead, epoch, selected.bits, selected.picked, request.queries, limit, request.floor, heaps.arrays,
        shape,
    )  # fmt: skip


def matches_of(view: View, heaps: Heaps, words: int) -> Matches:
    """Sorts the heaps' rows and returns them as matches. Afterwards they no longer form heaps."""
    return Matches(heaps.counts, *_read_out(*heaps.arrays, view.table, chunk_rows(words)))


@compiled
def _read_out(counts, keys, rests, table, chunk_rows):  # type: ignore[no-untyped-def]
    """Sorts the rows in heaps and reads them out.

    Args:
        counts, keys, rests: As in `Heaps`; sorted.
        table: As in `View`.
        chunk_rows: The number of rows of a full chunk.

    Returns:
        The fields of `Matches` after `counts`. The scan itself does not look up row numbers, because each look-up
        is a cache miss.
    """
    sort(counts, keys, rests)
    distances, ids = np.zeros(keys.shape, np.uint16), np.zeros(keys.shape, np.uint64)
    numbers, rows = np.zeros(keys.shape, np.uint32), np.uint64(chunk_rows)
    has_equal_neighbours = False
    for q in range(keys.shape[0]):
        for j in range(counts[q]):
            key, rest = keys[q, j], rests[q, j]
            distances[q, j], ids[q, j] = distance_of(key), id_of(key, rest)
            place = place_of(rest)
            numbers[q, j] = load_32(table[place // rows, NUMBERS], place % rows)
        has_equal_neighbours |= has_equal(distances[q, : counts[q]], ids[q, : counts[q]])
    return distances, ids, numbers, has_equal_neighbours


@compiled
def has_equal(distances, ids):  # type: ignore[no-untyped-def]
    """Returns whether two adjacent rows have the same distance, uint16 (n,), and id, uint64 (n,)."""
    found = False
    for row in range(1, ids.size):
        found |= ids[row] == ids[row - 1] and distances[row] == distances[row - 1]
    return found


def _split(view: View, positions: Sequence[int], threads: int, tile: int) -> list[list[Span]]:
    """Divides the tiles of the chunks evenly into at most `threads` spans. A span is a list of (the chunk's
    position, first block, block after the last)."""
    tile_rows = tile * LANES
    counts = [-(-view.rows[position] // tile_rows) for position in positions]
    parts = min(threads, sum(counts)) or 1
    spans = []
    for part in range(parts):
        start, end = (edge * sum(counts) // parts for edge in (part, part + 1))
        span = []
        offset = 0
        for position, count in zip(positions, counts, strict=True):
            first, last = max(start - offset, 0), min(end - offset, count)
            if first < last:
                blocks = -(-view.rows[position] // LANES)
                span.append((position, first * tile, min(last * tile, blocks)))
            offset += count
        spans.append(span)
    return spans


@functools.lru_cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="scan")
