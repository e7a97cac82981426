"""Owns the exact scan of one chunk of rows (`Chunk`), in two passes over cache-sized tiles.

A block holds LANES codes, one per lane, and a tile holds one or more blocks. The first pass computes the
nearest distance in every tile for each query; a tile of 8 kB is compared with all queries while it is in the L1
cache. If a heap is not full yet, these distances bound that of the k-th nearest row (`_tighten`). The second
pass examines, lane by lane, the few tiles whose nearest distance is within the query's bound. If the nearest
distance equals the bound (as with many equal codes), a tile without an id small enough for the heap is skipped,
so such ties cost nothing. The vector code of both passes is in `shard.kernel.simd`."""

from __future__ import annotations

import functools

import numpy as np
from numba import carray

from shard.kernel.heaps import distance_of, id_of, offer, row_addresses
from shard.kernel.jit import compiled
from shard.kernel.memory import pointer_32, pointer_64
from shard.kernel.simd import LANES, ids_below, popcount, prefetch, tile_minima, tile_within

_TILE_BYTES = 8_192
# The number of candidates that are collected before they are offered to the heaps.
_FOUND = 32
# The largest number of minima (tiles times queries) kept at a time; those of `_MIN_STRIP` tiles may be more.
_MINIMA = 1 << 20
_MIN_STRIP = 64
_FAR = np.uint16(0xFFFF)
# If a block has more candidates than this, those at the bound whose ids are too large are dropped first.
_MANY_TIES = 4
_EIGHT, _FOUR, _ONE = (0,) * 8, (0,) * 4, (0,)
# The columns of a view's `table`, which `Chunk.entry` fills: the addresses of a chunk's arrays, the blocks that it
# has room for, its rows in the view, and how many of them are deleted.
_CODES, _IDS, _MIN_IDS, NUMBERS, _DIED, _CAPACITY, _ROWS, _DEAD = range(8)


