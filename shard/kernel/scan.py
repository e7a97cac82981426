"""Owns the exact scan of one chunk: tiles that stay in the cache, and the closer look where a row may matter.

A tile of 8 kB is compared with all queries while it is in the first cache. What comes out per query is the
nearest distance in the tile only; where that is within the query's bound, the tile is gone through again, lane
by lane. The bound is the distance of the k-th row so far, so that happens ever more seldom. Where it is met
exactly (a flood of equal codes), a tile whose least id is too large is passed over: ties cost no second pass."""

from __future__ import annotations

import numpy as np

from shard.kernel.heaps import distance_of, id_of, offer, row_addresses
from shard.kernel.jit import compiled
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
    first, last and rows count them; limit: uint64; heaps: (counts, keys, rests).

    One long function, for a call with arrays counts references, which costs more than a closer look."""
    codes, ids, died, least_ids = chunk
    counts, keys, rests = heaps
    total, words = queries.shape[0], codes.shape[1]
    k, keys_at, rests_at = row_addresses(keys, rests, 0)
    row_bytes = np.uint64(k * 8)
    bounds = _bounds(counts, keys, limit)
    lanes, nearer_lanes = np.empty(tile, np.uint64), np.empty(1, np.uint64)
    found = np.empty((_FOUND + 8 * tile * LANES, 3), np.int32)
    gathers, chooses, some_died = picked.size > 0, chosen.size > 0, died.size > 0
    source = _room(tile, words) if gathers else codes
    waiting = 0
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
            # A closer look, for each query to which the tile may matter.
            while near & np.uint64(0xFFFFFFFF):
                j = popcount((near & (~near + np.uint64(1))) - np.uint64(1))
                is_nearer = (near >> (j + np.uint64(32))) & np.uint64(1)
                near &= near - np.uint64(1)
                query = q + np.int64(j)
                is_full = counts[query] == k
                if is_full and not is_nearer and least_id >= id_of(keys[query, 0], rests[query, 0]):
                    continue
                bound = bounds[query]
                tile_within(source, at, count, queries, query, bound, lanes, shape)
                for b in range(count):
                    hits = lanes[b] & chosen[block + b] if chooses else lanes[b]
                    if is_full and popcount(hits) > _CROWD and not gathers:
                        # Of many rows at the very bound, only those with lesser ids matter.
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
                        found[waiting, 0], found[waiting, 1], found[waiting, 2] = query, row, distance
                        waiting += 1
            q += size
            if q < total and waiting < _FOUND:
                continue
            # What was found is offered together: the ids lie far apart, and are on their way from memory by now.
            for i in range(waiting):
                query, row, distance = np.int64(found[i, 0]), np.int64(found[i, 1]), np.uint64(found[i, 2])
                if distance > bounds[query] or (some_died and died[row] != 0 and died[row] <= epoch):
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
            waiting = 0


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
def _bounds(counts, keys, limit):  # type: ignore[no-untyped-def]
    """The distance within which a row may still matter, per query."""
    bounds = np.full(counts.size, limit, np.uint64)
    for q in range(counts.size):
        if counts[q] == keys.shape[1]:
            bounds[q] = min(limit, distance_of(keys[q, 0]))
    return bounds
