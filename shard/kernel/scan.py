"""Owns the exact scan of one chunk: tiles that stay in the cache, and the closer look where a row may matter.

A tile of 8 kB is compared with all queries while it is in the first cache. What comes out per query is the
nearest distance in the tile only; where that is within the query's bound, the tile is gone through again, lane
by lane. The bound is the distance of the k-th row so far, so that happens ever more seldom. Where it is met
exactly (a flood of equal codes), a tile whose least id is too large is passed over: ties cost no second pass."""

from __future__ import annotations

import numpy as np

from shard.kernel.heaps import offer
from shard.kernel.jit import compiled, inlined
from shard.kernel.simd import LANES, ids_below, popcount, prefetch, tile_nearest, tile_within

_TILE_BYTES = 8_192
_FOUND = 512
_CROWD = 4
_EIGHT, _FOUR, _ONE = (0,) * 8, (0,) * 4, (0,)


def tile_blocks(words: int) -> int:
    """Blocks in a tile of codes of so many words."""
    return max(1, _TILE_BYTES // (words * 8 * LANES))


@compiled
def scan_chunk(  # type: ignore[no-untyped-def]
    chunk, place, first, last, tile, rows, epoch, chosen, picked, queries, limit, heaps, shape
):
    """Offer the live rows of blocks first..last to each query's heap.

    chunk: (codes, ids, died, least_ids), `died` empty if no row has; place: of its first row; tile: blocks in a
    tile, `first` begins one; rows: how many of the chunk count; chosen: a bit per row, uint64 (blocks,), or empty
    for all; picked: empty, or int32 (n,), the only rows to look at: their codes are gathered into tiles, and
    first, last and rows count them; limit: uint64; heaps: (counts, distances, ids, places)."""
    codes, ids, died, least_ids = chunk
    counts, best_distances, best_ids, _ = heaps
    total, k = queries.shape[0], best_distances.shape[1]
    bounds = _bounds(heaps, total, limit)
    lanes = np.empty(tile, np.uint64)
    found = (np.empty(_FOUND, np.int32), np.empty(_FOUND, np.int32), np.empty(_FOUND, np.uint16))
    gathers, chooses = picked.size > 0, chosen.size > 0
    source = _room(tile, codes.shape[1]) if gathers else codes
    # This loop hands arrays to intrinsics only: a call, inlined or not, would count references for each tile.
    for block in range(first, last, tile):
        count = min(tile, last - block)
        at = block
        least_id = np.uint64(0)
        if gathers:
            at = 0
            _gather(codes, picked, block * LANES, min(rows, (block + count) * LANES), source)
        elif chooses and not chosen[block : block + count].any():
            continue
        else:
            least_id = least_ids[block // tile]
        waiting = 0
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
            if near:
                for query in range(q, q + size):
                    bit = np.uint64(query - q)
                    nearer = (near >> (bit + np.uint64(32))) & np.uint64(1)
                    tied = (near >> bit) & ~nearer & np.uint64(1)
                    if tied and counts[query] == k and least_id >= best_ids[query, 0]:
                        continue
                    if nearer or tied:
                        waiting = _look(
                            source, at, count, block * LANES, rows, picked, chosen, ids, died, place, epoch,
                            queries, query, bounds, heaps, lanes, found, waiting, shape,
                        )  # fmt: skip
            q += size
        if waiting:
            _settle(found, waiting, ids, died, place, epoch, bounds, heaps)


@compiled
def _room(tile, words):  # type: ignore[no-untyped-def]
    """A tile's memory, aligned to 64 bytes."""
    size = tile * words * LANES
    room = np.empty(size + 8, np.uint64)
    skip = (64 - room.ctypes.data % 64) % 64 // 8
    return room[skip : skip + size].reshape(tile, words, LANES)


@compiled
def _gather(codes, picked, first, last, gathered):  # type: ignore[no-untyped-def]
    """Copy the codes of rows picked[first:last] into a tile."""
    for at in range(last - first):
        row = picked[first + at]
        for word in range(codes.shape[1]):
            gathered[at // LANES, word, at % LANES] = codes[row // LANES, word, row % LANES]


@compiled
def _bounds(heaps, queries, limit):  # type: ignore[no-untyped-def]
    """The distance within which a row may still matter, per query."""
    counts, distances = heaps[0], heaps[1]
    bounds = np.full(queries, limit, np.uint64)
    for q in range(queries):
        if counts[q] == distances.shape[1]:
            bounds[q] = distances[q, 0]
    return bounds


@inlined
def _look(  # type: ignore[no-untyped-def]
    codes, block, count, base, rows, picked, chosen, ids, died, place, epoch,
    queries, query, bounds, heaps, lanes, found, waiting, shape,
):  # fmt: skip
    """Put the rows of these blocks that are within one query's bound to those found, of which so many wait."""
    found_queries, found_rows, found_distances = found
    is_full = heaps[0][query] == heaps[1].shape[1] and not picked.size
    nearer = np.empty(1, np.uint64)
    tile_within(codes, block, count, queries, query, bounds[query], lanes, shape)
    for b in range(count):
        hits = lanes[b] & chosen[block + b] if chosen.size else lanes[b]
        if is_full and popcount(hits) > _CROWD:
            # Of many rows at the very bound, only those with lesser ids matter.
            lesser = ids_below(ids, base + b * LANES, heaps[2][query, 0])
            if bounds[query] > 0:
                below = bounds[query] - np.uint64(1)
                lesser |= tile_within(codes, block + b, 1, queries, query, below, nearer, shape)
            hits &= lesser
        while hits:
            lane = np.int64(popcount((hits & (~hits + np.uint64(1))) - np.uint64(1)))
            hits &= hits - np.uint64(1)
            at = base + b * LANES + lane
            if at >= rows:
                break
            row = np.int64(picked[at]) if picked.size else at
            distance = np.uint64(0)
            for word in range(codes.shape[1]):
                distance += popcount(codes[block + b, word, lane] ^ queries[query, word])
            prefetch(ids, row)
            found_queries[waiting], found_rows[waiting], found_distances[waiting] = query, row, distance
            waiting += 1
            if waiting == found_rows.size:
                _settle(found, waiting, ids, died, place, epoch, bounds, heaps)
                waiting = 0
    return waiting


@compiled
def _settle(found, waiting, ids, died, place, epoch, bounds, heaps):  # type: ignore[no-untyped-def]
    """Offer the rows found to the heaps, if they live. Done in one go for a tile, so that their ids, which lie far
    apart, are on their way from memory together."""
    counts, best_distances, best_ids, best_places = heaps
    k = best_distances.shape[1]
    for i in range(waiting):
        query, row, distance = found[0][i], found[1][i], found[2][i]
        if distance > bounds[query] or (died.size and died[row] != 0 and died[row] <= epoch):
            continue
        offer(counts, best_distances, best_ids, best_places, query, distance, ids[row], place + row)
        if counts[query] == k:
            bounds[query] = best_distances[query, 0]
