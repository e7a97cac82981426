"""Owns weighted Hamming distance: each differing bit counts by the query's weight for it. With a query's
projections as weights that is the asymmetric distance of a float query to binary codes (Gordo et al., TPAMI 2014).

A query becomes one table of 256 sums per byte of a code, so a row costs a look-up per byte. Sums are whole
numbers: exact in any order, on any machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import Chunk, Kept, Numbers, Selection, Words
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
    """One query's rows, ordered by (weighted, id); where that ends at k, all that are equal to the last in
    both."""

    weighted: Sums  # (n,)
    distances: Distances  # (n,): plain Hamming
    ids: Ids  # (n,)
    numbers: Numbers  # (n,)

    def joined(self, other: WeightedMatches, k: int) -> WeightedMatches:
        """The first k of both, and what is equal to the last of them."""
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
    selection: Selection | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> WeightedMatches:
    """The k nearest rows by weighted distance, within `max_distance` plain bits, among the selected rows.
    query: uint8 (bits/8,); weights: uint16 (bits,), in the order of numpy.packbits. Raises ScanStopped."""
    words = -(-len(query) // 8)
    sums, query_words = _sums(query, weights, words), _to_words(query, words)
    best = WeightedMatches(
        np.zeros(0, np.uint32), np.zeros(0, np.uint16), np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    )
    for chunk, rows in zip(view.chunks, view.rows, strict=True):
        if should_stop():
            raise ScanStopped
        kept = None if selection is None else selection.rows(chunk, rows)
        found, weighted, distances = _rank_chunk(chunk, rows, view.epoch, kept, query_words, sums)
        near = np.ones(len(found), np.bool_) if max_distance is None else distances <= max_distance
        if len(best.ids) >= k:
            near &= weighted <= best.weighted[-1]
        elif np.count_nonzero(near) > k:
            near &= weighted <= np.partition(weighted[near], k - 1)[k - 1]
        found = found[near]
        best = best.joined(
            WeightedMatches(weighted[near], distances[near], chunk.ids[found], chunk.numbers[found]), k
        )
    return best


def weigh(view: View, numbers: Numbers, query: Bytes, weights: Weights) -> Sums:
    """The weighted distances of rows that the view has. numbers: uint32 (n,), in any order. Returns uint32
    (n,)."""
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
    """Compile, or load from the cache, what `scan` and `weigh` need. The view must have row number 0."""
    query, weights = np.zeros(bits // 8, np.uint8), np.ones(bits, np.uint16)
    scan(view, query, weights, 1)
    weigh(view, np.zeros(1, np.uint32), query, weights)


def _sums(query: Bytes, weights: Weights, words: int) -> Sums:
    """uint32 (words * 8, 256): for each byte of a stored code and each value of it, the weights of the bits in
    which the query differs."""
    result = np.zeros((words * 8, 256), np.uint32)
    differing = np.arange(256, dtype=np.uint8)[None, :] ^ query[:, None]
    by_byte = weights.reshape(len(query), 8).astype(np.uint32)
    result[: len(query)] = np.einsum("jvb,jb->jv", _BITS_OF_BYTE[differing], by_byte)
    return result


def _to_words(query: Bytes, words: int) -> Words:
    padded = np.zeros(words * 8, np.uint8)
    padded[: len(query)] = query
    return padded.view(np.uint64)


def _rank_chunk(
    chunk: Chunk, rows: int, epoch: int, kept: Kept | None, query: Words, sums: Sums
) -> tuple[npt.NDArray[np.int64], Sums, Distances]:
    """Those of the chunk's first rows that live at `epoch` and are kept (None: all), with their distances."""
    if kept is not None and kept.picked.size:
        found = kept.picked[kept.picked < rows].astype(np.int64)
        found = found[_live(chunk, epoch, found)]
        return found, *_rank_rows(chunk, found, query, sums)
    found = np.arange(rows)
    if kept is not None:
        found = found[np.unpackbits(kept.bits.view(np.uint8), bitorder="little")[:rows].view(np.bool_)]
    found = found[_live(chunk, epoch, found)]
    weighted, distances = np.zeros(rows, np.uint32), np.zeros(rows, np.uint16)
    _rank(chunk.codes, np.zeros(0, np.int64), query, sums, weighted, distances)
    return found, weighted[found], distances[found]


def _rank_rows(chunk: Chunk, rows: npt.NDArray[np.int64], query: Words, sums: Sums) -> tuple[Sums, Distances]:
    weighted, distances = np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint16)
    if len(rows):
        _rank(chunk.codes, rows, query, sums, weighted, distances)
    return weighted, distances


def _live(chunk: Chunk, epoch: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    if not chunk.dead:
        return np.ones(len(rows), np.bool_)
    died = chunk.died[rows]
    live: npt.NDArray[np.bool_] = (died == 0) | (died > epoch)
    return live


@compiled
def _rank(codes, picked, query, sums, weighted, distances):  # type: ignore[no-untyped-def]
    """Both distances of the picked rows, or of the first ones, as many as the results have room for."""
    for at in range(weighted.size):
        row = picked[at] if picked.size else at
        block, lane = row // LANES, row % LANES
        total = np.uint32(0)
        count = np.uint64(0)
        for word in range(codes.shape[1]):
            bits = codes[block, word, lane]
            count += popcount(bits ^ query[word])
            for byte in range(8):
                total += sums[word * 8 + byte, np.int64((bits >> np.uint64(8 * byte)) & np.uint64(255))]
        weighted[at] = total
        distances[at] = count
