"""Owns weighted Hamming distance: the sum of the query's weights over the differing bits. If the weights are a
query's projections, this is the asymmetric distance of a float query to binary codes (Gordo et al., TPAMI 2014).

A query becomes one table of 256 sums per byte of a code, so a row costs one look-up per byte. Sums are integers,
so they are the same in any order and on any machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import ALL_ROWS, Chunk, Numbers, SelectedRows, Selection, Words
from shard.kernel.heaps import Distances, Ids
from shard.kernel.jit import compiled
from shard.kernel.simd import LANES, popcount
from shard.kernel.view import ScanStopped, View, group_by_chunk

Bytes = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.uint16]
Sums = npt.NDArray[np.uint32]

_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.uint32)


@dataclasses.dataclass(frozen=True, slots=True)
class WeightedMatches:
    """One query's matches, ordered by (weighted, id): the first k, and all rows that tie with the k-th.

    Attributes:
        weighted: uint32 (n,): weighted distances.
        distances: uint16 (n,): Hamming distances, in bits.
        ids: uint64 (n,): record ids.
        numbers: uint32 (n,): the store's row numbers.
    """

    weighted: Sums
    distances: Distances
    ids: Ids
    numbers: Numbers

    def merged(self, other: WeightedMatches, k: int) -> WeightedMatches:
        """Returns the first k matches of both, and all rows that tie with the k-th."""
        weighted = np.concatenate([self.weighted, other.weighted])
        distances = np.concatenate([self.distances, other.distances])
        ids = np.concatenate([self.ids, other.ids])
        numbers = np.concatenate([self.numbers, other.numbers])
        order = np.lexsort((numbers, ids, weighted))
        end = min(k, len(order))
        while 0 < end < len(order) and (
            weighted[order[end]] == weighted[order[end - 1]] and ids[order[end]] == ids[order[end - 1]]
        ):
            end += 1
        order = order[:end]
        return WeightedMatches(weighted[order], distances[order], ids[order], numbers[order])


def scan(
    view: View,
    query: Bytes,
    weights: Weights,
    k: int,
    *,
    max_distance: int | None = None,
    floor: tuple[int, int] = (0, 0),
    selection: Selection | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> WeightedMatches:
    """Finds the k nearest rows by weighted distance.

    Args:
        view: The rows.
        query: uint8 (bits/8,).
        weights: uint16 (bits,), in numpy.packbits order.
        k: Rows to find, at least 1.
        max_distance: The largest Hamming distance of a match, in bits.
        floor: A weighted distance and an id: rows before it in the order of (weighted, id) are left out.
        selection: The rows to consider; all by default.
        should_stop: Polled before each chunk.

    Returns:
        The first k rows by (weighted, id), and all rows that tie with the k-th.

    Raises:
        ScanStopped: If `should_stop` returned True.
    """
    words = -(-len(query) // 8)
    sums, query_words = _sums(query, weights, words), _to_words(query, words)
    best = WeightedMatches(
        np.zeros(0, np.uint32), np.zeros(0, np.uint16), np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    )
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        if should_stop():
            raise ScanStopped
        selected = ALL_ROWS if selection is None else selection.rows(chunk, rows)
        picked = selected.picked[: np.searchsorted(selected.picked, rows)].astype(np.int64)
        if selected.picked.size:
            weighted, distances = _rank_rows(chunk, picked, query_words, sums)
        else:
            weighted, distances = _rank_all(chunk, rows, query_words, sums)
        near = np.arange(len(weighted))
        if len(best.ids) >= k:
            near = np.flatnonzero(weighted <= best.weighted[-1])
        if max_distance is not None:
            near = near[distances[near] <= max_distance]
        if floor != (0, 0):
            near = near[weighted[near] >= floor[0]]
        found = picked[near] if selected.picked.size else near
        matching = _live_and_selected(chunk, view.epoch, selected, found)
        near, found = near[matching], found[matching]
        if floor != (0, 0):
            reached = (weighted[near] > floor[0]) | (chunk.ids[found] >= np.uint64(floor[1]))
            near, found = near[reached], found[reached]
        if len(found) > k:
            first = weighted[near] <= np.partition(weighted[near], k - 1)[k - 1]
            near, found = near[first], found[first]
        best = best.merged(
            WeightedMatches(weighted[near], distances[near], chunk.ids[found], chunk.numbers[found]), k
        )
    return best


def weigh(view: View, numbers: Numbers, query: Bytes, weights: Weights) -> Sums:
    """Computes the weighted distances of given rows.

    Args:
        view: The rows.
        numbers: uint32 (n,): the rows' numbers, in any order; the view must contain all of them.
        query: uint8 (bits/8,).
        weights: uint16 (bits,), in numpy.packbits order.

    Returns:
        The weighted distances, uint32 (n,), in the order of `numbers`.
    """
    words = -(-len(query) // 8)
    sums, query_words = _sums(query, weights, words), _to_words(query, words)
    order = np.argsort(numbers)
    weighted = []
    for position, group in group_by_chunk(view.chunks, numbers[order]):
        chunk = view.chunks[position]
        rows = np.searchsorted(chunk.numbers[: view.rows[position]], group)
        weighted.append(_rank_rows(chunk, rows, query_words, sums)[0])
    result = np.zeros(len(numbers), np.uint32)
    result[order] = np.concatenate([*weighted, np.zeros(0, np.uint32)])
    return result


def warm_up(view: View, bits: int) -> None:
    """Compiles, or loads from the cache, what `scan` and `weigh` need. The view must contain row number 0."""
    query, weights = np.zeros(bits // 8, np.uint8), np.ones(bits, np.uint16)
    scan(view, query, weights, 1)
    weigh(view, np.zeros(1, np.uint32), query, weights)


def _sums(query: Bytes, weights: Weights, words: int) -> Sums:
    """Returns uint32 (words * 8, 256): for each byte of a stored code and each of its values, the total weight of
    the bits in which the query differs."""
    result = np.zeros((words * 8, 256), np.uint32)
    differing = np.arange(256, dtype=np.uint8)[None, :] ^ query[:, None]
    by_byte = weights.reshape(len(query), 8).astype(np.uint32)
    result[: len(query)] = np.einsum("jvb,jb->jv", _BITS_OF_BYTE[differing], by_byte)
    return result


def _to_words(query: Bytes, words: int) -> Words:
    padded = np.zeros(words * 8, np.uint8)
    padded[: len(query)] = query
    return padded.view(np.uint64)


def _rank_all(chunk: Chunk, rows: int, query: Words, sums: Sums) -> tuple[Sums, Distances]:
    weighted, distances = np.zeros(rows, np.uint32), np.zeros(rows, np.uint16)
    _rank_blocks(chunk.codes, query, sums, weighted, distances)
    return weighted, distances


def _rank_rows(chunk: Chunk, rows: npt.NDArray[np.int64], query: Words, sums: Sums) -> tuple[Sums, Distances]:
    weighted, distances = np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint16)
    if len(rows):
        _rank(chunk.codes, rows, query, sums, weighted, distances)
    return weighted, distances


def _live_and_selected(
    chunk: Chunk, epoch: int, selected: SelectedRows, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Returns a mask of the rows that are live at `epoch` and selected."""
    mask = np.ones(len(rows), np.bool_)
    if chunk.dead:
        died = chunk.died[rows]
        mask &= (died == 0) | (died > epoch)
    if selected.bits.size:
        mask &= (selected.bits[rows // LANES] >> (rows % LANES).astype(np.uint64)) & np.uint64(1) == 1
    return mask


@compiled
def _rank(codes, rows, query, sums, weighted, distances):  # type: ignore[no-untyped-def]
    """Adds the weighted and the Hamming distances of the given rows to the output arrays."""
    for at in range(rows.size):
        block, lane = rows[at] // LANES, rows[at] % LANES
        for word in range(codes.shape[1]):
            bits = codes[block, word, lane]
            distances[at] += popcount(bits ^ query[word])
            for byte in range(8):
                weighted[at] += sums[word * 8 + byte, np.int64((bits >> np.uint64(8 * byte)) & np.uint64(255))]


@compiled
def _rank_blocks(codes, query, sums, weighted, distances):  # type: ignore[no-untyped-def]
    """Computes the weighted and the Hamming distances of the first `weighted.size` rows. The lane loop is
    innermost, so that only one table is in use at a time."""
    totals, counts = np.empty(LANES, np.uint32), np.empty(LANES, np.uint64)
    for block in range(-(-weighted.size // LANES)):
        totals[:] = 0
        counts[:] = 0
        for word in range(codes.shape[1]):
            for lane in range(LANES):
                counts[lane] += popcount(codes[block, word, lane] ^ query[word])
            for byte in range(8):
                table, shift = sums[word * 8 + byte], np.uint64(8 * byte)
                for lane in range(LANES):
                    totals[lane] += table[np.int64((codes[block, word, lane] >> shift) & np.uint64(255))]
        first = block * LANES
        for lane in range(min(LANES, weighted.size - first)):
            weighted[first + lane] = totals[lane]
            distances[first + lane] = counts[lane]
