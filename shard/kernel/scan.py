"""Owns the exact scan of one chunk of rows (`Chunk`), in two passes over cache-sized tiles.

A block holds LANES codes, one per lane, and a tile holds one or more blocks. A tile of 8 kB is compared with all
queries while it is in the L1 cache. The first pass computes only the nearest distance in the tile for each query;
if that is within the query's bound, a second pass examines the tile lane by lane. The bound is the distance of the
k-th nearest row so far, so second passes become rarer as the scan proceeds. If the nearest distance equals the
bound (as with many equal codes), a tile without an id small enough for the heap is skipped: such ties cost no
second pass. The vector code of both passes is in `shard.kernel.simd`."""

from __future__ import annotations

import numpy as np

from shard.kernel.heaps import distance_of, id_of, offer, row_addresses
from shard.kernel.jit import compiled
from shard.kernel.simd import LANES, ids_below, popcount, prefetch, tile_nearest, tile_within

_TILE_BYTES = 8_192
# The number of candidates that are collected before they are offered to the heaps.
_FOUND = 512
# If a block has more candidates than this, those at the bound whose ids are too large are dropped first.
_MANY_TIES = 4
_EIGHT, _FOUR, _ONE = (0,) * 8, (0,) * 4, (0,)


def tile_blocks(words: int) -> int:
    """Returns the number of blocks in a tile of codes of `words` 64-bit words."""
    return max(1, _TILE_BYTES // (words * 8 * LANES))


@compiled
def scan_chunk(  # type: ignore[no-untyped-def]
    chunk, place, first, last, tile, rows, epoch, selected, picked, queries, limit, floor, heaps, shape
):
    """Offers the live rows of blocks first..last-1 to each query's heap.

    This is one long function because a call with array arguments counts references, which costs more than the
    second pass over a tile.

    Args:
        chunk: (codes, ids, died, min_ids) as in `Chunk`; `died` is empty if no row is deleted.
        place: uint32: the place of the chunk's first row (see `heaps`).
        first: The first block; it begins a tile.
        last: One more than the last block.
        tile: Blocks per tile.
        rows: The number of rows to consider, from the start of the chunk.
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
    counts, keys, rests = heaps
    total, words = queries.shape[0], codes.shape[1]
    k, keys_at, rests_at = row_addresses(keys, rests, 0)
    row_bytes = np.uint64(k * 8)
    bounds = _bounds(counts, keys, limit)
    lanes, nearer_lanes = np.empty(tile, np.uint64), np.empty(1, np.uint64)
    floor_distance, floor_id = floor
    passed = np.zeros(tile, np.uint64)
    found = np.empty((_FOUND + 8 * tile * LANES, 3), np.int32)
    gathers, selects, some_died = picked.size > 0, selected.size > 0, died.size > 0
    source = _tile_buffer(tile, words) if gathers else codes
    pending = 0
    for block in range(first, last, tile):
        count = min(tile, last - block)
        at = block
        min_id = np.uint64(0)
        if gathers:
            at = 0
            _gather(codes, picked, block * LANES, min(rows, (block + count) * LANES), source)
        elif selects and not selected[block : block + count].any():
            continue
        else:
            min_id = min_ids[block // tile]
        q = 0
        while q < total:
            if total - q >= 8:
                size = 8
                near = tile_nearest(source, at, count, queries, q, bounds, shape, _EIGHT)
            elif total - q >= 4:
                size = 4
                near = tile_nearest(source, at, count, queries, q, bounds, shape, _FOUR)
            else:
                size = 1
                near = tile_nearest(source, at, count, queries, q, bounds, shape, _ONE)
            # The second pass, for each query with a candidate in the tile.
            while near & np.uint64(0xFFFFFFFF):
                j = popcount((near & (~near + np.uint64(1))) - np.uint64(1))
                is_nearer = (near >> (j + np.uint64(32))) & np.uint64(1)
                near &= near - np.uint64(1)
                query = q + np.int64(j)
                is_full = counts[query] == k
                if is_full and not is_nearer and min_id >= id_of(keys[query, 0], rests[query, 0]):
                    continue
                bound = bounds[query]
                tile_within(source, at, count, queries, query, bound, lanes, shape)
                if floor_distance > 0:
                    below = floor_distance - np.uint64(1)
                    tile_within(source, at, count, queries, query, below, passed, shape)
                for b in range(count):
                    hits = lanes[b] & ~passed[b]
                    if selects:
                        hits &= selected[block + b]
                    if is_full and popcount(hits) > _MANY_TIES and not gathers:
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
            q += size
            if q < total and pending < _FOUND:
                continue
            # Candidates are offered in batches: by then the prefetches of their scattered ids have completed.
            for i in range(pending):
                query, row, distance = np.int64(found[i, 0]), np.int64(found[i, 1]), np.uint64(found[i, 2])
                if distance > bounds[query] or (some_died and died[row] != 0 and died[row] <= epoch):
                    continue
                if distance == floor_distance and ids[row] < floor_id:
                    continue
                at_row = np.uint64(query) * row_bytes
                counts[query] = offer(
                    keys_at + at_row,
                    rests_at + at_row,
                    counts[query],
                    k,
                    distance,
                    ids[row],
                    np.uint64(place + row),
                )
                if counts[query] == k:
                    bounds[query] = distance_of(keys[query, 0])
            pending = 0


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
