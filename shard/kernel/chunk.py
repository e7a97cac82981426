"""Owns the memory of the codes: chunks of blocks, and which of their rows a filter keeps.

A row is never changed in place: a deletion stamps it with the epoch at which it died. So a scan runs without
locks beside appends and deletions, over one consistent state."""

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
_COMPACT_SHARE = 4
_COMPACT_ROWS = 2_048
# Fewer rows than one in so many are gathered; more are scanned with the rest and cut by a bit per row.
_GATHER_SHARE = 16


def chunk_rows(words: int) -> int:
    """Rows in a full chunk: enough bytes of codes for huge pages."""
    return max(_MIN_CHUNK_ROWS, _MIN_CHUNK_BYTES // (words * 8))


@dataclasses.dataclass(slots=True, eq=False, weakref_slot=True)
class Chunk:
    """Up to `chunk_rows` rows. Numbers rise; `died` is 0 while a row lives, else the epoch of its deletion."""

    codes: Words  # (blocks, words, LANES)
    ids: Ids
    numbers: Numbers
    died: npt.NDArray[np.uint32]
    least_ids: Ids  # of each tile
    rows: int = 0
    dead: int = 0
    buckets: Buckets | None = None

    @classmethod
    def empty(cls, words: int) -> Chunk:
        rows = chunk_rows(words)
        blocks = rows // LANES
        codes, ids, numbers, died = zeros(
            ((blocks, words, LANES), np.dtype(np.uint64)),
            ((rows,), np.dtype(np.uint64)),
            ((rows,), np.dtype(np.uint32)),
            ((rows,), np.dtype(np.uint32)),
        )
        least_ids = np.full(-(-blocks // tile_blocks(words)), np.iinfo(np.uint64).max, np.uint64)
        return cls(codes, ids, numbers, died, least_ids)

    @property
    def arrays(self) -> tuple[Words, Ids, npt.NDArray[np.uint32], Ids]:
        """What a scan reads."""
        return self.codes, self.ids, self.died if self.dead else self.died[:0], self.least_ids

    @property
    def is_full(self) -> bool:
        return self.rows == len(self.ids)

    @property
    def is_crowded(self) -> bool:
        """Whether dead rows take more room than copying the live ones is worth."""
        return self.dead * _COMPACT_SHARE > max(self.rows, _COMPACT_ROWS)

    @property
    def memory_bytes(self) -> int:
        """Of the blocks in use. Deletion stamps are pages that nobody touched until a row dies."""
        words = self.codes.shape[1]
        blocks = -(-self.rows // LANES)
        row_bytes = words * 8 + 8 + 4 + (4 if self.dead else 0)
        buckets = self.buckets.memory_bytes if self.buckets else 0
        return int(blocks * LANES * row_bytes + -(-blocks // tile_blocks(words)) * 8 + buckets)

    def append(self, words: Words, ids: Ids, numbers: Numbers) -> int:
        """Add as many of the rows as there is room for; returns how many."""
        count: int = min(len(words), len(self.ids) - self.rows)
        rows = slice(self.rows, self.rows + count)
        _interleave(words[:count], self.rows, self.codes)
        self.ids[rows] = ids[:count]
        self.numbers[rows] = numbers[:count]
        _lower(self.least_ids, ids[:count], self.rows, tile_blocks(self.codes.shape[1]) * LANES)
        self.rows += count
        return count

    def kill(self, numbers: Numbers, epoch: int) -> int:
        """Stamp the live rows of these sorted numbers; returns how many there were."""
        own = self.numbers[: self.rows]
        rows = np.searchsorted(own, numbers)
        rows = np.unique(rows[rows < self.rows])
        rows = rows[np.isin(own[rows], numbers) & (self.died[rows] == 0)]
        self.died[rows] = epoch
        self.dead += len(rows)
        return len(rows)

    def hash_rows(self) -> None:
        """Make the buckets. The chunk must not grow any more."""
        self.buckets = Buckets.of(self.codes, self.ids, self.died, self.rows)

    def alive(self) -> tuple[Words, Ids, Numbers]:
        """A copy of the rows that live: words (n, words), ids, numbers."""
        rows = np.flatnonzero(self.died[: self.rows] == 0)
        return self.codes[rows // LANES, :, rows % LANES], self.ids[rows], self.numbers[rows]


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A chunk's first `until` rows in a selection: those picked if they are few, else a bit for each. With
    neither, all rows."""

    until: int
    picked: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    bits: Words = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))


EVERYTHING = Kept(0)


class Selection:
    """The rows whose number n has mask[n]; numbers past its end have not. Remembers how they lie in chunks."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self._bits = np.packbits(mask)
        self.end = len(mask)
        self._lock = threading.Lock()
        self._kept: weakref.WeakKeyDictionary[Chunk, Kept] = weakref.WeakKeyDictionary()

    def extended(self, mask: npt.NDArray[np.bool_]) -> Selection:
        """This selection with the numbers from its end on."""
        whole = self.end // 8
        rest = np.unpackbits(self._bits[whole:], count=self.end - whole * 8).view(np.bool_)
        longer = Selection(np.concatenate([rest, mask]))
        longer._bits = np.concatenate([self._bits[:whole], longer._bits])
        longer.end = self.end + len(mask)
        with self._lock:
            longer._kept.update(self._kept)
        return longer

    @property
    def memory_bytes(self) -> int:
        """Of the set of numbers; where they lie in chunks takes no more than that again and a half."""
        return int(self._bits.nbytes)

    def rows(self, chunk: Chunk, rows: int) -> Kept:
        """Which of the chunk's first rows are selected."""
        until = int(np.searchsorted(chunk.numbers[:rows], self.end))
        with self._lock:
            kept = self._kept.get(chunk)
            if kept is None or kept.until < until:
                kept = self._kept[chunk] = self._lay_out(chunk, until)
        return kept

    def _lay_out(self, chunk: Chunk, until: int) -> Kept:
        numbers = chunk.numbers[:until]
        picked = np.zeros(len(chunk.ids), np.bool_)
        if until:
            first, last = int(numbers[0]) // 8, int(numbers[-1]) // 8 + 1
            picked[:until] = np.unpackbits(self._bits[first:last]).view(np.bool_)[numbers - np.uint32(first * 8)]
        if 0 < np.count_nonzero(picked) * _GATHER_SHARE < until:
            return Kept(until, picked=np.flatnonzero(picked).astype(np.int32))
        return Kept(until, bits=np.packbits(picked, bitorder="little").view(np.uint64))


@compiled
def _interleave(words, first, codes):  # type: ignore[no-untyped-def]
    """Write rows of words to the lanes from row `first` on."""
    for row in range(words.shape[0]):
        block, lane = divmod(first + row, codes.shape[2])
        for word in range(words.shape[1]):
            codes[block, word, lane] = words[row, word]


@compiled
def _lower(least_ids, ids, first, tile_rows):  # type: ignore[no-untyped-def]
    for row in range(ids.shape[0]):
        tile = (first + row) // tile_rows
        least_ids[tile] = min(least_ids[tile], ids[row])
