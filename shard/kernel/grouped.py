"""Owns nearest-row search by groups: the nearest row of each group, and the nearest rows of some groups. Both take
one pass over the rows, however the groups are spread over the distances.

Pairs assign rows to groups: row number pairs.numbers[i] is in group pairs.groups[i]. A row may be in several
groups, or in none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from shard.kernel.chunk import Chunk, Numbers, Selection, Words, chunk_rows
from shard.kernel.heaps import Distances, Heaps, Ids, offer, row_addresses
from shard.kernel.jit import compiled
from shard.kernel.search import Matches, matches_of
from shard.kernel.simd import LANES, popcount
from shard.kernel.view import ScanStopped, View, masks

_NOT_WANTED = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """Which groups rows are in.

    Attributes:
        numbers: uint32 (n,): row numbers, ascending.
        groups: int32 (n,): each row's group.
        count: The number of groups.
    """

    numbers: Numbers
    groups: npt.NDArray[np.int32]
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """The rows to search, and what to compare them with.

    Attributes:
        view: The rows.
        selection: The rows to consider; None for all.
        excluded: uint32 (n,): numbers of rows to leave out, ascending.
        query: uint64 (words,).
        limit: The largest distance of a row, in bits.
        should_stop: Polled before each chunk.
    """

    view: View
    selection: Selection | None
    excluded: Numbers
    query: Words
    limit: int
    should_stop: Callable[[], bool]

    @classmethod
    def of(
        cls,
        view: View,
        selection: Selection | None,
        excluded: Numbers,
        code: bytes,
        max_distance: int | None,
        should_stop: Callable[[], bool],
    ) -> Rows:
        """See the attributes. code: bits/8 bytes. max_distance: None for no limit."""
        words = np.frombuffer(code.ljust(-(-len(code) // 8) * 8, b"\0"), np.uint64)
        limit = 8 * len(code) if max_distance is None else min(8 * len(code), max_distance)
        return cls(view, selection, excluded, words, limit, should_stop)

    def chunks(self) -> Iterator[tuple[Chunk, int, npt.NDArray[np.bool_]]]:
        """Yields each chunk, the place of its first row (see `heaps`), and a mask of the rows to search.

        Raises:
            ScanStopped: If `should_stop` returned True.
        """
        for position, (chunk, mask) in enumerate(masks(self.view, self.selection)):
            if self.should_stop():
                raise ScanStopped
            if len(self.excluded):
                mask &= ~np.isin(chunk.numbers[: len(mask)], self.excluded)
            yield chunk, position * chunk_rows(len(self.query)), mask


def nearest_groups(rows: Rows, pairs: Pairs) -> tuple[npt.NDArray[np.int32], Distances, Ids]:
    """Finds the groups that have rows.

    Returns:
        The groups, int32 (n,), and the distance, uint16 (n,), and the id, uint64 (n,), of each group's nearest row
        by (distance, id); ordered by these.
    """
    heaps = _nearest(rows, pairs, np.arange(pairs.count, dtype=np.int32), 1)
    found = np.flatnonzero(heaps.counts).astype(np.int32)
    distances, ids = heaps.distances[found, 0], heaps.ids[found, 0]
    order = np.lexsort((ids, distances))
    return found[order], distances[order], ids[order]


def members(rows: Rows, pairs: Pairs, groups: npt.NDArray[np.int32], k: int) -> Matches:
    """Finds the k nearest rows of each of these groups, int32 (n,). The groups are the queries of the result."""
    wanted = np.full(pairs.count, _NOT_WANTED, np.int32)
    wanted[groups] = np.arange(len(groups), dtype=np.int32)
    heaps = _nearest(rows, pairs, wanted, k, len(groups))
    return matches_of(rows.view, heaps, len(rows.query))


def warm_up(view: View, bits: int) -> None:
    """Compiles, or loads from the cache, what this module needs. The view must contain row number 0."""
    rows = Rows.of(view, None, np.zeros(0, np.uint32), bytes(bits // 8), None, lambda: False)
    nearest_groups(rows, Pairs(np.zeros(1, np.uint32), np.zeros(1, np.int32), 1))


def _nearest(rows: Rows, pairs: Pairs, wanted: npt.NDArray[np.int32], k: int, count: int | None = None) -> Heaps:
    """The k nearest rows of each heap. wanted: each group's heap, or _NOT_WANTED."""
    heaps = Heaps.empty(pairs.count if count is None else count, k)
    at = 0
    for chunk, place, mask in rows.chunks():
        at = _offer_rows(
            chunk.codes, chunk.ids, chunk.numbers, mask, pairs.numbers, pairs.groups, at, wanted,
            rows.query, np.uint64(rows.limit), np.uint64(place), heaps.arrays,
        )  # fmt: skip
    return heaps


@compiled
def _offer_rows(  # type: ignore[no-untyped-def]
    codes, ids, numbers, mask, pair_numbers, pair_groups, at, wanted, query, limit, place, heaps
):
    """Offers the rows of one chunk to the heaps of their groups. at: the pair to start from. Returns the pair to
    start the next chunk from."""
    counts, keys, rests = heaps
    k, keys_at, rests_at = row_addresses(keys, rests, 0)
    row_bytes = np.uint64(k * 8)
    pairs = pair_numbers.size
    for row in range(mask.size):
        while at < pairs and pair_numbers[at] < numbers[row]:
            at += 1
        if at == pairs:
            break
        if pair_numbers[at] != numbers[row] or not mask[row]:
            continue
        distance, is_known = np.uint64(0), False
        while at < pairs and pair_numbers[at] == numbers[row]:
            heap = wanted[pair_groups[at]]
            at += 1
            if heap == _NOT_WANTED:
                continue
            if not is_known:
                is_known = True
                for word in range(query.size):
                    distance += popcount(codes[row // LANES, word, row % LANES] ^ query[word])
            if distance > limit:
                continue
            offset = np.uint64(heap) * row_bytes
            counts[heap] = offer(
                keys_at + offset, rests_at + offset, counts[heap], k, distance, ids[row], place + np.uint64(row)
            )
    return at