@functools.cache
def tile_blocks(words: int) -> int:
    """Returns the number of blocks in a tile of codes of `words` 64-bit words."""
    return max(1, _TILE_BYTES // (words * 8 * LANES))


@compiled
def scan_spans(table, spans, tile, chunk_rows, epoch, queries, limit, floor, heaps, shape):  # type: ignore[no-untyped-def]
    """Offers the live rows of spans of blocks to each query's heap.

    Args:
        table: As in `View`.
        spans: int64 (n, 3): a chunk's position, the first block, which begins a tile, and one more than the last.
        chunk_rows: The number of rows of a full chunk.
        The others: As in `scan_chunk`.
    """
    words = queries.shape[1]
    no_bits, no_rows = np.empty(0, np.uint64), np.empty(0, np.int32)
    for s in range(spans.shape[0]):
        position, first, last = spans[s, 0], spans[s, 1], spans[s, 2]
        entry = table[position]
        blocks, dead = np.int64(entry[_CAPACITY]), np.int64(entry[_DEAD])
        chunk = (
            carray(pointer_64(entry[_CODES]), (blocks, words, LANES)),
            carray(pointer_64(entry[_IDS]), (blocks * LANES,)),
            carray(pointer_32(entry[_DIED]), (blocks * LANES if dead else 0,)),
            carray(pointer_64(entry[_MIN_IDS]), (-(-blocks // tile),)),
        )
        scan_chunk(
            chunk, np.uint32(position * chunk_rows), first, last, tile, min(np.int64(entry[_ROWS]), last * LANES),
            dead, epoch, no_bits, no_rows, queries, limit, floor, heaps, shape
        )  # fmt: skip


@compiled
def scan_chunk(  # type: ignore[no-untyped-def]
    chunk, place, first, last, tile, rows, dead, epoch, selected, picked, queries, limit, floor, heaps, shape
):
    """Offers the live rows of blocks first..last-1 to each query's heap.

    Args:
        chunk: (codes, ids, died, min_ids) as in `Chunk`; `died` is empty if no row is deleted.
        place: uint32: the place of the chunk's first row (see `heaps`).
        first: The first block; it begins a tile.
        last: One more than the last block.
        tile: Blocks per tile.
        rows: The number of rows to consider, from the start of the chunk.
        dead: The number of deleted rows in the chunk.
        epoch: uint32: rows that died at or before this epoch are skipped.
        selected: uint64 (blocks,): one bit per row, or empty for all rows.
        picked: Empty, or int32 (n,): the only rows to consider. Their codes are gathered into tiles, and `first`,
            `last` and `rows` refer to the gathered rows.
        queries: uint64 (q, words).
        limit: uint64: the largest distance requested, in bits.
        floor: (distance, id), both uint64: rows before it in the order of (distance, id) are skipped.
        heaps: (counts, keys, rests) as in `Heaps`; modified.
        shape: See `simd.shape_of`.
    """
    codes, ids, died, min_ids = chunk
    counts, keys, _ = heaps
    total, words = queries.shape[0], codes.shape[1]
    bounds = _bounds(counts, keys, limit)
    gathers, tiles = picked.size > 0, -(-(last - first) // tile)
    source = _tile_buffer(tile, words) if gathers else codes
    # Rows before `floor`, and rows that are not selected, have minima too: such minima bound nothing.
    are_bounds = not gathers and selected.size == 0 and floor[0] == 0 and floor[1] == 0
    strip = 1 if gathers else min(tiles, max(_MIN_STRIP, _MINIMA // max(total, 1)))
    minima = np.empty((strip, total), np.uint16)
    found = np.empty((_FOUND + tile * LANES, 3), np.int32)
    pending = 0
    for begin in range(first, last, strip * tile):
        end = min(last, begin + strip * tile)
        if gathers:
            _gather(codes, picked, begin * LANES, min(rows, end * LANES), source)
        _find_minima(source, selected, gathers, begin, end, tile, queries, minima, shape)
        if are_bounds:
            # The last tile may contain rows that the search does not consider.
            whole = (min(end, rows // LANES) - begin) // tile
            _tighten(bounds, counts, keys.shape[1], dead, minima[: max(0, whole)], words)
        pending = _examine(
            (source, ids, died, min_ids), place, begin, end, tile, rows, epoch, selected, picked, queries, bounds,
            floor, heaps, minima, found, pending, shape
        )  # fmt: skip
    _offer(ids, died, place, epoch, bounds, floor, heaps, found, pending)


@compiled
def _find_minima(source, selected, gathers, begin, end, tile, queries, minima, shape):  # type: ignore[no-untyped-def]
    """Writes the nearest distance in each tile of blocks begin..end-1 for each query.

    Args:
        minima: uint16 (tiles, q): in bits, or _FAR in a tile without selected rows.
    """
    total = queries.shape[0]
    for block in range(begin, end, tile):
        count = min(tile, end - block)
        row = (block - begin) // tile
        at = 0 if gathers else block
        if selected.size > 0 and not selected[block : block + count].any():
            minima[row] = _FAR
            continue
        q = 0
        while q < total:
            to = row * total + q
            if total - q >= 8:
                tile_minima(source, at, count, queries, q, minima, to, shape, _EIGHT)
                q += 8
            elif total - q >= 4:
                tile_minima(source, at, count, queries, q, minima, to, shape, _FOUR)
                q += 4
            else:
                tile_minima(source, at, count, queries, q, minima, to, shape, _ONE)
                q += 1


@compiled
def _tighten(bounds, counts, k, dead, minima, words):  # type: ignore[no-untyped-def]
    """Lowers the bounds of the queries whose heaps are not full.

    Each of `k + dead` tiles has a row at its minimum, and at most `dead` of these rows are deleted. So the k-th
    nearest live row is at most as far as the largest of these minima.

    Args:
        bounds: uint64 (q,), in bits; modified.
        counts: int64 (q,): the number of rows in each heap.
        k: The size of a full heap.
        dead: The largest possible number of deleted rows.
        minima: uint16 (tiles, q), in bits.
        words: 64-bit words per code.
    """
    needed = k + dead
    if needed > minima.shape[0]:
        return
    histogram = np.empty(words * 64 + 1, np.int64)
    for q in range(bounds.size):
        if counts[q] < k:
            histogram[:] = 0
            for row in range(minima.shape[0]):
                histogram[minima[row, q]] += 1
            nearer, distance = histogram[0], 0
            while nearer < needed:
                distance += 1
                nearer += histogram[distance]
            bounds[q] = min(bounds[q], np.uint64(distance))


@compiled
def _examine(  # type: ignore[no-untyped-def]
    chunk, place, begin, end, tile, rows, epoch, selected, picked, queries, bounds, floor, heaps, minima, found,
    pending, shape
):  # fmt: skip
    """Examines the tiles of blocks begin..end-1 whose minima are within the bounds, and offers their rows.

    The arguments are those of `scan_chunk`, except:

    Args:
        chunk: With the gathered codes if `picked` is not empty.
        bounds: uint64 (q,), in bits; modified.
        minima: uint16 (tiles, q), from `_find_minima`.
        found: int32 (n, 3): candidates that were not offered yet, as (query, row, distance); modified.
        pending: The number of candidates in `found`.

    Returns:
        The number of candidates in `found` afterwards.
    """
    source, ids, died, min_ids = chunk
    counts, keys, rests = heaps
    total, words, k = queries.shape[0], source.shape[1], keys.shape[1]
    gathers, selects = picked.size > 0, selected.size > 0
    floor_distance, _ = floor
    lanes, nearer_lanes, passed = np.empty(tile, np.uint64), np.empty(1, np.uint64), np.zeros(tile, np.uint64)
    for block in range(begin, end, tile):
        count = min(tile, end - block)
        row_of_minima = (block - begin) // tile
        at = 0 if gathers else block
        min_id = np.uint64(0) if gathers else min_ids[block // tile]
        for query in range(total):
            bound, minimum = bounds[query], np.uint64(minima[row_of_minima, query])
            if minimum > bound:
                continue
            # Then a row at the bound enters the heap only with an id below the worst one's.
            is_tight = counts[query] == k and distance_of(keys[query, 0]) == bound
            if is_tight and minimum == bound and min_id >= id_of(keys[query, 0], rests[query, 0]):
                continue
            tile_within(source, at, count, queries, query, bound, lanes, shape)
            if floor_distance > 0:
                tile_within(source, at, count, queries, query, floor_distance - np.uint64(1), passed, shape)
            for b in range(count):
                hits = lanes[b] & ~passed[b]
                if selects:
                    hits &= selected[block + b]
                if is_tight and popcount(hits) > _MANY_TIES and not gathers:
                    # Of many rows at the bound, only those with ids below the worst in the heap can enter it.
                    worst = id_of(keys[query, 0], rests[query, 0])
                    lesser = ids_below(ids, (block + b) * LANES, worst)
                    if bound > 0:
                        below = bound - np.uint64(1)
                        lesser |= tile_within(source, at + b, 1, queries, query, below, nearer_lanes, shape)
                    hits &= lesser
                while hits:
                    lane = np.int64(popcount((hits & (~hits + np.uint64(1))) - np.uint64(1)))
                    hits &= hits - np.uint64(1)
                    row = (block + b) * LANES + lane
                    if row >= rows:
                        break
                    if gathers:
                        row = np.int64(picked[row])
                    distance = np.uint64(0)
                    for word in range(words):
                        distance += popcount(source[at + b, word, lane] ^ queries[query, word])
                    prefetch(ids, row)
                    found[pending, 0], found[pending, 1], found[pending, 2] = query, row, distance
                    pending += 1
            if pending >= _FOUND:
                _offer(ids, died, place, epoch, bounds, floor, heaps, found, pending)
                pending = 0
    return pending


@compiled
def _offer(ids, died, place, epoch, bounds, floor, heaps, found, pending):  # type: ignore[no-untyped-def]
    """Offers candidates to the heaps, in batches: by then the prefetches of their scattered ids have completed.

    The arguments are those of `_examine`."""
    counts, keys, rests = heaps
    k, keys_at, rests_at = row_addresses(keys, rests, 0)
    row_bytes = np.uint64(k * 8)
    floor_distance, floor_id = floor
    for i in range(pending):
        query, row, distance = np.int64(found[i, 0]), np.int64(found[i, 1]), np.uint64(found[i, 2])
        if distance > bounds[query] or (died.size > 0 and died[row] != 0 and died[row] <= epoch):
            continue
        if distance == floor_distance and ids[row] < floor_id:
            continue
        at = np.uint64(query) * row_bytes
        counts[query] = offer(
            keys_at + at, rests_at + at, counts[query], k, distance, ids[row], np.uint64(place + row)
        )
        if counts[query] == k:
            bounds[query] = min(bounds[query], distance_of(keys[query, 0]))


@compiled
def _tile_buffer(tile, words):  # type: ignore[no-untyped-def]
    """Returns an uninitialized tile, aligned to 64 bytes."""
    size = tile * words * LANES
    room = np.empty(size + 8, np.uint64)
    skip = (64 - room.ctypes.data % 64) % 64 // 8
    return room[skip : skip + size].reshape(tile, words, LANES)


@compiled
def _gather(codes, picked, first, last, gathered):  # type: ignore[no-untyped-def]
    """Copies the codes of rows picked[first:last] into a tile."""
    for at in range(last - first):
        row = picked[first + at]
        for word in range(codes.shape[1]):
            gathered[at // LANES, word, at % LANES] = codes[row // LANES, word, row % LANES]


@compiled
def _bounds(counts, keys, limit):  # type: ignore[no-untyped-def]
    """Returns the largest distance at which a row can still enter each query's heap: uint64 (q,)."""
    bounds = np.full(counts.size, limit, np.uint64)
    for q in range(counts.size):
        if counts[q] == keys.shape[1]:
            bounds[q] = min(limit, distance_of(keys[q, 0]))
    return bounds
