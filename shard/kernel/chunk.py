"""Owns the memory of the codes: chunks of blocks, and which rows of a chunk a filter selects.

A row is never changed in place: a deletion stamps it with the epoch of the change. So a scan runs without locks,
concurrently with appends and deletions, over one consistent state."""

from __future__ import annotations

import dataclasses
import threading
import weakref

import numpy as np
import numpy.typing as npt

from shard.kernel.heaps import Ids
from shard.kernel.jit import compiled
from shard.kernel.memory import zeros
from shard.kernel.mih import Buckets
from shard.kernel.scan import tile_blocks
from shard.kernel.simd import LANES

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

_MIN_CHUNK_BYTES = 4 << 20
_MIN_CHUNK_ROWS = 1 << 18
# A collection's first chunk starts small and grows, so that many small collections take little memory.
_FIRST_ROWS = 1_024
_COMPACT_SHARE = 4
_COMPACT_ROWS = 2_048
# If a filter selects fewer than 1 row in 16, those rows are gathered; otherwise all rows are scanned and masked.
_GATHER_SHARE = 16


def chunk_rows(words: int) -> int:
    """Returns the number of rows of a full chunk, whose codes take enough bytes for huge pages."""
    return max(_MIN_CHUNK_ROWS, _MIN_CHUNK_BYTES // (words * 8))


@dataclasses.dataclass(slots=True, eq=False, weakref_slot=True)
class Chunk:
    """Up to `chunk_rows` rows; the arrays have room for n of them.

    Attributes:
        codes: uint64 (blocks, words, LANES).
        ids: uint64 (n,).
        numbers: uint32 (n,), strictly increasing.
        died: uint32 (n,): 0 while the row is live, else the epoch of its deletion.
        min_ids: uint64 (tiles,): the smallest id in each tile.
        rows: The number of rows in use, deleted ones included.
        dead: The number of deleted rows.
        buckets: The multi-index hashing tables of a full chunk.
    """

    codes: Words
    ids: Ids
    numbers: Numbers
    died: npt.NDArray[np.uint32]
    min_ids: Ids
    rows: int = 0
    dead: int = 0
    buckets: Buckets | None = None
    _addresses: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        arrays = (self.codes, self.ids, self.min_ids, self.numbers, self.died)
        self._addresses = tuple(array.ctypes.data for array in arrays)

    @classmethod
    def empty(cls, words: int, rows: int | None = None) -> Chunk:
        """Returns a chunk with room for `rows` rows, by default as many as a chunk can have."""
        rows = chunk_rows(words) if rows is None else rows
        blocks = rows // LANES
        codes, ids, numbers, died = zeros(
            ((blocks, words, LANES), np.dtype(np.uint64)),
            ((rows,), np.dtype(np.uint64)),
            ((rows,), np.dtype(np.uint32)),
            ((rows,), np.dtype(np.uint32)),
        )
        min_ids = np.full(-(-blocks // tile_blocks(words)), np.iinfo(np.uint64).max, np.uint64)
        return cls(codes, ids, numbers, died, min_ids)

    @property
    def arrays(self) -> tuple[Words, Ids, npt.NDArray[np.uint32], Ids]:
        """The arrays that `scan_chunk` reads. `died` is empty if no row is deleted."""
        return self.codes, self.ids, self.died if self.dead else self.died[:0], self.min_ids

    @property
    def entry(self) -> tuple[int, ...]:
        """The chunk's row in a view's `table`, in the order of the columns that `shard.kernel.scan` names."""
        return *self._addresses, len(self.codes), self.rows, self.dead

    @property
    def is_full(self) -> bool:
        """Whether the chunk has all the rows that it can have."""
        return self.rows == chunk_rows(self.codes.shape[1])

    def with_room(self, rows: int) -> Chunk:
        """Returns this chunk if it has room for more rows, else a larger copy of it.

        Args:
            rows: How many rows will be appended.
        """
        if self.rows < len(self.ids):
            return self
        words = self.codes.shape[1]
        size = _FIRST_ROWS
        while size < max(2 * self.rows, self.rows + rows):
            size *= 2
        larger = Chunk.empty(words, min(size, chunk_rows(words)))
        for name in ("codes", "ids", "numbers", "died", "min_ids"):
            array = getattr(self, name)
            getattr(larger, name)[: len(array)] = array
        larger.rows, larger.dead = self.rows, self.dead
        return larger

    @property
    def needs_compaction(self) -> bool:
        """Whether enough rows are dead to justify copying the live ones."""
        return self.dead * _COMPACT_SHARE > max(self.rows, _COMPACT_ROWS)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the blocks in use."""
        words = self.codes.shape[1]
        blocks = -(-self.rows // LANES)
        row_bytes = words * 8 + 8 + 4 + 4
        buckets = self.buckets.memory_bytes if self.buckets else 0
        return int(blocks * LANES * row_bytes + -(-blocks // tile_blocks(words)) * 8 + buckets)

    def append(self, words: Words, ids: Ids, numbers: Numbers) -> int:
        """Appends as many of the rows as fit.

        Args:
            words: uint64 (n, words).
            ids: uint64 (n,).
            numbers: uint32 (n,), strictly increasing and above those in the chunk.

        Returns:
            The number of rows appended.
        """
        count: int = min(len(words), len(self.ids) - self.rows)
        rows = slice(self.rows, self.rows + count)
        _interleave(words[:count], self.rows, self.codes)
        self.ids[rows] = ids[:count]
        self.numbers[rows] = numbers[:count]
        _update_min_ids(self.min_ids, ids[:count], self.rows, tile_blocks(self.codes.shape[1]) * LANES)
        self.rows += count
        return count

    def kill(self, numbers: Numbers, epoch: int) -> int:
        """Marks the live rows among these sorted numbers as deleted at `epoch`; returns how many there were."""
        own = self.numbers[: self.rows]
        rows = np.searchsorted(own, numbers)
        rows = np.unique(rows[rows < self.rows])
        rows = rows[np.isin(own[rows], numbers) & (self.died[rows] == 0)]
        self.died[rows] = epoch
        self.dead += len(rows)
        return len(rows)

    def hash_rows(self) -> None:
        """Builds the multi-index hashing buckets. The chunk must be full."""
        self.buckets = Buckets.of(self.codes, self.ids, self.died, self.rows)

    def alive(self) -> tuple[Words, Ids, Numbers]:
        """Returns copies of the live rows: words (n, words), ids (n,), numbers (n,)."""
        rows = np.flatnonzero(self.died[: self.rows] == 0)
        return self.codes[rows // LANES, :, rows % LANES], self.ids[rows], self.numbers[rows]


@dataclasses.dataclass(frozen=True, slots=True)
class SelectedRows:
    """The selected rows among the first `until` rows of a chunk. If both arrays are empty, all rows are selected.

    Attributes:
        until: The number of rows that were considered; later rows are not selected.
        picked: int32 (n,): the rows, in increasing order, if they are few.
        bits: uint64 (blocks,): one bit per row otherwise.
    """

    until: int
    picked: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    bits: Words = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))


ALL_ROWS = SelectedRows(0)


class Selection:
    """The rows that a filter selects: row number n if mask[n]. Row numbers from `end` on are not selected.

    The layout of the selection in each chunk is computed once and cached."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self._bits = np.packbits(mask)
        self.end = len(mask)
        self._lock = threading.Lock()
        self._by_chunk: weakref.WeakKeyDictionary[Chunk, SelectedRows] = weakref.WeakKeyDictionary()

    def extended(self, mask: npt.NDArray[np.bool_]) -> Selection:
        """Returns this selection followed by `mask` for the numbers from `end` on."""
        whole = self.end // 8
        rest = np.unpackbits(self._bits[whole:], count=self.end - whole * 8).view(np.bool_)
        longer = Selection(np.concatenate([rest, mask]))
        longer._bits = np.concatenate([self._bits[:whole], longer._bits])
        longer.end = self.end + len(mask)
        with self._lock:
            longer._by_chunk.update(self._by_chunk)
        return longer

    @property
    def memory_bytes(self) -> int:
        """Bytes of the set of numbers. The cached layouts take at most 1.5 times as much in addition."""
        return int(self._bits.nbytes)

    def rows(self, chunk: Chunk, rows: int) -> SelectedRows:
        """Returns the selected rows among the chunk's first `rows` rows."""
        until = int(np.searchsorted(chunk.numbers[:rows], self.end))
        with self._lock:
            selected = self._by_chunk.get(chunk)
            if selected is None or selected.until < until:
                selected = self._by_chunk[chunk] = self._select_rows(chunk, until)
        return selected

    def _select_rows(self, chunk: Chunk, until: int) -> SelectedRows:
        numbers = chunk.numbers[:until]
        picked = np.zeros(len(chunk.ids), np.bool_)
        if until:
            first, last = int(numbers[0]) // 8, int(numbers[-1]) // 8 + 1
            picked[:until] = np.unpackbits(self._bits[first:last]).view(np.bool_)[numbers - np.uint32(first * 8)]
        if 0 < np.count_nonzero(picked) * _GATHER_SHARE < until:
            return SelectedRows(until, picked=np.flatnonzero(picked).astype(np.int32))
        return SelectedRows(until, bits=np.packbits(picked, bitorder="little").view(np.uint64))


@compiled
def _interleave(words, first, codes):  # type: ignore[no-untyped-def]
    """Writes rows of words to the lanes from row `first` on."""
    for row in range(words.shape[0]):
        block, lane = divmod(first + row, codes.shape[2])
        for word in range(words.shape[1]):
            codes[block, word, lane] = words[row, word]


@compiled
def _update_min_ids(min_ids, ids, first, tile_rows):  # type: ignore[no-untyped-def]
    for row in range(ids.shape[0]):
        tile = (first + row) // tile_rows
        min_ids[tile] = min(min_ids[tile], ids[row])
